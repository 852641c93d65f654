"""Which store stood at which path of `block = [...]`: by this a missing disk is told from a wrong path or another disk.

One JSON file in the state directory, replaced atomically. It is written when a store is taken for the first time, and
holds what the rest of the daemon has to know of a store that it cannot open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fabricbios.daemon.statedir import StateDir
from fabricbios.errors import ConfigError
from fabricbios.hw.standing import Standing, is_same

BOOK = "stores"  # in the state directory
_SCHEMA = "fabricbios.stores/1"


class Known(NamedTuple):
    """A store as it was taken: what `hw.backing.Backing` calls so. `size` is in bytes."""

    name: str
    identity: bytes
    size: int
    is_device: bool
    generation: int = 0


class StoreBook:
    """By the path of the setting. ConfigError where the file cannot be read for what it is, OSError."""

    def __init__(self, state_dir: Path) -> None:
        self._state = StateDir(state_dir)
        self._known = _parsed(self._state.read(BOOK), state_dir / BOOK)

    def at(self, path: str) -> Known | None:
        """Return what stood there last."""
        return self._known.get(path)

    def has(self, found: Standing) -> bool:
        """Say whether it stood at any of the paths: kernel names go round."""
        known = ((k.identity, k.generation) for k in self._known.values())
        return any(is_same((found.identity, found.generation), one) for one in known)

    def missing(self, path: str, found: Mapping[bytes, str]) -> Known | None:
        """Return what is missing, where nothing stands at `path`; None if nothing ever did.

        `found` are the stores that are there, identity -> path. Kernel names move up when a disk is missing: if
        what stood at /dev/sdc is at /dev/sdb today, then it is what stood at /dev/sdb that is missing.
        """
        known, seen = self.at(path), {path}
        while known is not None and known.identity in found:
            path = found[known.identity]
            known = None if path in seen else self.at(path)
            seen.add(path)
        return known

    def keep(self, stores: Mapping[str, Known]) -> None:
        """Remember these, by path, and no others. OSError."""
        if stores != self._known:
            rows = {path: {**known._asdict(), "identity": known.identity.hex()} for path, known in stores.items()}
            self._state.write(BOOK, json.dumps({"schema": _SCHEMA, "stores": rows}, indent=1).encode() + b"\n")
            self._known = dict(stores)


def _parsed(data: bytes | None, where: Path) -> dict[str, Known]:
    if data is None:
        return {}
    try:
        document = json.loads(data)
        if document["schema"] != _SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        return {path: _known(row) for path, row in document["stores"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        remedy = "remove it, and what stands at the paths of `block` today is taken for what stood there"
        raise ConfigError(f"{where}: damaged ({error}): {remedy}") from error


def _known(row: Mapping[str, object]) -> Known:
    name, identity, size, is_device, generation = (row[field] for field in Known._fields)
    if not (isinstance(name, str) and isinstance(size, int) and size > 0 and isinstance(is_device, bool)):
        raise ValueError(f"no store: {row}")
    return Known(name, bytes.fromhex(str(identity)), size, is_device, int(str(generation)))
