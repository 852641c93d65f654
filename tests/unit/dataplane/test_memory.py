"""Memory leases: bound, renewed, ended, wiped (D8, D9), without a server process."""

import errno

import pytest

from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.memory import EXTENT, SLOT_STEP, MemoryPlane
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import SlotState, SlotTable
from fabricbios.errors import LocalMisuse
from fabricbios.model import Binding, DpAuth, DpStatus, ResourceType, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import DpAuthTlv, DpKey, Endpoint, Limits

SPEC = LeaseSpec(9, 1, ResourceType.MEM, Binding.UDP, 10000, 3, 1, DpAuth.SIPHASH_FULL, b"k" * 32, 3, 1000, "192.0.2.1")
V4 = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
V6 = bytes.fromhex("20010db8000000000000000000000001")
LISTENERS = [
    Listener(Transport.FBMU_UDP, "0.0.0.0", 5702),
    Listener(Transport.FBMU_UDP, "::", 5702),
    Listener(Transport.FBMU_QUIC, "2001:db8::1", 5701),
]


class Node:
    """A plane with a megabyte, four slots, and a clock and quiescence of its own."""

    def __init__(self) -> None:
        self.now, self.quiesced, self.stuck = 0, 0, False
        self.memory = Memory.create(1 << 20)
        self.board = LeaseBoard.create(4)
        self.table = self.board.table()
        self.plane = self.plane_over(self.table)

    def plane_over(self, table: SlotTable, recovered: bool = False) -> MemoryPlane:
        return MemoryPlane(
            table, self.memory, LISTENERS, self.quiesce, mtu_of=self.mtu, clock=lambda: self.now, recovered=recovered
        )

    def mtu(self, address: str) -> int:
        return {"192.0.2.1": 1500, "192.0.2.9": 1400}.get(address, 9000)

    def quiesce(self) -> None:
        self.quiesced += 1
        if self.stuck:
            raise OSError(errno.ETIMEDOUT, "stuck")

    def bind(self, lease: LeaseSpec = SPEC) -> list[object]:
        return [tlv for step in self.plane.steps(lease) for tlv in self.plane.do(step, lease)]

    def end(self, lease: LeaseSpec = SPEC) -> None:
        for step in reversed(self.plane.steps(lease)):
            self.plane.undo(step, lease)


@pytest.fixture
def node() -> Node:
    return Node()


def test_binding_tells_where_how_much_and_the_key(node: Node) -> None:
    assert node.bind() == [
        Endpoint(Transport.FBMU_UDP, V4, 5702), Limits(10000, 1408, 1404), DpKey(b"k" * 32), DpAuthTlv(3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reached", "read", "write"),
    [("192.0.2.9", 1308, 1304), ("::ffff:192.0.2.1", 1408, 1404), ("2001:db8::1%eth0", 1388, 1384)],
)
def test_limits_are_what_fits_at_the_reached_address(node: Node, reached: str, read: int, write: int) -> None:
    assert node.bind(SPEC._replace(reached=reached))[1] == Limits(10000, read, write)


def test_over_quic_no_key_is_told(node: Node) -> None:
    told = node.bind(SPEC._replace(binding=Binding.QUIC))
    assert told == [Endpoint(Transport.FBMU_QUIC, V6, 5701), Limits(10000, (1 << 20) - 64, (1 << 20) - 68)]


def test_a_binding_that_nobody_serves_is_no_address(node: Node) -> None:
    with pytest.raises(OSError, match="nothing serves") as refused:
        node.plane.do(SLOT_STEP, SPEC._replace(reached=""))
    assert refused.value.errno == errno.EADDRNOTAVAIL
    node.end()  # a do that failed may have half happened
    assert node.plane.available == 1 << 20


def test_a_plan_of_an_earlier_release_is_undone(node: Node) -> None:
    node.bind()
    node.plane.write(9, 0, b"secret")
    for step in (SLOT_STEP, EXTENT):
        node.plane.undo(step, SPEC)
    assert node.plane.available == 1 << 20
    assert not any(node.memory.view[:16384])


def test_more_than_there_is_is_no_space(node: Node) -> None:
    with pytest.raises(OSError, match="in one piece") as full:
        node.plane.do(SLOT_STEP, SPEC._replace(size=(1 << 20) + 1))
    assert full.value.errno == errno.ENOSPC


def test_every_step_may_be_done_and_undone_twice(node: Node) -> None:
    assert node.bind() == node.bind()
    assert node.plane.available == (1 << 20) - 12288
    node.end()
    node.end()
    assert node.plane.available == 1 << 20


def test_undo_of_what_never_ran_succeeds(node: Node) -> None:
    node.end()
    node.plane.forget(SPEC)


def test_the_next_holder_reads_zeros(node: Node) -> None:
    node.bind()
    assert node.plane.write(9, 0, b"secret") == DpStatus.OK
    node.end()
    assert not any(node.memory.view[:16384])
    node.bind(SPEC._replace(lease_id=10))
    assert node.plane.read(10, 0, 6) == (DpStatus.OK, bytes(6))


def test_bytes_are_not_touched_before_everybody_is_through(node: Node) -> None:
    node.bind()
    node.plane.write(9, 0, b"secret")
    node.stuck = True
    with pytest.raises(OSError, match="stuck"):
        node.plane.undo(SLOT_STEP, SPEC)
    assert node.plane.read(9, 0, 6) == (DpStatus.EXPIRED, b"")
    assert bytes(node.memory.view[:6]) == b"secret"
    assert node.plane.available < 1 << 20
    node.stuck = False
    node.end()
    assert (bytes(node.memory.view[:6]), node.quiesced) == (bytes(6), 2)


def test_the_bytes_of_an_open_slot_are_never_wiped(node: Node) -> None:
    node.bind()
    with pytest.raises(LocalMisuse):
        node.plane.undo(EXTENT, SPEC)


def test_renewing_is_seen_at_once(node: Node) -> None:
    node.bind()
    node.now = 1000
    assert node.plane.read(9, 0, 1)[0] == DpStatus.EXPIRED
    node.plane.renew(SPEC._replace(expires_ns=1001, generation=2))
    assert node.plane.read(9, 0, 1)[0] == DpStatus.OK
    slot = node.table.find(9)
    assert slot is not None
    assert node.table.get(slot, "generation") == 2


def test_rekey_keeps_the_bytes(node: Node) -> None:
    node.bind()
    node.plane.write(9, 5, b"kept")
    told = node.plane.rekey(SPEC._replace(dp_key=b"n" * 32))
    assert told[2] == DpKey(b"n" * 32)
    assert node.plane.read(9, 5, 4) == (DpStatus.OK, b"kept")


def test_renew_and_rekey_of_a_stranger_fail(node: Node) -> None:
    for change in (node.plane.renew, node.plane.rekey, node.plane.adopt):
        with pytest.raises(OSError, match="lease") as unknown:
            change(SPEC)
        assert unknown.value.errno == errno.ENOENT


def test_ended_answers_expired_until_forgotten(node: Node) -> None:
    node.bind()
    node.end()
    assert node.plane.length(9) == (DpStatus.EXPIRED, 0)
    node.plane.forget(SPEC)
    assert node.plane.length(9) == (DpStatus.INVALID_LEASE, 0)


def test_a_fenced_lease_says_so(node: Node) -> None:
    node.bind()
    node.plane.fence(SPEC)
    assert node.plane.write(9, 0, b"x") == DpStatus.FENCED


@pytest.mark.parametrize(
    ("offset", "length", "status"),
    [
        (0, 10000, DpStatus.OK),
        (0, 0, DpStatus.BAD_LENGTH),
        (0, 1 << 20, DpStatus.BAD_LENGTH),
        (9999, 2, DpStatus.OUT_OF_RANGE),
        ((1 << 64) - 1, 2, DpStatus.OUT_OF_RANGE),
    ],
)
def test_direct_reads_stay_inside_the_lease(node: Node, offset: int, length: int, status: DpStatus) -> None:
    node.bind()
    assert node.plane.read(9, offset, length)[0] == status
    assert node.plane.write(9, offset, bytes(length)) == status


def test_rights_hold_for_direct_operations(node: Node) -> None:
    node.bind(SPEC._replace(rights=1))
    assert node.plane.write(9, 0, b"x") == DpStatus.OUT_OF_RANGE
    assert node.plane.read(9, 0, 1)[0] == DpStatus.OK


def test_a_successor_adopts_what_is_open_and_wipes_what_nobody_has(node: Node) -> None:
    node.bind()
    node.plane.write(9, 0, b"kept")
    node.memory.view[500000] = 7  # of a lease that died in the middle of its teardown
    successor = node.plane_over(SlotTable(node.board.slots.buffer), recovered=True)
    successor.adopt(SPEC._replace(expires_ns=2000))
    assert successor.read(9, 0, 4) == (DpStatus.OK, b"kept")
    assert node.memory.view[500000] == 0
    assert successor.available == node.plane.available


def test_an_ended_lease_is_not_adopted_and_holds_nothing(node: Node) -> None:
    node.bind()
    node.end()
    successor = node.plane_over(SlotTable(node.board.slots.buffer))
    with pytest.raises(OSError, match="did not outlive"):
        successor.adopt(SPEC)
    assert successor.available == 1 << 20


def test_no_slot_left_is_no_space(node: Node) -> None:
    for lease_id in range(1, 5):
        node.bind(SPEC._replace(lease_id=lease_id))
    with pytest.raises(OSError, match="no free lease slot"):
        node.bind(SPEC._replace(lease_id=5))
    node.end(SPEC._replace(lease_id=5))
    slot = node.table.find(4)
    assert slot is not None
    assert node.table.get(slot, "state") == SlotState.ACTIVE


def test_a_new_key_is_told_when_nothing_asked_with_the_old_one_is_under_way(node: Node) -> None:
    node.bind()
    old = node.table.find(9)
    slots: list[int | None] = []
    node.plane._slots._quiesce = lambda: slots.append(node.table.find(9))
    node.plane.rekey(SPEC._replace(dp_key=b"n" * 32))
    assert len(slots) == 1
    assert slots[0] != old  # the old one was closed before


def test_without_that_wait_no_new_key_is_told(node: Node) -> None:
    node.bind()
    node.stuck = True
    with pytest.raises(OSError, match="stuck"):
        node.plane.rekey(SPEC._replace(dp_key=b"n" * 32))
