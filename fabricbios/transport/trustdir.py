"""The trust directories: who is pinned, certified, approved; one SPKI PEM a key (D3).

DIR/peers, DIR/controllers and DIR/approved are the admin's; what a claim taught the node is in
LEARNED/peers. A file that cannot be read, or that others could have written, trusts nobody, and is
named: the store then lets nobody claim the node in the place of whoever it was to trust.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fabricbios.errors import ConfigError
from fabricbios.model import hex128, id_of_key
from fabricbios.ports import TrustedKeys
from fabricbios.transport import writers
from fabricbios.transport.files import remove, replace

PEERS, CONTROLLERS, APPROVED = "peers", "controllers", "approved"
LEARNED = "trust.d"  # in a node's state directory
MAX_KEYS = 65_536  # a directory
MAX_FILE = 4096
_HEX_KEY = 64
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def load(admin: Path, learned: Path | None = None, user: int | None = None) -> TrustedKeys:
    """Read both directories; what is missing is empty, what is broken is named in `broken`.

    Broken is also what anybody but root and `user` (us) could have written: a file, its folder, the directory.
    OSError where it is we who cannot look just now (no descriptors, no memory): nothing is said of the files then.
    """
    reading = _Reading(user)
    return TrustedKeys(
        peers=reading.keys(admin, PEERS),
        learned=reading.keys(learned, PEERS) if learned else {},
        controllers=reading.keys(admin, CONTROLLERS),
        approved=reading.keys(admin, APPROVED),
        broken=tuple(dict.fromkeys(reading.broken)),
    )


def save(directory: Path, kind: str, public_key: bytes) -> Path:
    """Write a key into DIR/KIND, whole or not at all, durable, 0600; return its file. OSError as it comes."""
    folder = directory / kind
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)  # whatever the umask: nobody else may write there
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{hex128(id_of_key(public_key))}.pem"
    replace(path, to_pem(public_key))
    return path


def forget(directory: Path, kind: str, node_id: int) -> list[Path]:
    """Remove the files of DIR/KIND that hold this id's key, whatever they are called, durably; return them."""
    found = [p for p in _pem_files(directory / kind) if _holds(p, node_id)]
    for path in found:
        remove(path)
    return found


def to_pem(public_key: bytes) -> bytes:
    """Return the SPKI PEM of a raw 32-byte key."""
    key = Ed25519PublicKey.from_public_bytes(public_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def from_pem(data: bytes) -> bytes:
    """Return the raw key of an SPKI PEM; ValueError says what is wrong with it."""
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def read_key(text: str) -> bytes:
    """Return the raw key that people name by a PEM file, its text, or 64 hex digits. ConfigError else."""
    word = text.strip().removeprefix("0x")
    if len(word) == _HEX_KEY and all(c in "0123456789abcdefABCDEF" for c in word):
        return bytes.fromhex(word)
    try:
        return from_pem(text.encode() if "BEGIN" in text else _read(Path(text)))
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"{text.splitlines()[0]}: {why}: name a PEM file, or a public key's 64 hex digits") from None


class _Reading:
    """One look at the directories, on behalf of `user`; `broken` collects what was refused and why."""

    def __init__(self, user: int | None) -> None:
        self._user = user
        self.broken: list[str] = []

    def keys(self, directory: Path, kind: str) -> dict[int, bytes]:
        """Return the keys of DIR/KIND by id."""
        folder = directory / kind
        try:
            for path in (directory, folder):
                _refuse(path, writers.directory_objection(path, self._user))
            paths = _pem_files(folder)
        except OSError as error:
            _raise_if_exhausted(error)
            self.broken.append(f"{error.filename or folder}: {error.strerror}")
            return {}
        found = (self._key(path) for path in paths)
        return {id_of_key(key): key for key in found if key is not None}

    def _key(self, path: Path) -> bytes | None:
        try:
            if path.is_symlink():
                real = Path(os.path.realpath(path)).parent
                _refuse(real, writers.directory_objection(real, self._user))
            return from_pem(_read(path, self._user, checked=True))
        except (OSError, ValueError) as error:
            _raise_if_exhausted(error)
            self.broken.append(f"{path}: {(error.strerror if isinstance(error, OSError) else None) or error}")
            return None


def _raise_if_exhausted(error: OSError | ValueError) -> None:
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        raise error


def _refuse(path: Path, objection: str) -> None:
    if objection:
        raise PermissionError(errno.EACCES, objection, str(path))


def _pem_files(folder: Path) -> list[Path]:
    """Return the *.pem of a folder, none where there is no folder; OSError where it cannot be looked into."""
    try:
        names = sorted(n for n in os.listdir(folder) if n.endswith(".pem") and not n.startswith("."))
    except FileNotFoundError:
        return []
    if len(names) > MAX_KEYS:
        raise OSError(f"more than {MAX_KEYS} files")
    return [folder / name for name in names]


def _read(path: Path, user: int | None = None, checked: bool = False) -> bytes:
    """Return a small file's bytes; where `checked`, only of one that nobody but root and `user` could have written."""
    if not path.is_file():
        raise OSError("not a file" if path.exists() else "no such file")
    with path.open("rb") as file:
        if checked:
            _refuse(path, writers.objection(path, os.fstat(file.fileno()), user))
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ValueError(f"longer than {MAX_FILE} bytes")
    return data


def _holds(path: Path, node_id: int) -> bool:
    try:
        return id_of_key(from_pem(_read(path))) == node_id
    except (OSError, ValueError):
        return False
