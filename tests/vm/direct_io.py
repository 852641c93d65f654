"""Reads and writes past the page cache: what the device says now."""

from __future__ import annotations

import mmap
import os


def read_direct(disk: str, offset: int = 0, length: int = 4096) -> bytes:
    """Read whole pages."""
    with mmap.mmap(-1, length) as buffer:
        fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(fd, [buffer], offset) == length
        finally:
            os.close(fd)
        return buffer[:]


def write_direct(disk: str, data: bytes, offset: int = 0) -> None:
    """Write whole pages."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        fd = os.open(disk, os.O_WRONLY | os.O_DIRECT)
        try:
            assert os.pwritev(fd, [buffer], offset) == len(data)
        finally:
            os.close(fd)
