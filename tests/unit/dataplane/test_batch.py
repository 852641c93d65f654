"""Batches over real sockets: datagrams coupled or cut apart as they came, and answers to each asker."""

import socket
from collections.abc import Iterator

import pytest

from fabricbios.dataplane import batch
from fabricbios.dataplane.batch import Batch
from fabricbios.dataplane.segments import MOST_SEGMENTS
from fabricbios.dataplane.trains import Train
from fabricbios.hw.syscalls import SOL_UDP, UDP_SEGMENT

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
            asker.settimeout(30)
            asker.connect(self.to)

    def turn(self) -> list[list[bytes]]:
        """Send back what is there; return its datagrams, train by train."""
        trains = self.batch.receive()
        assert self.batch.send(trains) == 0
        return [train.datagrams() for train in trains]

    def close(self) -> None:
        for sock in (self.sock, *self.askers):
            sock.close()


@pytest.fixture(params=[(family, wildcard) for family in FAMILIES for wildcard in (False, True)])
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    made = Echo(*request.param)
    yield made
    made.close()


def datagram(i: int, length: int = 100) -> bytes:
    return bytes([i]) * length


def send_train(asker: socket.socket, datagrams: list[bytes]) -> None:
    """Send datagrams, of one length but for the last, as one message."""
    asker.sendmsg([b"".join(datagrams)], [(SOL_UDP, UDP_SEGMENT, len(datagrams[0]).to_bytes(2, "little"))])


def test_what_came_one_by_one_is_coupled_by_length(echo: Echo) -> None:
    datagrams = [datagram(i, length) for i, length in enumerate((100, 100, 100, 57, 1400, 1400, 1, 100))]
    for one in datagrams:
        echo.askers[0].send(one)
    assert echo.turn() == [datagrams[:3], datagrams[3:4], datagrams[4:6], datagrams[6:7], datagrams[7:]]
    assert [echo.askers[0].recv(2048) for _ in datagrams] == datagrams


@pytest.mark.parametrize("last", [100, 99, 1])
def test_a_train_is_cut_where_its_datagrams_end(echo: Echo, last: int) -> None:
    datagrams = [datagram(i) for i in range(20)] + [datagram(20, last)]
    send_train(echo.askers[0], datagrams)
    echo.askers[0].send(datagram(21))
    turned = echo.turn()
    assert [one for train in turned for one in train] == [*datagrams, datagram(21)]
    assert len(turned[0]) == (21 if last == 100 else 20)
    assert [echo.askers[0].recv(2048) for _ in range(22)] == [*datagrams, datagram(21)]


def test_trains_of_the_most_segments_and_bytes_come_back_whole(echo: Echo) -> None:
    for length in (1, 1014, 1400):
        datagrams = [datagram(i, length) for i in range(min(MOST_SEGMENTS, 65_000 // length))]
        send_train(echo.askers[0], datagrams)
        assert echo.turn() == [datagrams]
        assert [echo.askers[0].recv(2048) for _ in datagrams] == datagrams


def test_two_askers_hear_their_own(echo: Echo) -> None:
    for i in range(4):
        echo.askers[i % 2].send(datagram(i))
    for side in (0, 1):
        send_train(echo.askers[side], [datagram(i) for i in range(4 + side, 8, 2)])
    assert [len(train) for train in echo.turn()] == [1, 1, 1, 1, 2, 2]
    for side in (0, 1):
        assert [echo.askers[side].recv(2048) for _ in range(4)] == [datagram(i) for i in range(side, 8, 2)]


def test_a_batch_after_a_train_forgets_it(echo: Echo) -> None:
    send_train(echo.askers[0], [datagram(i) for i in range(4)])
    echo.turn()
    echo.askers[1].send(datagram(9, 300))
    assert echo.turn() == [[datagram(9, 300)]]
    assert echo.askers[1].recv(2048) == datagram(9, 300)


def test_more_answers_than_go_into_one_message(echo: Echo) -> None:
    """Answers may be longer than what was asked, and more than MOST_SEGMENTS may answer one train."""
    echo.askers[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    echo.askers[0].send(b"?")
    (asked,) = echo.batch.receive()
    answers = [datagram(i, 1400) for i in range(100)]
    assert echo.batch.send([Train(b"".join(answers), 1400, asked.origin)]) == 0
    assert [echo.askers[0].recv(2048) for _ in answers] == answers


@pytest.mark.parametrize("lacking", ["_ask_for_trains", "segments"])
def test_without_trains_in_the_kernel_datagrams_go_one_by_one(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    if lacking == "segments":
        monkeypatch.setattr("fabricbios.dataplane.segments._can_segment", lambda sock: False)
    else:
        monkeypatch.setattr(batch, lacking, lambda sock: False)
    echo = Echo(socket.AF_INET, True)
    datagrams = [datagram(i) for i in range(6)]
    for one in datagrams:
        echo.askers[0].send(one)
    assert echo.turn() == [datagrams]
    assert [echo.askers[0].recv(2048) for _ in datagrams] == datagrams
    echo.close()


def test_a_datagram_of_any_length_is_told_as_long_as_it_is(echo: Echo) -> None:
    for length in (0, 9000, 0):
        echo.askers[0].send(bytes(length))
    assert [(train.size, train.length) for train in echo.batch.receive()] == [(0, 1), (9000, 1), (0, 1)]
    assert echo.batch.limit < 9000


def test_nothing_there_is_no_error(echo: Echo) -> None:
    assert echo.turn() == []


def test_an_asker_that_is_gone_stops_nobody(echo: Echo) -> None:
    echo.askers[0].send(datagram(1))
    echo.askers[1].send(datagram(2))
    echo.askers[0].close()
    for _ in range(2):
        echo.turn()
    assert echo.askers[1].recv(2048) == datagram(2)


def test_a_train_that_the_kernel_refuses_leaves_one_by_one() -> None:
    """It cuts none apart on a socket without checksums (net/ipv4/udp.c)."""
    echo = Echo(socket.AF_INET, True)
    echo.sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
    datagrams = [datagram(i) for i in range(3)]
    send_train(echo.askers[0], datagrams)
    assert echo.turn() == [datagrams]
    assert [echo.askers[0].recv(2048) for _ in datagrams] == datagrams
    echo.close()


def test_what_the_kernel_refuses_altogether_is_told() -> None:
    echo = Echo(socket.AF_INET, False)
    echo.askers[0].send(b"?")
    (asked,) = echo.batch.receive()
    assert echo.batch.send([Train(bytes(3 * 65_530), 65_530, asked.origin)]) == 3  # more than UDP can carry
    echo.close()
