"""What a server answers in one go, over a real socket: who ends a lease waits for no more than that."""

import socket
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest
from fbbu_rig import FbbuRig, read_block

from fabricbios.dataplane.batch import Batch
from fabricbios.dataplane.counters import COUNTERS, CountedOp
from fabricbios.dataplane.loop import Channel
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import Train
from fabricbios.hw.syscalls import SOL_UDP, UDP_SEGMENT
from fabricbios.model import DpStatus

TRAIN = 60


class Watched:
    """A responder that notes the batch, by the number that the daemon sees, and how many datagrams it answers in it."""

    def __init__(self, rig: FbbuRig) -> None:
        self._responder = rig._responder
        self.record = memoryview(bytearray(COUNTERS.size))
        self.tally = Tally(self.record)
        self.seen: list[tuple[int, int]] = []

    def answer(self, trains: Iterable[Train]) -> list[Train]:
        asked = list(trains)
        self.seen.append((COUNTERS.get(self.record, 0, "batch"), sum(train.length for train in asked)))
        return self._responder.answer(asked)


@pytest.fixture
def served() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.mark.parametrize(("trains", "portions"), [(0, [0]), (1, [60]), (2, [120]), (3, [120, 60]), (5, [120, 120, 60])])
def test_what_came_together_is_answered_in_portions(
    tmp_path: Path, served: socket.socket, trains: int, portions: list[int]
) -> None:
    rig = FbbuRig(tmp_path / "disk")
    rig.open()
    watched = Watched(rig)
    channel = Channel(Batch(served), watched)
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(30)
        asker.connect(served.getsockname())
        for number in range(trains):
            asked = [read_block(0, nonce=1 + number * TRAIN + i) for i in range(TRAIN)]
            asker.sendmsg([b"".join(asked)], [(SOL_UDP, UDP_SEGMENT, len(asked[0]).to_bytes(2, "little"))])
        channel.serve(watched.tally)
        assert not trains or asker.recv(2048)[56] == DpStatus.OK
    assert watched.seen == [(2 * i + 1, portion) for i, portion in enumerate(portions)]
    assert COUNTERS.get(watched.record, 0, "batch") == 2 * len(portions)
    assert [sum(train.length for train in part) for part in channel.last] == [trains * TRAIN] * 2
    assert rig.tally.requests[CountedOp.READ] == rig.tally.statuses[DpStatus.OK] == trains * TRAIN


@pytest.mark.parametrize(
    ("lengths", "is_lone"), [([], False), ([1], True), ([1, 1], False), ([0], False), ([2], False)]
)
def test_a_lone_question_is_told_from_all_else(
    tmp_path: Path, served: socket.socket, lengths: list[int], is_lone: bool
) -> None:
    """`lengths` are questions a message; 0 is none of them."""
    rig = FbbuRig(tmp_path / "disk")
    rig.open()
    channel, nonces = Channel(Batch(served), rig._responder), count(1)
    assert not channel.answered_one()
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.connect(served.getsockname())
        for length in lengths:
            asked = [read_block(0, nonce=next(nonces)) for _ in range(length)] or [b"?"]
            asker.sendmsg([b"".join(asked)], [(SOL_UDP, UDP_SEGMENT, len(asked[0]).to_bytes(2, "little"))])
        channel.serve(rig.tally)
    assert channel.answered_one() == is_lone
