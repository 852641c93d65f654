"""The QUIC data plane's bookkeeping: who greeted what, and how much of one peer may wait for a disk."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from fabricbios.daemon import datastreams
from fabricbios.daemon.datastreams import MAX_UNDER_WAY, DataStreams
from fabricbios.daemon.streamplanes import FBBU, BlockStreams
from fabricbios.model import DpStatus
from fabricbios.ports import StreamPeer
from fabricbios.wire import FbbuHello, FbbuHelloAck, FbbuReadBlock, FbbuReadBlockResp
from fabricbios.wire.dataplane import Hello, ReadBlock

HOLDER, OTHER = (StreamPeer(n, 0, n, b"k" * 32, b"", ("", 0), ("", 0)) for n in (1, 2))


class Plane:
    def device_of(self, lease_id: int) -> int:
        return lease_id // 1000 % 2

    def blocks(self, lease_id: int) -> tuple[DpStatus, int]:
        return DpStatus.OK, 8

    def read(self, lease_id: int, index: int, count: int) -> tuple[DpStatus, bytes]:
        return DpStatus.OK, bytes(512 * count)


class Rig:
    """Lease n * 1000 + anything is peer n's; what is slow waits in `waiting`."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], bytes], Callable[[bytes | None], None], Hashable]] = []
        self.ended: set[int] = set()
        plane: Any = Plane()
        self.streams = DataStreams({FBBU: BlockStreams(plane)}, self.holder, lambda *work: self.waiting.append(work))

    def holder(self, lease_id: int) -> int | None:
        return None if lease_id in self.ended else lease_id // 1000

    def ask(self, message: Any, peer: StreamPeer) -> list[bytes | None]:
        answers: list[bytes | None] = []
        self.streams.request(message.pack("quic"), peer, answers.append)
        return answers

    def hello(self, lease_id: int, peer: StreamPeer) -> DpStatus:
        (answer,) = self.ask(FbbuHello(1, lease_id, 1, Hello(lease_id)), peer)
        assert answer is not None
        return DpStatus(FbbuHelloAck.unpack(answer, "quic").payload.status)

    def read(self, peer: StreamPeer) -> list[DpStatus]:
        answers = self.ask(FbbuReadBlock(1, peer.node_id * 1000, 2, ReadBlock(0, 1)), peer)
        return [DpStatus(FbbuReadBlockResp.unpack(a, "quic").payload.status) for a in answers if a is not None]


def test_one_peer_may_have_so_much_waiting_for_the_disk_and_another_as_much_again() -> None:
    rig = Rig()
    assert [rig.hello(1000, HOLDER), rig.hello(2000, OTHER)] == [DpStatus.OK] * 2
    assert [rig.read(HOLDER) for _ in range(MAX_UNDER_WAY)] == [[]] * MAX_UNDER_WAY
    rig.streams.closed(HOLDER.connection)  # what a peer left behind counts as well
    assert rig.hello(1000, HOLDER) == DpStatus.OK
    assert rig.read(HOLDER) == [DpStatus.BUSY]
    assert rig.read(OTHER) == []
    work, done, _ = rig.waiting[0]
    done(work())
    assert rig.read(HOLDER) == []
    assert rig.read(HOLDER) == [DpStatus.BUSY]


def test_what_waits_for_one_store_is_bounded_and_keeps_nobody_from_another(monkeypatch: Any) -> None:
    monkeypatch.setattr(datastreams, "MAX_IN_LANE", 2)
    rig = Rig()
    for lease_id, peer in ((1000, HOLDER), (2000, OTHER)):
        rig.hello(lease_id, peer)
    assert [rig.read(HOLDER) for _ in range(3)] == [[], [], [DpStatus.BUSY]]
    assert rig.read(OTHER) == []
    assert [lane for _, _, lane in rig.waiting] == [1, 1, 0]
    work, done, _ = rig.waiting[0]
    done(work())
    assert rig.read(HOLDER) == []


def test_leases_that_ended_make_room_for_new_ones_of_the_same_connection(monkeypatch: Any) -> None:
    monkeypatch.setattr(datastreams, "MAX_GREETED", 2)
    rig = Rig()
    assert [rig.hello(1000 + n, HOLDER) for n in range(3)] == [DpStatus.OK, DpStatus.OK, DpStatus.BUSY]
    rig.ended.add(1000)
    assert rig.hello(1002, HOLDER) == DpStatus.OK
