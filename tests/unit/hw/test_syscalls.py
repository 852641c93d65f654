"""The system calls that Python lacks: results, and errno in the OSError."""

import ctypes
import errno
import os
import time

import pytest

from fabricbios.hw import syscalls


def test_structs_have_the_kernels_sizes() -> None:
    assert (ctypes.sizeof(syscalls.iovec), ctypes.sizeof(syscalls.msghdr), ctypes.sizeof(syscalls.mmsghdr)) == (
        16,
        56,
        64,
    )


def test_boottime_runs_and_counts_suspend() -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert syscalls.boottime_ns() >= before


def test_a_mapping_shows_the_file_and_a_hole_reads_as_zero() -> None:
    fd = os.memfd_create("syscalls-test")
    os.ftruncate(fd, 8192)
    at = syscalls.mmap(0, 8192, syscalls.PROT_READ | syscalls.PROT_WRITE, syscalls.MAP_SHARED, fd)
    ctypes.memset(at, 0xFF, 8192)
    syscalls.punch_hole(fd, 4096, 4096)
    assert os.pread(fd, 8192, 0) == b"\xff" * 4096 + bytes(4096)
    syscalls.munmap(at, 8192)
    os.close(fd)


def test_failures_carry_their_errno_and_their_name() -> None:
    with pytest.raises(OSError, match="mmap") as bad:
        syscalls.mmap(0, 4096, syscalls.PROT_READ, syscalls.MAP_SHARED, -1)
    assert bad.value.errno == errno.EBADF
    with pytest.raises(OSError, match="fallocate") as bad:
        syscalls.punch_hole(-1, 0, 4096)
    assert bad.value.errno == errno.EBADF
    with pytest.raises(OSError, match="munmap") as bad:
        syscalls.munmap(1, 4096)
    assert bad.value.errno == errno.EINVAL


def test_membarrier_returns() -> None:
    syscalls.membarrier()


def test_a_fence_where_there_is_no_membarrier_goes_through_the_scheduler(monkeypatch) -> None:
    yields: list[int] = []
    monkeypatch.setattr(syscalls.os, "sched_yield", lambda: yields.append(1))
    monkeypatch.setattr(syscalls, "_syscall", lambda *_: 0)
    syscalls.fence()
    assert not yields
    monkeypatch.setattr(syscalls, "_syscall", lambda *_: -1)
    syscalls.fence()
    assert yields


def test_stores_are_fenced_where_the_processor_keeps_no_order(monkeypatch) -> None:
    fences: list[int] = []
    monkeypatch.setattr(syscalls, "fence", lambda: fences.append(1))
    for machine, wanted in (("x86_64", []), ("s390x", []), ("aarch64", [1]), ("unheard of", [1, 1])):
        monkeypatch.setattr(syscalls, "_MACHINE", machine)
        syscalls.store_fence()
        assert fences == wanted


def test_fences_are_not_heard_where_there_is_no_membarrier(monkeypatch) -> None:
    assert syscalls.hear_fences()
    monkeypatch.setattr(syscalls, "_syscall", lambda *_: -1)
    assert not syscalls.hear_fences()
