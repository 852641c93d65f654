"""What must be known after a kill -9 or a power cut, written before it is done.

One file of lines, each `crc32 SPACE json NEWLINE`. What a power cut leaves is cut off at the next start, and said
in the log: a torn end, and all from the first hole on. A hole is a sector of zeros, a page that never reached the
disk; fdatasync would have brought it there, so nothing behind it was ever promised. A bad line that whole ones follow
is a damaged disk, and stops the start (fail closed: leases may be live, and what is gone may have been a revocation).
When the file has grown to many times what is live, it is written anew beside itself and renamed over: an atomic
compaction.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from fabricbios.errors import ConfigError

log = logging.getLogger("fabricbios.journal")
Entry = dict[str, Any]
_COMPACT_AFTER = 50_000  # lines beyond the last compaction
_HOLE = bytes(512)  # no sector of a line's text is zeros


class Journal:
    """Append-only; `append` returns once the kernel has it, with `durable` once the disk has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._lines = 0
        self._lock = threading.Lock()  # of the end of the file: durable entries are written in threads

    def open(self) -> list[Entry]:
        """Return every entry of the predecessor, without what a power cut left half written. ConfigError if damaged."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = self.path.read_bytes()
        entries, good = _parse(data, self.path)
        if good != len(data):
            log.warning(
                "%s: %d bytes at its end were not whole, as after a power cut: cut off", self.path, len(data) - good
            )
            os.ftruncate(self._fd, good)
            os.fsync(self._fd)
        self._lines = len(entries)
        return entries

    def append(self, entries: Sequence[Entry], durable: bool) -> None:
        """Add entries with one write; OSError if not all could be written (ENOSPC): then none was, and nothing may be
        done on them."""
        data = b"".join(map(_line, entries))
        if durable:
            self._append_durably(data, len(entries))
            return
        with self._lock:
            self._write(data, len(entries))

    def _append_durably(self, data: bytes, lines: int) -> None:
        """Wait for the disk without the lock: others may append meanwhile, and the file may be replaced."""
        with self._lock:
            fd = os.dup(self._fd)
            try:
                self._write(data, lines)
                end = os.lseek(fd, 0, os.SEEK_END)
            except OSError:
                os.close(fd)
                raise
        try:
            self._sync(fd, len(data), end)
        finally:
            os.close(fd)

    def _write(self, data: bytes, lines: int) -> None:
        written = os.write(self._fd, data)
        if written != len(data):  # never leave half a line before a whole one
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_END) - written)
            raise OSError(errno.ENOSPC, "journal is out of space", str(self.path))
        self._lines += lines

    def _sync(self, fd: int, length: int, end: int) -> None:
        """What cannot be kept is taken back if it is still the last; else it stays, and says of something that was
        refused that it may have been begun."""
        try:
            os.fdatasync(fd)
        except OSError:
            with self._lock:
                if os.lseek(fd, 0, os.SEEK_END) == end:
                    os.ftruncate(fd, end - length)
            raise

    @property
    def wants_compaction(self) -> bool:
        return self._lines > _COMPACT_AFTER

    def compact(self, entries: Iterable[Entry]) -> None:
        """Replace the file by just `entries`, atomically and durably. OSError: put off until it has grown again.

        What threads append meanwhile is lost, so `entries` have what effects under way bring before them.
        """
        self._lines = 0
        fresh = self.path.with_suffix(".new")
        data = b"".join(map(_line, entries))
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_whole(fd, data)
            os.fsync(fd)
            fresh.rename(self.path)
        except OSError:
            os.close(fd)
            raise
        with self._lock:  # at once: whatever fails from here on, what is written next must be found
            old, self._fd = self._fd, fd
            os.close(old)
        _sync_directory(self.path.parent)

    def close(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1


def _line(entry: Entry) -> bytes:
    text = _text(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _text(value: Any) -> str:
    """Return JSON without blanks. Entries are small and flat, and json makes an encoder for each of them."""
    if type(value) is str:
        return encode_basestring_ascii(value)
    if type(value) is int:
        return str(value)
    if type(value) is dict:
        return f"{{{','.join([f'{encode_basestring_ascii(key)}:{_text(of)}' for key, of in value.items()])}}}"
    if type(value) is list:
        return f"[{','.join(map(_text, value))}]"
    return json.dumps(value)


def _write_whole(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _parse(data: bytes, path: Path) -> tuple[list[Entry], int]:
    """Return the entries, and how many bytes of `data` are whole."""
    entries: list[Entry] = []
    at = 0
    for line in data.splitlines(keepends=True):
        entry = _entry(line)
        if entry is None:
            _check_nothing_is_lost(data, at, path)
            break
        entries.append(entry)
        at += len(line)
    return entries, at


def _check_nothing_is_lost(data: bytes, at: int, path: Path) -> None:
    """ConfigError unless what begins with the bad line at `at` is what a power cut leaves."""
    hole = data.find(_HOLE, at)
    before = data[at : hole if hole >= 0 else None].splitlines(keepends=True)
    if any(_entry(line) is not None for line in before[1:]):
        raise ConfigError(
            f"{path}: damaged at byte {at}: move it and token.key elsewhere and start again; what is bound is then"
            " taken down, and tokens are void (docs/operating.md, A damaged journal)"
        )


def _entry(line: bytes) -> Entry | None:
    """Return what a whole line says, None for any other bytes."""
    crc, _, text = line.removesuffix(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or len(crc) != 8 or int(crc, 16) != zlib.crc32(text):
            return None
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
