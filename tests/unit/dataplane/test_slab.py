"""Slabs behind each other: one memory, zeroed where it is told to be."""

import mmap
import os

import pytest

from fabricbios.dataplane import slab as slabs
from fabricbios.dataplane.slab import PAGE, SLAB_BYTES, Memory, Slab, memfd_slab, slab_sizes
from fabricbios.errors import ConfigError, LocalMisuse

MIB = 1 << 20


@pytest.mark.parametrize(
    ("capacity", "sizes"),
    [(0, []), (1, [PAGE]), (SLAB_BYTES, [SLAB_BYTES]), (SLAB_BYTES + 5, [SLAB_BYTES, PAGE])],
)
def test_only_the_last_slab_is_short(capacity: int, sizes: list[int]) -> None:
    assert slab_sizes(capacity) == sizes


def test_a_short_slab_in_the_middle_is_our_own_mistake() -> None:
    with pytest.raises(LocalMisuse):
        Memory([Slab(0, PAGE), Slab(1, PAGE)])


def test_more_than_the_machine_has_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 16, "SC_PAGE_SIZE": PAGE}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    Memory.create(16 * PAGE)
    with pytest.raises(ConfigError, match=r"mem-capacity 65537: this machine has 65536 bytes"):
        Memory.create(16 * PAGE + 1)


def test_a_slab_keeps_its_size() -> None:
    made = memfd_slab(PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(made.fd, 2 * PAGE)
    os.close(made.fd)


def test_a_range_over_two_slabs_is_one_piece_and_whoever_maps_a_slab_sees_it() -> None:
    memory = Memory.create(SLAB_BYTES + PAGE)
    memory.view[SLAB_BYTES - 3 : SLAB_BYTES + 3] = b"across"
    with mmap.mmap(memory.slabs[1].fd, PAGE) as second:
        assert second[:3] == b"oss"
    memory.zero(SLAB_BYTES - 2, 3)
    assert bytes(memory.view[SLAB_BYTES - 3 : SLAB_BYTES + 3]) == b"a\0\0\0ss"
    memory.close()


@pytest.mark.parametrize(("base", "length"), [(0, 3 * MIB), (5, 2 * MIB), (PAGE, MIB), (100, 50), (MIB - 1, MIB + 1)])
@pytest.mark.parametrize("punch", [PAGE, 2 * MIB, 0])
def test_zero_touches_its_range_alone(base: int, length: int, punch: int) -> None:
    made = memfd_slab(4 * MIB)
    memory = Memory([made._replace(punch=punch)])
    memory.view[:] = b"\xff" * (4 * MIB)
    memory.zero(base, length)
    assert bytes(memory.view) == b"\xff" * base + bytes(length) + b"\xff" * (4 * MIB - base - length)
    memory.close()


def test_a_big_range_goes_back_to_the_kernel() -> None:
    memory = Memory.create(4 * MIB)
    memory.view[:] = b"\xff" * (4 * MIB)
    before = os.fstat(memory.slabs[0].fd).st_blocks
    memory.zero(0, 4 * MIB)
    assert before > 0
    assert os.fstat(memory.slabs[0].fd).st_blocks == 0
    memory.close()


@pytest.mark.parametrize(("base", "length"), [(-1, 1), (0, PAGE + 1), (PAGE, 1), (1, -2)])
def test_zero_outside_is_our_own_mistake(base: int, length: int) -> None:
    memory = Memory.create(PAGE)
    with pytest.raises(LocalMisuse):
        memory.zero(base, length)
    memory.close()


def test_no_huge_pages_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    real = slabs._memfd

    def none_left(size: int, flags: int) -> int:
        if flags:
            raise OSError(12, "no huge pages")
        return real(size, flags)

    monkeypatch.setattr(slabs, "_memfd", none_left)
    made = memfd_slab(2 * MIB)
    assert made.punch == PAGE
    os.close(made.fd)
