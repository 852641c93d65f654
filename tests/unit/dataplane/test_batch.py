"""Batches over real sockets: scattered in, gathered out, alone and as one message."""

import socket
from collections.abc import Iterator

import pytest

from fabricbios.dataplane.batch import STRIDE, Batch

FAMILIES = {socket.AF_INET: ("127.0.0.1", "0.0.0.0"), socket.AF_INET6: ("::1", "::")}


class Echo:
    """A socket whose batch answers what came with itself."""

    def __init__(self, family: socket.AddressFamily, wildcard: bool) -> None:
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((FAMILIES[family][wildcard], 0))
        self.to = (FAMILIES[family][0], self.sock.getsockname()[1])
        self.batch = Batch(self.sock, 8)
        self.askers = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for asker in self.askers:
            asker.settimeout(2)
            asker.connect(self.to)

    def turn(self, *, drop: tuple[int, ...] = ()) -> list[int]:
        n = self.batch.receive()
        lengths = self.batch.lengths(n)
        assert self.batch.send([-1 if b in drop else length - 56 for b, length in enumerate(lengths)]) == 0
        return lengths

    def close(self) -> None:
        for sock in (self.sock, *self.askers):
            sock.close()


@pytest.fixture(params=[(family, wildcard) for family in FAMILIES for wildcard in (False, True)])
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    made = Echo(*request.param)
    yield made
    made.close()


def datagram(i: int, length: int = 100) -> bytes:
    return bytes([i]) * 40 + bytes([i + 100]) * 16 + bytes([i + 200]) * (length - 56)


def test_the_tag_stands_apart_so_that_the_message_is_in_one_piece(echo: Echo) -> None:
    echo.askers[0].send(datagram(1))
    assert echo.turn() == [100]
    assert echo.batch.arena[:100] == bytes([101]) * 16 + bytes([1]) * 40 + bytes([201]) * 44
    assert echo.askers[0].recv(2048) == datagram(1)


def test_alike_or_not_every_answer_comes_back_as_it_was(echo: Echo) -> None:
    for lengths in ([100] * 8, [100, 101, 100, 102, 56, 57, 1400, 100], [60]):
        for i, length in enumerate(lengths):
            echo.askers[0].send(datagram(i, length))
        assert echo.turn() == lengths
        assert [echo.askers[0].recv(2048) for _ in lengths] == [datagram(i, n) for i, n in enumerate(lengths)]


def test_two_askers_hear_their_own(echo: Echo) -> None:
    for i in range(8):
        echo.askers[i % 2].send(datagram(i))
    echo.turn()
    for side in (0, 1):
        assert [echo.askers[side].recv(2048) for _ in range(4)] == [datagram(i) for i in range(side, 8, 2)]


def test_holes_close_up_and_the_next_batch_is_whole(echo: Echo) -> None:
    for drop in ((0, 3, 4), (), (7,), (1,)):
        for i in range(8):
            echo.askers[i % 2].send(datagram(i))
        echo.turn(drop=drop)
        for side in (0, 1):
            mine = [i for i in range(side, 8, 2) if i not in drop]
            assert [echo.askers[side].recv(2048) for _ in mine] == [datagram(i) for i in mine]


def test_an_endless_datagram_is_cut_where_it_is_seen_to_be_too_long(echo: Echo) -> None:
    echo.askers[0].send(bytes(9000))
    n = echo.batch.receive()
    assert echo.batch.lengths(n) == [echo.batch.limit + 1]
    assert len(echo.batch.arena) == 8 * STRIDE


def test_nothing_there_is_no_error(echo: Echo) -> None:
    assert echo.batch.receive() == 0


def test_an_asker_that_is_gone_stops_nobody(echo: Echo) -> None:
    echo.askers[0].send(datagram(1))
    echo.askers[1].send(datagram(2))
    echo.askers[0].close()
    for _ in range(2):
        echo.turn()
    assert echo.askers[1].recv(2048) == datagram(2)
