"""Leased memory: slabs behind each other at one address, so that a lease may be of any size.

A slab is what a file descriptor can be mapped from: a sealed memfd here, the value of a BPF array where
XDP runs (one such value is at most SLAB_BYTES). Whoever maps the same slabs in the same order sees the
same bytes under the same numbers: byte `a` of the memory is byte `a % SLAB_BYTES` of slab `a >> 28`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Sequence
from typing import NamedTuple

from fabricbios.errors import ConfigError, LocalMisuse
from fabricbios.hw import syscalls

SLAB_BYTES = 1 << 28
PAGE, HUGE_PAGE = 1 << 12, 1 << 21
_PUNCH_FROM = 1 << 20
"""Smaller ranges are overwritten: giving pages back costs a system call and a fault a page on the next use."""
_SMALL = 1 << 14
"""Up to here a copy of zeros takes less time than the way through ctypes."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Slab(NamedTuple):
    """`size` bytes that can be mapped from the start of `fd`.

    `punch` is the page size in which fallocate(2) takes pages back, 0 where it cannot (a BPF map).
    All slabs but the last have SLAB_BYTES.
    """

    fd: int
    size: int
    punch: int = 0


def slab_sizes(capacity: int) -> list[int]:
    """Return the sizes of the slabs for `capacity` bytes, the last one rounded up to a page."""
    whole, rest = divmod(-(-capacity // PAGE) * PAGE, SLAB_BYTES)
    return [SLAB_BYTES] * whole + [rest] * (rest > 0)


def must_fit(capacity: int) -> None:
    """ConfigError for more than this machine has: memfds promise any size, and the promise is kept until it is used."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if capacity > most:
        raise ConfigError(f"mem-capacity {capacity}: this machine has {most} bytes of memory, so lease out fewer")


def memfd_slab(size: int) -> Slab:
    """Make a sealed memfd of huge pages where enough of them are free, of small ones otherwise."""
    if size % HUGE_PAGE == 0:
        try:
            return _reserved(_memfd(size, os.MFD_HUGETLB | os.MFD_HUGE_2MB), size)
        except OSError:
            pass  # none are set aside, or too few: small pages do as well, a little slower
    return Slab(_memfd(size, 0), size, PAGE)


def _memfd(size: int, flags: int) -> int:
    fd = os.memfd_create("fabricbios-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _reserved(fd: int, size: int) -> Slab:
    """Huge pages are promised by mmap and, without that promise, missed with SIGBUS: so map once now."""
    try:
        syscalls.munmap(syscalls.mmap(0, size, syscalls.PROT_READ, syscalls.MAP_SHARED, fd), size)
    except OSError:
        os.close(fd)
        raise
    return Slab(fd, size, HUGE_PAGE)


class Memory:
    """All slabs, mapped behind each other; `view` is the whole of it as bytes."""

    def __init__(self, slabs: Sequence[Slab]) -> None:
        if any(slab.size != SLAB_BYTES for slab in slabs[:-1]):
            raise LocalMisuse("only the last slab may be short")
        self.slabs = tuple(slabs)
        self.size = sum(slab.size for slab in slabs)
        self._address = _map_consecutively(self.slabs, self.size) if self.size else 0
        self.view = memoryview((ctypes.c_ubyte * self.size).from_address(self._address)).cast("B")

    @staticmethod
    def create(capacity: int) -> Memory:
        """Return fresh zeroed memory of at least `capacity` bytes in memfds. ConfigError for more than there is."""
        must_fit(capacity)
        return Memory([memfd_slab(size) for size in slab_sizes(capacity)])

    def zero(self, base: int, length: int) -> None:
        """Overwrite a range with zeros, and give whole pages of a big one back to the kernel."""
        if not 0 <= base <= base + length <= self.size:
            raise LocalMisuse(f"{length} bytes from {base} are not in {self.size}")
        if length <= _SMALL:
            self.view[base : base + length] = bytes(length)
            return
        at, end = base, base + length
        while at < end:
            stop = min(end, (at // SLAB_BYTES + 1) * SLAB_BYTES)
            self._zero_in_slab(at, stop)
            at = stop

    def _zero_in_slab(self, start: int, stop: int) -> None:
        slab = self.slabs[start // SLAB_BYTES]
        if not slab.punch or stop - start < _PUNCH_FROM:
            ctypes.memset(self._address + start, 0, stop - start)
            return
        first = min(stop, -(-start // slab.punch) * slab.punch)
        last = max(first, stop // slab.punch * slab.punch)
        ctypes.memset(self._address + start, 0, first - start)
        if first < last:
            syscalls.punch_hole(slab.fd, first % SLAB_BYTES, last - first)
        ctypes.memset(self._address + last, 0, stop - last)

    def close(self) -> None:
        """Unmap and close; nobody may use `view` afterwards."""
        self.view = memoryview(b"")
        if self.size:
            syscalls.munmap(self._address, self.size)
        for slab in self.slabs:
            os.close(slab.fd)
        self.slabs, self.size = (), 0


def _map_consecutively(slabs: Sequence[Slab], size: int) -> int:
    """Reserve addresses for all slabs, then map each one over its part of them."""
    reserve = syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS | syscalls.MAP_NORESERVE
    raw = syscalls.mmap(0, size + HUGE_PAGE, syscalls.PROT_NONE, reserve)
    start = -(-raw // HUGE_PAGE) * HUGE_PAGE
    _trim(raw, start, size)
    at = start
    try:
        for slab in slabs:
            access = syscalls.PROT_READ | syscalls.PROT_WRITE
            syscalls.mmap(at, slab.size, access, syscalls.MAP_SHARED | syscalls.MAP_FIXED, slab.fd)
            at += slab.size
    except OSError:
        syscalls.munmap(start, size)
        raise
    return start


def _trim(raw: int, start: int, size: int) -> None:
    """Give back what of the reservation lies before and after the aligned part."""
    if start > raw:
        syscalls.munmap(raw, start - raw)
    if raw + HUGE_PAGE > start:
        syscalls.munmap(start + size, raw + HUGE_PAGE - start)
