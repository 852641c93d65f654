"""Who we are: one Ed25519 key in one private file, and the X.509 made from it on demand (D3).

The X.509 is never stored: it is made from the key when asked for and remade when it nears its end,
so a daemon that runs for years and one that was switched off for years both show a good one.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fabricbios.errors import ConfigError
from fabricbios.model import id_of_key
from fabricbios.transport import certificate as shell
from fabricbios.transport import writers
from fabricbios.transport.files import write_new

KEY_FILE, CERTIFICATE_FILE = "node.key", "node.cert"
RENEW_DAYS = 30
MAX_FILE = 16_384


class Identity:
    """An Ed25519 key. `certificate` is the fabricBIOS Certificate (wire bytes) shown with it, or b""."""

    def __init__(self, private_key: Ed25519PrivateKey, certificate: bytes = b"") -> None:
        self.private_key: Final = private_key
        self.public_key: Final = shell.raw_key(private_key.public_key())
        self.node_id: Final = id_of_key(self.public_key)
        self.certificate = certificate
        self._x509: x509.Certificate | None = None
        self._shown = certificate

    @classmethod
    def generate(cls) -> Identity:
        """Return a new identity that nothing has stored."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Identity:
        """Read DIR/node.key, or the credential of that name that systemd passed (LoadCredential).

        Raises FileNotFoundError without a key, ConfigError for one that others may read or replace, or that is none.
        """
        credential = _credential(KEY_FILE)
        path = credential or Path(directory) / KEY_FILE
        if credential is None:
            _refuse_readable(path)
            _refuse_changeable(path.parent)
        return cls(_parse(path), _certificate_beside(Path(directory)))

    @classmethod
    def load_or_create(cls, directory: str | os.PathLike[str]) -> Identity:
        """As `load`; without a key make DIR (0700) and a key in it (0600), whole or not at all."""
        try:
            return cls.load(directory)
        except FileNotFoundError:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            write_new(Path(directory) / KEY_FILE, _pem(Ed25519PrivateKey.generate()))
            return cls.load(directory)  # another process may have been first: its key is the one

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over `message`."""
        return self.private_key.sign(message)

    def x509(self, unix: int | None = None) -> x509.Certificate:
        """Return the certificate to show at `unix` (now); a new one near its end, before its time (a clock that was
        wrong was put right), or for a new Certificate."""
        now = int(time.time()) if unix is None else unix
        held = self._x509
        if held is None or self._shown != self.certificate or not shell.holds(held, now, RENEW_DAYS):
            held = self._x509 = shell.make(self.private_key, now, self.certificate)
            self._shown = self.certificate
        return held

    def public_pem(self) -> bytes:
        """Return the SPKI PEM that goes into another node's trust.d/peers (D3)."""
        return self.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _credential(name: str) -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, name) if directory else None
    return path if path is not None and path.exists() else None


def _refuse_readable(path: Path) -> None:
    """systemd's credentials are exempt: their ACL mask shows as group bits."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file")
    if status.st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {status.st_mode & 0o777:04o}): chmod 600 {path}")
    if why := writers.objection(path, status):
        raise ConfigError(f"{path} {why}")


def _refuse_changeable(directory: Path) -> None:
    if why := writers.directory_objection(directory):
        raise ConfigError(f"{directory} {why}")


def _parse(path: Path) -> Ed25519PrivateKey:
    remedy = "restore it from a backup, or move it away to get a new identity"
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no private key without a password ({error}): {remedy}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key: {remedy}")
    return key


def _certificate_beside(directory: Path) -> bytes:
    try:
        return _read(directory / CERTIFICATE_FILE)
    except FileNotFoundError:
        return b""


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path} is longer than {MAX_FILE} bytes: not one of ours")
    return data


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
