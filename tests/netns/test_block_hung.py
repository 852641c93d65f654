"""A store on a file system that hangs, for real: a loop device's ext4 that is frozen (fsfreeze(8))."""

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from frozen_rig import Frozen, frozen_at

from fabricbios.dataplane import blockpool
from fabricbios.dataplane.block import EXTENT, SLOT_STEP, BlockPlane
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.hw.backing import GRANULE, open_backing
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import BLOCK_SIZE, Binding, DpAuth, DpStatus, ResourceType, Transport
from fabricbios.ports import LeaseSpec

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
HUNG, WELL = 0xD15C, 0xD15D
ONE = b"\xa5" * BLOCK_SIZE
LISTENERS = [Listener(Transport.FBBU_QUIC, "::", 5701)]


def lease(lease_id: int, disk: int) -> LeaseSpec:
    spec = LeaseSpec(
        lease_id, disk, ResourceType.BLOCK, Binding.QUIC, GRANULE, 3, 1, DpAuth.BLAKE2S_FULL, bytes(32), 3, 1 << 62
    )
    return spec._replace(reached="2001:db8::1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Frozen]:
    with frozen_at(tmp_path) as made:
        yield made


@pytest.fixture
def plane(tmp_path: Path, disk: Frozen, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockPlane]:
    monkeypatch.setattr(blockpool, "STORE_SECONDS", 0.2)
    journal = ExtentJournal(tmp_path / "extents")
    paths = {HUNG: disk.mount / "disk", WELL: tmp_path / "disk"}
    stores = {
        number: open_backing(Sysfs(), str(path), 8 * GRANULE, ours=journal.stores) for number, path in paths.items()
    }
    pool = BlockPool(stores, journal, "zero")
    yield BlockPlane(LeaseBoard.create(8).table(), pool, LISTENERS, lambda: None)
    disk.thaw()
    until_answered(pool)
    for store in stores.values():
        store.close()
    journal.close()


def until_answered(pool: BlockPool) -> None:
    for thread in threading.enumerate():
        if thread.name == "store":
            thread.join(60)
    assert not pool.is_stuck


def bind(plane: BlockPlane, spec: LeaseSpec) -> None:
    for step in plane.steps(spec):
        plane.do(step, spec)


def refused(work: Callable[[], object]) -> bool:
    with pytest.raises(OSError, match="not answered") as raised:
        work()
    return raised.value.errno == errno.ETIMEDOUT


def test_ending_a_lease_on_a_store_that_hangs_ends_in_an_error_and_goes_on_when_it_is_back(
    plane: BlockPlane, disk: Frozen
) -> None:
    a, b, late = lease(1, HUNG), lease(2, WELL), lease(3, HUNG)
    for spec in (a, b):
        bind(plane, spec)
        assert plane.write(spec.lease_id, 0, ONE) is DpStatus.OK
    disk.freeze()
    plane.undo(SLOT_STEP, a)
    assert refused(lambda: plane.undo(EXTENT, a))
    assert refused(lambda: plane.undo(EXTENT, a))  # the first is still at it: nobody joins it
    assert refused(lambda: plane.do(EXTENT, late))
    assert sum(thread.name == "store" for thread in threading.enumerate()) == 1
    assert plane.write(2, 1, ONE) is DpStatus.OK
    for step in (SLOT_STEP, EXTENT):
        plane.undo(step, b)
    plane.forget(b)
    disk.thaw()
    until_answered(plane._pool)
    plane.undo(EXTENT, a)
    plane.forget(a)
    assert plane.orphans(set()) == set()
    assert not any((disk.mount / "disk").read_bytes())


def test_binding_on_a_store_that_hangs_is_refused_and_holds_nothing(plane: BlockPlane, disk: Frozen) -> None:
    disk.freeze()
    assert refused(lambda: plane.do(EXTENT, lease(1, HUNG)))
    assert plane.orphans(set()) == set()
    bind(plane, lease(2, WELL))
    disk.thaw()
    until_answered(plane._pool)
    bind(plane, lease(1, HUNG))
    assert plane.read(1, 0, 1) == (DpStatus.OK, bytes(BLOCK_SIZE))
