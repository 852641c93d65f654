"""Memory and block leases in one table, as where XDP looks at both: nobody takes, adopts or clears another's."""

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from effort import effort
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fabricbios.dataplane.block import BlockPlane
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.memory import MemoryPlane
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import QUARANTINE_NS, SLOT, Plane, SlotState, SlotTable
from fabricbios.hw.backing import GRANULE, open_backing
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, DpAuth, DpStatus, ResourceType, Transport
from fabricbios.ports import LeaseSpec

DISK, OTHER_DISK, SLOTS = 0xD15C, 0xD15D, 24
LISTENERS = [Listener(Transport.FBMU_UDP, "192.0.2.1", 5702), Listener(Transport.FBBU_UDP, "192.0.2.1", 5703)]
KINDS = {ResourceType.MEM: Plane.FBMU, ResourceType.BLOCK: Plane.FBBU}


def spec(lease_id: int, kind: ResourceType, generation: int = 1, key: bytes = b"k" * 32) -> LeaseSpec:
    return LeaseSpec(lease_id, DISK, kind, Binding.UDP, 4096, 3, generation, DpAuth.SIPHASH_FULL, key, 3, 1 << 62)


class Node:
    """Both planes over one board, which outlives `restart` as pinned maps do; the clock goes on by itself."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0
        self.board, self.memory = LeaseBoard.create(SLOTS), Memory.create(1 << 20)
        self.start(DISK)

    def start(self, *disks: int) -> None:
        self.journal = ExtentJournal(self.root / "extents")
        stores = {
            disk: open_backing(
                Sysfs("/nonexistent"), str(self.root / f"{disk:x}"), 64 * GRANULE, ours=self.journal.stores
            )
            for disk in disks
        }
        self.pool = BlockPool(stores, self.journal, "none")
        self.table = SlotTable(self.board.slots.buffer, [self.board.slot_index()], midstates=False)
        self.mem = MemoryPlane(self.table, self.memory, LISTENERS, lambda: None, clock=self.clock, recovered=True)
        self.block = BlockPlane(self.table, self.pool, LISTENERS, lambda: None, clock=self.clock)

    def restart(self, *disks: int) -> None:
        self.close()
        self.start(*(disks or (DISK,)))

    def close(self) -> None:
        self.journal.close()
        for store in self.pool.backings:
            store.close()

    def clock(self) -> int:
        self.now += 2 * QUARANTINE_NS
        return self.now

    def plane(self, kind: ResourceType) -> MemoryPlane | BlockPlane:
        return self.mem if kind is ResourceType.MEM else self.block

    def bind(self, lease: LeaseSpec) -> None:
        for step in self.plane(lease.kind).steps(lease):
            self.plane(lease.kind).do(step, lease)

    def end(self, lease: LeaseSpec) -> None:
        for step in reversed(self.plane(lease.kind).steps(lease)):
            self.plane(lease.kind).undo(step, lease)

    def field(self, lease: LeaseSpec, name: str) -> object:
        slot = self.table.find(lease.lease_id)
        assert slot is not None
        return self.table.get(slot, name)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


A, B = spec(1, ResourceType.MEM), spec(2, ResourceType.BLOCK)


def test_a_plane_knows_nothing_of_the_others_leases(node: Node) -> None:
    node.bind(A)
    node.bind(B)
    assert (node.mem.length(2)[0], node.block.blocks(1)[0]) == (DpStatus.INVALID_LEASE, DpStatus.INVALID_LEASE)
    assert node.mem.read(2, 0, 1)[0] == node.block.read(1, 0, 1)[0] == DpStatus.INVALID_LEASE
    for plane, other in ((node.mem, B), (node.block, A)):
        plane.fence(other)
        plane.forget(other)
        with pytest.raises(OSError, match="no slot"):
            plane.renew(other)
        with pytest.raises(OSError, match="no slot"):
            plane.rekey(other)
    assert {node.field(lease, "state") for lease in (A, B)} == {SlotState.ACTIVE}
    assert (node.mem.orphans(set()), node.block.orphans(set())) == ({1}, {2})


def test_a_block_lease_that_outlived_its_daemon_keeps_key_and_window(node: Node) -> None:
    node.bind(B)
    slot = node.table.find(2)
    assert slot is not None
    node.table.buffer[slot * SLOT.size + SLOT.offset["window"]] = 0xFF  # a nonce that was taken
    node.restart()
    node.block.adopt(B._replace(generation=7))
    assert node.table.find(2) == slot
    assert (node.field(B, "dp_key"), node.field(B, "generation")) == (b"k" * 32, 7)
    assert node.table.get(slot, "window")[0] == 0xFF


def test_a_slot_that_counts_the_stores_otherwise_is_not_adopted(node: Node) -> None:
    """Its key would open another store's bytes at the very same place."""
    node.bind(B)
    node.restart(OTHER_DISK, DISK)
    node.block.adopt(B)
    assert node.field(B, "device") == 1
    assert node.field(B, "dp_key") != b"k" * 32
    assert len(list(node.table)) == 1


def test_a_slot_that_had_ended_is_torn_down(node: Node) -> None:
    node.bind(B)
    node.block.undo("block.slot", B)
    node.restart()
    with pytest.raises(OSError, match="had ended"):
        node.block.adopt(B)
    assert node.block.orphans({1}) == {2}
    node.block.release(2)
    assert (list(node.table), node.block.orphans(set())) == ([], set())


def test_an_open_slot_that_no_journal_knows_is_closed_before_its_bytes_are_touched(node: Node) -> None:
    node.bind(B)
    node.restart()
    node.block.release(2)
    assert list(node.table) == []


def test_what_the_block_plane_holds_is_no_memory(node: Node) -> None:
    node.bind(B)
    node.restart()
    assert node.mem.available == 1 << 20


def test_planes_bind_and_end_side_by_side(node: Node) -> None:
    wrong, done = list[object](), list[int]()
    index = node.board.slot_index()

    def bind_when_one_has_rested(lease: LeaseSpec) -> None:
        for _ in range(100):
            try:
                return node.bind(lease)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        pytest.fail("no slot ever rests")

    def come_and_go(number: int) -> None:
        kind = list(KINDS)[number % 2]
        lease = spec(100 + number, kind, key=bytes([number]) * 32)
        for _ in range(40):
            bind_when_one_has_rested(lease)
            seen = [node.field(lease, name) for name in ("plane", "dp_key")]
            found = index.find(lease.lease_id.to_bytes(16, "big"))
            if seen != [KINDS[kind], lease.dp_key] or found != node.table.find(lease.lease_id):
                wrong.append((number, seen))
            node.end(lease)
            node.plane(kind).forget(lease)
        done.append(number)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), wrong, list(node.table)) == (8, [], [])


class BothPlanes(RuleBasedStateMachine):
    """Leases of both kinds come, go, get new keys, and outlive their daemon."""

    root: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        BothPlanes.count += 1
        directory = self.root / str(BothPlanes.count)
        directory.mkdir()
        self.node, self.live, self.ended = Node(directory), dict[int, LeaseSpec](), dict[int, LeaseSpec]()
        self.index = self.node.board.slot_index()

    def teardown(self) -> None:
        self.node.close()

    @precondition(lambda self: len(self.live) + len(self.ended) < SLOTS - 1)
    @rule(kind=st.sampled_from(list(KINDS)))
    def bind(self, kind: ResourceType) -> None:
        lease = spec(1 + max([0, *self.live, *self.ended]), kind)
        self.node.bind(lease)
        self.live[lease.lease_id] = lease

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        lease = self.live.pop(data.draw(st.sampled_from(sorted(self.live))))
        self.node.end(lease)
        self.ended[lease.lease_id] = lease

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        lease = self.ended.pop(data.draw(st.sampled_from(sorted(self.ended))))
        self.node.plane(lease.kind).forget(lease)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), key=st.binary(min_size=32, max_size=32))
    def rekey(self, data: st.DataObject, key: bytes) -> None:
        lease = self.live[data.draw(st.sampled_from(sorted(self.live)))]._replace(dp_key=key)
        self.node.plane(lease.kind).rekey(lease)
        self.live[lease.lease_id] = lease

    @rule(lost=st.booleans())
    def restart(self, lost: bool) -> None:
        """The next daemon adopts what its journal knows, perhaps all but one lease, and takes back the rest."""
        if lost and self.live:
            self.live.pop(min(self.live))
        self.node.restart()
        for lease in self.live.values():
            self.node.plane(lease.kind).adopt(lease)
        for plane in (self.node.mem, self.node.block):
            for lease_id in plane.orphans(set(self.live)):
                plane.release(lease_id)
        self.ended.clear()

    @invariant()
    def each_has_its_own(self) -> None:
        node, known = self.node, {**self.live, **self.ended}
        slots = dict(node.table)
        assert slots.keys() == known.keys()
        assert len(set(slots.values())) == len(slots)
        for lease_id, lease in known.items():
            assert self.index.find(lease_id.to_bytes(16, "big")) == slots[lease_id]
            state = SlotState.ACTIVE if lease_id in self.live else SlotState.ENDED
            assert [node.field(lease, n) for n in ("state", "plane")] == [state, KINDS[lease.kind]]
        assert all(node.field(lease, "dp_key") == lease.dp_key for lease in self.live.values())


def test_both_planes_through_everything_that_happens(tmp_path: Path) -> None:
    BothPlanes.root = tmp_path
    run_state_machine_as_test(
        BothPlanes, settings=settings(max_examples=effort(quick=6, full=15), stateful_step_count=30, deadline=None)
    )
