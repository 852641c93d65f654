"""Block leases: bound, renewed, ended, wiped (D8, D9), without a server process."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fabricbios.dataplane import fbbu
from fabricbios.dataplane.block import EXTENT, QUIC_BLOCKS, SLOT_STEP, BlockPlane
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slots import QUARANTINE_NS, Plane, SlotState
from fabricbios.errors import LocalMisuse
from fabricbios.hw.backing import GRANULE, open_backing
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import BLOCK_SIZE, Binding, DpAuth, DpStatus, ResourceType, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import BlockGeometry, DpAuthTlv, DpKey, Endpoint, Limits

DISK = 0xD15C
SIZE = GRANULE + BLOCK_SIZE
BLOCKS = SIZE // BLOCK_SIZE
SPEC = LeaseSpec(
    9, DISK, ResourceType.BLOCK, Binding.UDP, SIZE, 3, 1, DpAuth.SIPHASH_FULL, b"k" * 32, 3, 1000, "192.0.2.1"
)
QUIC = SPEC._replace(binding=Binding.QUIC, reached="2001:db8::1")
V4 = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
LISTENERS = [
    Listener(Transport.FBBU_UDP, "0.0.0.0", 5703),
    Listener(Transport.FBMU_UDP, "0.0.0.0", 5702),
    Listener(Transport.FBBU_QUIC, "::", 5701),
]
ONE = b"\xa5" * BLOCK_SIZE


class Node:
    """A plane on one file of four granules, four slots, and a clock and quiescence of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.quiesced, self.stuck, self.mtu = root, 0, 0, False, 1500
        self.start()

    def start(self) -> None:
        self.journal = ExtentJournal(self.root / "extents")
        store = open_backing(Sysfs("/nonexistent"), str(self.root / "disk"), 4 * GRANULE, ours=self.journal.stores)
        self.pool = BlockPool({DISK: store}, self.journal, "zero")
        self.table = LeaseBoard.create(4).table()
        self.plane = BlockPlane(
            self.table, self.pool, LISTENERS, self.quiesce, mtu_of=lambda _: self.mtu, clock=lambda: self.now
        )

    def kill(self) -> None:
        """What is left of a daemon that was killed: the file, the journal."""
        self.journal.close()
        for store in self.pool.backings:
            store.close()

    def quiesce(self) -> None:
        self.quiesced += 1
        if self.stuck:
            raise OSError(errno.ETIMEDOUT, "stuck")

    def bind(self, lease: LeaseSpec = SPEC) -> list[object]:
        return [tlv for step in self.plane.steps(lease) for tlv in self.plane.do(step, lease)]

    def end(self, lease: LeaseSpec = SPEC) -> None:
        for step in reversed(self.plane.steps(lease)):
            self.plane.undo(step, lease)

    def field(self, name: str, lease: LeaseSpec = SPEC) -> int:
        slot = self.table.find(lease.lease_id)
        assert slot is not None
        return int(self.table.get(slot, name))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_binding_opens_a_slot_on_the_extent_and_tells_all_of_it(node: Node) -> None:
    assert node.bind() == [
        Endpoint(Transport.FBBU_UDP, V4, 5703),
        Limits(SIZE, 1024, 1024),
        BlockGeometry(BLOCK_SIZE, SIZE // BLOCK_SIZE, 2),
        DpKey(b"k" * 32),
        DpAuthTlv(DpAuth.SIPHASH_FULL),
    ]
    assert [node.field(n) for n in ("state", "plane", "base", "length", "device", "rights", "max_read")] == [
        SlotState.ACTIVE, Plane.FBBU, 0, SIZE, 0, 3, 1024,
    ]  # fmt: skip


def test_a_small_mtu_moves_one_block(node: Node) -> None:
    node.mtu = 1108
    assert BlockGeometry(BLOCK_SIZE, SIZE // BLOCK_SIZE, 1) in node.bind()


def test_quic_has_large_messages_and_no_key(node: Node) -> None:
    tlvs = node.bind(QUIC)
    assert BlockGeometry(BLOCK_SIZE, SIZE // BLOCK_SIZE, QUIC_BLOCKS) in tlvs
    assert not [tlv for tlv in tlvs if isinstance(tlv, DpKey)]


def test_nothing_listens_for_that_binding(node: Node) -> None:
    node.plane.do(EXTENT, SPEC)
    with pytest.raises(OSError, match="nothing serves BLOCK leases over"):
        node.plane.do(SLOT_STEP, SPEC._replace(reached="2001:db8::1"))


@pytest.mark.parametrize("size", [0, -512, 1, 513])
def test_no_whole_number_of_blocks(node: Node, size: int) -> None:
    with pytest.raises(OSError, match="whole number of blocks"):
        node.plane.do(EXTENT, SPEC._replace(size=size))


def test_no_room_and_no_slot_are_enospc(node: Node) -> None:
    with pytest.raises(OSError, match="in one piece") as caught:
        node.plane.do(EXTENT, SPEC._replace(size=5 * GRANULE))
    assert caught.value.errno == errno.ENOSPC
    small = [SPEC._replace(lease_id=i, size=BLOCK_SIZE) for i in range(1, 5)]
    for lease in small:
        node.bind(lease)
    node.end(small[0])
    node.plane.do(EXTENT, SPEC._replace(size=BLOCK_SIZE))
    with pytest.raises(OSError, match="no free lease slot"):
        node.plane.do(SLOT_STEP, SPEC._replace(size=BLOCK_SIZE))


def test_ending_closes_waits_wipes_and_only_then_frees(node: Node) -> None:
    node.bind()
    assert node.plane.write(9, 0, ONE) == DpStatus.OK
    node.plane.undo(SLOT_STEP, SPEC)
    assert (node.field("state"), node.quiesced) == (SlotState.ENDED, 1)
    assert node.plane.read(9, 0, 1) == (DpStatus.EXPIRED, b"")
    assert (node.root / "disk").read_bytes()[:BLOCK_SIZE] == ONE
    node.plane.undo(EXTENT, SPEC)
    assert not any((node.root / "disk").read_bytes())
    assert node.pool.available(DISK) == 4 * GRANULE
    assert node.plane.read(9, 0, 1) == (DpStatus.EXPIRED, b"")
    node.plane.forget(SPEC)
    assert node.plane.read(9, 0, 1) == (DpStatus.INVALID_LEASE, b"")


def test_undo_is_idempotent_and_undoes_what_never_was(node: Node) -> None:
    node.end()
    node.plane.do(EXTENT, SPEC)
    node.end()
    node.end()
    node.plane.forget(SPEC)
    assert node.pool.available(DISK) == 4 * GRANULE


def test_an_open_slots_bytes_are_not_touched(node: Node) -> None:
    node.bind()
    with pytest.raises(LocalMisuse):
        node.plane.undo(EXTENT, SPEC)


def test_a_server_that_is_stuck_keeps_the_bytes(node: Node) -> None:
    node.bind()
    node.plane.write(9, 0, ONE)
    node.stuck = True
    with pytest.raises(OSError, match="stuck"):
        node.end()
    assert (node.root / "disk").read_bytes()[:BLOCK_SIZE] == ONE
    node.stuck = False
    node.end()
    assert node.pool.available(DISK) == 4 * GRANULE


@pytest.mark.parametrize("break_it", [lambda path: os.truncate(path, GRANULE), os.unlink])
def test_a_backing_that_broke_under_the_lease_cannot_be_torn_down(node: Node, break_it: object) -> None:
    node.bind()
    break_it(node.root / "disk")  # type: ignore[operator]
    with pytest.raises(OSError, match=r"truncated|deleted"):
        node.end()
    assert node.pool.leases() == {9}  # the core fences: nobody else gets it
    node.plane.fence(SPEC)
    assert node.plane.read(9, 0, 1)[0] == DpStatus.FENCED


def test_renewing_and_expiring(node: Node) -> None:
    node.bind()
    node.now = 1000
    assert node.plane.write(9, 0, ONE) == DpStatus.EXPIRED
    node.plane.renew(SPEC._replace(expires_ns=2000, generation=2))
    assert node.plane.write(9, 0, ONE) == DpStatus.OK
    assert node.field("generation") == 2


def test_rekeying_keeps_the_data_and_kills_the_old_key(node: Node) -> None:
    node.bind()
    node.plane.write(9, 1, ONE)
    node.now = 500
    tlvs = node.plane.rekey(SPEC._replace(dp_key=b"n" * 32))
    assert DpKey(b"n" * 32) in tlvs
    assert node.plane.read(9, 1, 1) == (DpStatus.OK, ONE)
    slot = node.table.find(9)
    assert slot is not None
    assert (node.table.get(slot, "dp_key"), node.field("highest")) == (b"n" * 32, 0)


def test_a_successor_adopts_the_data_under_a_key_that_nobody_knows(node: Node) -> None:
    node.bind()
    node.plane.write(9, 3, ONE)
    node.kill()
    node.start()
    node.plane.adopt(SPEC._replace(expires_ns=5000))
    assert node.plane.read(9, 3, 1) == (DpStatus.OK, ONE)
    slot = node.table.find(9)
    assert slot is not None
    assert node.table.get(slot, "dp_key") not in (SPEC.dp_key, bytes(32))
    node.plane.rekey(SPEC)
    assert node.plane.read(9, 3, 1) == (DpStatus.OK, ONE)


def test_a_successor_tears_down_what_it_does_not_adopt(node: Node) -> None:
    node.bind()
    node.plane.write(9, 3, ONE)
    node.kill()
    node.start()
    node.end()
    assert not any((node.root / "disk").read_bytes())


def test_nothing_is_adopted_that_lies_nowhere(node: Node) -> None:
    with pytest.raises(OSError, match="nothing is known"):
        node.plane.adopt(SPEC)


def test_orphans_of_a_lost_lease_journal_are_found_and_released(node: Node) -> None:
    node.bind()
    node.plane.write(9, 0, ONE)
    node.kill()
    node.start()
    assert node.plane.orphans({9}) == set()
    assert node.plane.orphans(set()) == {9}
    node.plane.release(9)
    assert not any((node.root / "disk").read_bytes())


@pytest.mark.parametrize(
    ("index", "count", "status"),
    [(0, 0, DpStatus.BAD_LENGTH), (0, QUIC_BLOCKS + 1, DpStatus.BAD_LENGTH), (BLOCKS, 1, DpStatus.OUT_OF_RANGE),
     (BLOCKS - 1, 2, DpStatus.OUT_OF_RANGE), (BLOCKS - 2, 2, DpStatus.OK)],
)  # fmt: skip
def test_direct_reads_are_judged_as_datagrams_are(node: Node, index: int, count: int, status: DpStatus) -> None:
    node.bind(QUIC)
    assert node.plane.read(9, index, count) == (status, bytes(count * BLOCK_SIZE) if not status else b"")


@pytest.mark.parametrize(
    ("data", "status"), [(b"", DpStatus.BAD_LENGTH), (b"x", DpStatus.BAD_LENGTH), (ONE, DpStatus.OK)]
)
def test_direct_writes_likewise(node: Node, data: bytes, status: DpStatus) -> None:
    node.bind(QUIC)
    assert node.plane.write(9, 0, data) == status
    assert node.plane.blocks(9) == (DpStatus.OK, SIZE // BLOCK_SIZE)


def test_a_direct_write_that_is_not_durable_is_not_acknowledged(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "lost")

    node.bind(QUIC)
    monkeypatch.setattr(fbbu.os, "fdatasync", fail)
    assert node.plane.write(9, 0, ONE) == DpStatus.INTERNAL


def test_sync_is_told_by_its_setting() -> None:
    assert [Sync(name) for name in ("none", "datasync")] == [Sync.NONE, Sync.DATASYNC]


def test_a_holders_flush_and_a_wipe_never_hear_of_each_others_failures(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells a failed write-back once to each open file description: these two must not share one."""
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    node.bind(QUIC)
    assert node.plane.write(9, 0, ONE) == DpStatus.OK
    by_holder = flushed.pop()
    flushed.clear()
    node.end(QUIC)
    by_wipe = [fd for fd in flushed if os.path.sameopenfile(fd, by_holder)]
    os.lseek(by_holder, BLOCK_SIZE, os.SEEK_SET)
    assert by_wipe
    assert all(os.lseek(fd, 0, os.SEEK_CUR) != BLOCK_SIZE for fd in by_wipe)


class Slow:
    """A store's flush that waits until it is let go, once somebody is in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
        self.inside, self.go, real = threading.Event(), threading.Event(), os.fdatasync

        def fdatasync(which: int) -> None:
            if which == fd:
                self.inside.set()
                assert self.go.wait(60)
            real(which)

        monkeypatch.setattr(os, "fdatasync", fdatasync)


@pytest.fixture
def second(tmp_path: Path) -> LeaseSpec:
    return QUIC._replace(lease_id=10, resource_id=DISK + 1)


def with_two_stores(node: Node) -> None:
    other = open_backing(Sysfs("/nonexistent"), str(node.root / "other"), 4 * GRANULE)
    node.pool = BlockPool({DISK: node.pool.backings[0], DISK + 1: other}, node.journal, "zero")
    node.plane = BlockPlane(node.table, node.pool, LISTENERS, node.quiesce, clock=lambda: node.now)


def test_a_slow_store_holds_up_no_other(node: Node, second: LeaseSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_stores(node)
    node.bind(QUIC)
    node.bind(second)
    slow = Slow(monkeypatch, node.pool.backings[0].data_fd)
    with ThreadPoolExecutor() as threads:
        held = threads.submit(node.plane.write, QUIC.lease_id, 0, ONE)
        assert slow.inside.wait(60)
        others = threads.submit(node.plane.write, second.lease_id, 0, ONE)
        assert others.result(60) is DpStatus.OK
        assert node.plane.read(QUIC.lease_id, 1, 1)[0] is DpStatus.OK
        threads.submit(node.end, second).result(60)
        assert not held.done()
        slow.go.set()
        assert held.result(60) is DpStatus.OK


def test_a_lease_is_not_ended_under_an_operation_of_its_own(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabricbios.dataplane.planeslots.STUCK_SECONDS", 0.01)
    node.bind(QUIC)
    slow = Slow(monkeypatch, node.pool.backings[0].data_fd)
    with ThreadPoolExecutor() as threads:
        held = threads.submit(node.plane.write, QUIC.lease_id, 0, ONE)
        assert slow.inside.wait(60)
        with pytest.raises(OSError, match="stuck"):
            node.plane.undo(SLOT_STEP, QUIC)
        assert node.plane.read(QUIC.lease_id, 0, 1)[0] is DpStatus.EXPIRED  # closed, although it waits
        slow.go.set()
        held.result(60)
        node.plane.undo(SLOT_STEP, QUIC)


def test_a_write_that_waited_for_its_store_is_judged_when_its_turn_comes(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.bind(QUIC)
    slow = Slow(monkeypatch, node.pool.backings[0].data_fd)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(node.plane.write, QUIC.lease_id, 0, ONE)
        assert slow.inside.wait(60)
        late = threads.submit(node.plane.write, QUIC.lease_id, 1, ONE)
        while len(node.plane._slots._under_way._of[QUIC.lease_id]) < 2:
            pass
        node.now = QUIC.expires_ns
        slow.go.set()
        assert (first.result(60), late.result(60)) == (DpStatus.OK, DpStatus.EXPIRED)


def test_the_store_of_a_lease_is_what_it_waits_for(node: Node, second: LeaseSpec) -> None:
    with_two_stores(node)
    for lease in (QUIC, second):
        node.bind(lease)
    assert [node.plane.device_of(lease_id) for lease_id in (QUIC.lease_id, second.lease_id, 77)] == [0, 1, -1]


def test_a_new_key_is_told_when_nothing_asked_with_the_old_one_is_under_way(node: Node) -> None:
    node.bind()
    node.plane.rekey(SPEC._replace(dp_key=b"n" * 32))
    assert node.quiesced == 1
    node.stuck = True
    with pytest.raises(OSError, match="stuck"):
        node.plane.rekey(SPEC._replace(dp_key=b"m" * 32))


def test_the_old_slot_of_a_new_key_is_nobodys_while_a_server_may_be_in_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stuck in a disk goes on where it was, and marks nonces in the window that it began with."""
    lease, *others = (SPEC._replace(lease_id=lease_id, size=BLOCK_SIZE) for lease_id in (9, 10, 11, 12))

    def bound_while_stuck() -> None:
        node.now += 10 * QUARANTINE_NS
        for other in others[:2]:
            node.bind(other)
        with pytest.raises(OSError, match="no free lease slot"):
            node.bind(others[2])
        raise OSError(errno.ETIMEDOUT, "stuck")

    node.bind(lease)
    old = node.table.find(9)
    monkeypatch.setattr(node.plane._slots, "_quiesce", bound_while_stuck)
    with pytest.raises(OSError, match="stuck"):
        node.plane.rekey(lease._replace(dp_key=b"n" * 32))
    monkeypatch.setattr(node.plane._slots, "_quiesce", node.quiesce)
    node.end(others[0])
    with pytest.raises(OSError, match="no free lease slot"):
        node.bind(others[2])
    node.now += QUARANTINE_NS
    node.bind(others[2])
    assert node.table.find(12) == old
