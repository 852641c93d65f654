"""The few system calls that Python lacks, through ctypes: one function each, errno kept in the OSError.

Every function returns what the man page says it returns and raises OSError(errno) for -1. Pointers are
plain addresses: who calls owns the memory and keeps it alive.
"""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import c_int, c_long, c_size_t, c_uint, c_void_p
from functools import partial
from typing import Any

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 0x01, 0x02, 0x10, 0x20, 0x4000
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
MSG_DONTWAIT = 0x40
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
IP_PKTINFO = 8  # the socket module of 3.11 has only IPV6_PKTINFO
_MACHINE = os.uname().machine
_KEEP_STORES_IN_ORDER = frozenset({"x86_64", "s390x"})
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
MEMBARRIER_CMD_GLOBAL, MEMBARRIER_CMD_GLOBAL_EXPEDITED, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class iovec(ctypes.Structure):
    """readv(2)."""

    _fields_ = (("iov_base", c_void_p), ("iov_len", c_size_t))


class msghdr(ctypes.Structure):
    """recvmsg(2)."""

    _fields_ = (
        ("msg_name", c_void_p),
        ("msg_namelen", c_uint),
        ("msg_iov", c_void_p),
        ("msg_iovlen", c_size_t),
        ("msg_control", c_void_p),
        ("msg_controllen", c_size_t),
        ("msg_flags", c_int),
    )


class mmsghdr(ctypes.Structure):
    """recvmmsg(2)."""

    _fields_ = (("msg_hdr", msghdr), ("msg_len", c_uint))


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_libc, name)
    function.restype, function.argtypes = result, arguments
    return function


recvmmsg_raw = _declare("recvmmsg", c_int, c_int, c_void_p, c_uint, c_int, c_void_p)
"""recvmmsg(fd, vector, count, flags, timeout): -1 and `ctypes.get_errno()`, for a loop that expects EAGAIN."""
sendmmsg_raw = _declare("sendmmsg", c_int, c_int, c_void_p, c_uint, c_int)
_fallocate = _declare("fallocate", c_int, c_int, c_int, c_long, c_long)
_mmap = _declare("mmap", c_void_p, c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_munmap = _declare("munmap", c_int, c_void_p, c_size_t)
_syscall = _declare("syscall", c_long, c_long, c_int, c_uint, c_int)


def _checked(result: int, call: str) -> int:
    if result == -1:
        raise _error(call)
    return result


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


boottime_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""Return CLOCK_BOOTTIME: the clock of leases (D8), the same that BPF programs read. Read for every question."""


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the pages of a range back: they read as zero from now on, in every mapping (fallocate(2))."""
    _checked(_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), "fallocate")


def mmap(address: int, length: int, protection: int, flags: int, fd: int = -1) -> int:
    """Return the address of a mapping of `fd` from its start, or of nothing."""
    at: int | None = _mmap(address or None, length, protection, flags, fd, 0)
    if at is None or at == ctypes.c_void_p(-1).value:
        raise _error("mmap")
    return at


def munmap(address: int, length: int) -> None:
    _checked(_munmap(address, length), "munmap")


def membarrier() -> None:
    """Wait until every running thread has passed a full barrier, and every BPF program that runs has ended.

    MEMBARRIER_CMD_GLOBAL is synchronize_rcu() in the kernel (kernel/sched/membarrier.c): some milliseconds.
    """
    _checked(_syscall(_MEMBARRIER[_MACHINE], MEMBARRIER_CMD_GLOBAL, 0, 0), "membarrier")


def fence() -> None:
    """A full barrier: let what this thread stored be seen before what it stores, and what it loads, from now on.

    MEMBARRIER_CMD_GLOBAL_EXPEDITED promises that to its caller, takes under a microsecond and keeps the processor
    (kernel/sched/membarrier.c); where seccomp or the architecture lacks it, so does going through the scheduler.
    It is a barrier in every other process, too, that hears fences.
    """
    if _syscall(_MEMBARRIER.get(_MACHINE, -1), MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0):
        os.sched_yield()


def store_fence() -> None:
    """A barrier between stores alone: let what this thread stored be seen before what it stores from now on.

    Some processors keep all stores in order (x86: Intel's manual, volume 3, "Memory Ordering"; s390 likewise), and
    nothing is to be done there.
    """
    if _MACHINE not in _KEEP_STORES_IN_ORDER:
        fence()


def hear_fences() -> bool:
    """Let each fence() of any process be a barrier here as well, on whatever processors this process runs just then.

    So what is done often needs no barrier of its own against what is done seldom (membarrier(2)). False where the
    kernel does not offer it.
    """
    return int(_syscall(_MEMBARRIER.get(_MACHINE, -1), MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0)) == 0
