"""Which key each node showed at first sight (trust on first use, D3), kept in a file of the client's identity.

One line a node: `HOST:PORT HEXKEY`. A key that changed is never taken by itself: a person says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fabricbios.errors import ConfigError
from fabricbios.transport.files import replace

FILE = "known_nodes"
MAX_NODES = 65_536
_KEY_DIGITS = 64


class KnownNodes:
    """The pins of one client. Without a path they live as long as the object."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._keys = _read(path) if path else {}

    def get(self, host: str, port: int) -> bytes | None:
        """Return the raw key pinned for this address."""
        return self._keys.get(_name(host, port))

    def pin(self, host: str, port: int, public_key: bytes) -> None:
        """Remember a key for good. Raises OSError when the file cannot be written."""
        if self.path:
            self._keys = _read(self.path)  # another client of the same identity may have learned some
        self._keys[_name(host, port)] = public_key
        self._write()

    def forget(self, host: str, port: int) -> bool:
        """Drop a pin, so that the next key is taken; False if there was none."""
        known = self._keys.pop(_name(host, port), None) is not None
        if known:
            self._write()
        return known

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._keys.items())

    def _write(self) -> None:
        if len(self._keys) > MAX_NODES:
            raise ConfigError(f"more than {MAX_NODES} known nodes: forget some")
        if self.path:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(self.path, "".join(f"{n} {k.hex()}\n" for n, k in sorted(self._keys.items())).encode())


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip())


def _parse(path: Path, number: int, line: str) -> tuple[str, bytes]:
    name, _, digits = line.strip().partition(" ")
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if 2 * len(key) != _KEY_DIGITS:
        raise ConfigError(f"{path} line {number} is no `HOST:PORT KEY`: correct or delete the line")
    return name, key
