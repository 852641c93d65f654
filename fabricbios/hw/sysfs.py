"""A read-only window on /sys, /proc and /dev below a root of the caller's choosing.

Every reader of hardware facts goes through here, so that one place decides what a missing, unreadable,
malformed or disappearing file means: one fact fewer. What exists but would not be read is kept in
`unreadable`, so that the inventory can say so instead of looking complete.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

MAX_FILE = 1 << 20  # /proc/cpuinfo of 512 threads is 700 KiB; nothing we read is larger
MAX_ENTRIES = 65_536  # in one directory
MAX_UNREADABLE = 256
MAX_INDEX = 65_536  # the largest CPU, node or memory-block number that a list may name

# ENXIO, ENODEV: the device went away. EINVAL: how a NIC that is down answers for speed and carrier.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP}


class Sysfs:
    """`root` is "/" on a real machine and a directory with a fake tree in tests; names are below it."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = Path(root)
        self.unreadable: dict[str, str] = {}

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def data(self, name: str, limit: int = MAX_FILE) -> bytes:
        """Return at most `limit` bytes of a file, b"" where there is nothing to be read."""
        try:
            with open(self.path(name), "rb", buffering=0) as file:
                return _read_up_to(file.fileno(), limit)
        except OSError as error:
            self._note(name, error)
            return b""

    def text(self, name: str) -> str:
        """Return a file's text without surrounding blanks and NULs (device tree strings end in one)."""
        return self.data(name).decode("utf-8", "replace").strip(" \t\r\n\0")

    def number(self, name: str, base: int = 10) -> int | None:
        """Return a file's integer, or None if there is none. Hexadecimal files carry 0x or not: base 16."""
        return to_int(self.text(name), base)

    def positive(self, name: str) -> int | None:
        """Return a number above zero: speed -1, size 0 and numa_node -1 mean that the kernel does not know."""
        value = self.number(name)
        return value if value is not None and value > 0 else None

    def names(self, name: str, pattern: str = ".*") -> tuple[str, ...]:
        """Return a directory's entries that match `pattern` wholly, in human order (cpu2 before cpu10)."""
        wanted = re.compile(pattern)
        try:
            with os.scandir(self.path(name)) as entries:
                found = [e.name for _, e in zip(range(MAX_ENTRIES), entries, strict=False)]
        except OSError as error:
            self._note(name, error)
            return ()
        return tuple(sorted(filter(wanted.fullmatch, found), key=human_order))

    def link(self, name: str) -> str:
        """Return the last part of where a symlink points to, "" if it is none."""
        try:
            return os.path.basename(os.readlink(self.path(name)))
        except OSError:
            return ""

    def resolve(self, name: str) -> str:
        """Return the name, below the root, of what a path really is; "" if it leaves the root or is missing."""
        try:
            real = Path(os.path.realpath(self.path(name), strict=True))
            return "/" + str(real.relative_to(self.root.resolve()))
        except (OSError, ValueError):
            return ""

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.path(name))

    def lines(self, name: str) -> Iterator[str]:
        yield from self.data(name).decode("utf-8", "replace").splitlines()

    def _note(self, name: str, error: OSError) -> None:
        if error.errno not in _ABSENT and len(self.unreadable) < MAX_UNREADABLE:
            self.unreadable[name] = os.strerror(error.errno) if error.errno else str(error)


def _read_up_to(fd: int, limit: int) -> bytes:
    """Read until the end or `limit`: /proc files come a page at a time."""
    parts: list[bytes] = []
    left = limit
    while left > 0 and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def to_int(text: str, base: int = 10) -> int | None:
    """Return `text` as an integer, None if it is not one. Python's underscores and 5,000-digit numbers are not."""
    if not re.fullmatch(r"[+-]?(0[xX])?[0-9a-fA-F]{1,32}", text):
        return None
    try:
        return int(text, base)
    except ValueError:
        return None


def index_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a kernel list such as "0-3,8"; () if it is malformed (admin-guide/cputopology.rst)."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if not match:
            return ()
        first, last = int(match[1]), int(match[2] or match[1])
        if last > MAX_INDEX:
            return ()
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def human_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts cpu2 before cpu10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(p), "") if p.isdigit() and p.isascii() else (1, 0, p) for p in parts]
