"""Inputs: golden vectors to begin with, and what fuzzing found beyond them, one small archive a target.

Archives are the same bytes for the same inputs: sorted, without dates, named by their content.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from vectors.golden import FAMILIES, family

KEPT = Path(__file__).parent / "corpus"
LONGEST = 4096  # of an input: every rule of the wire can be broken in less
_EPOCH = (1980, 1, 1, 0, 0, 0)


def golden(*types: str) -> Iterator[bytes]:
    """Yield the bytes of all vectors of these types, valid and invalid, that are not too long."""
    for name in FAMILIES:
        for case in (*family(name)["cases"], *family(name)["invalid"]):
            if case["type"] in types and len(case["hex"]) <= 2 * LONGEST:
                yield bytes.fromhex(case["hex"])


def kept(target: str) -> list[bytes]:
    """Return what was found worth keeping."""
    path = KEPT / f"{target}.zip"
    if not path.exists():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def keep(target: str, inputs: Iterable[bytes]) -> int:
    """Replace a target's archive; return how many inputs it has."""
    path, named = KEPT / f"{target}.zip", {_name(data): data for data in inputs}
    if not named:
        path.unlink(missing_ok=True)
        return 0
    KEPT.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(named):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), named[name], zipfile.ZIP_DEFLATED)
    return len(named)


def write_out(directory: Path, inputs: Iterable[bytes]) -> None:
    """Lay inputs out as the fuzzer wants them: a file each."""
    directory.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (directory / _name(data)).write_bytes(data)


def read_in(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()]


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
