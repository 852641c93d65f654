"""No packet is begun that would stay empty, and none is left out that would not."""

from collections.abc import Callable

import pytest
from aioquic.quic.packet_builder import QuicPacketBuilder
from quic_rig import Rig, run, served

from fabricbios.transport.connection import Session
from fabricbios.transport.quic import STREAM_CREDIT

Begun = list[int]


async def opened(rig: Rig) -> Session:
    """Return the node's end of a connection that has nothing more to say."""
    link = await rig.dial(rig.friend)
    await link.request(b"opened")
    session = next(iter(rig.server._sessions.values()))
    session.quic.datagrams_to_send(rig.server._loop.time())
    assert not session.quic._has_more()
    return session


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Where a number is put for each packet that any connection begins."""
    numbers: Begun = []
    begin: Callable[..., None] = QuicPacketBuilder.start_packet

    def counted(self: QuicPacketBuilder, *what: object) -> None:
        numbers.append(self.packet_number)
        begin(self, *what)

    monkeypatch.setattr(QuicPacketBuilder, "start_packet", counted)
    return numbers


def test_behind_the_last_data_no_packet_is_begun(begun: Begun) -> None:
    async def body() -> None:
        async with served() as rig:
            session = await opened(rig)
            session.quic._pacer.packet_time = None  # no pace is kept
            for size, packets in ((100, 1), (3 * session.quic._max_datagram_size, 4)):
                begun.clear()
                assert session.push(bytes(size))
                sent = session.quic.datagrams_to_send(rig.server._loop.time())
                assert len(begun) == len(sent) == packets
                assert session.quic._pacing_at is None
                assert not session.quic._has_data()

    run(body)


def test_who_must_wait_for_the_pace_has_a_timer_for_it() -> None:
    async def body() -> None:
        async with served() as rig:
            quic = (await opened(rig)).quic
            now = rig.server._loop.time() + 1
            quic._pacer.packet_time = quic._pacer.bucket_max = quic._pacer.bucket_time = 0.5
            quic._pacer.evaluation_time = now
            quic.send_stream_data(quic.get_next_available_stream_id(True), bytes(2 * quic._max_datagram_size))
            assert len(quic.datagrams_to_send(now)) == 1
            assert quic._pacing_at == now + 0.5

    run(body)


@pytest.mark.parametrize(("left", "packets"), [(STREAM_CREDIT - 1, 2), (STREAM_CREDIT, 1)])
def test_room_for_streams_is_worth_a_packet_to_who_runs_short_of_it(begun: Begun, left: int, packets: int) -> None:
    """Streams that ended are let go while the data are written, behind the place where room for more is told."""

    async def body() -> None:
        async with served() as rig:
            session = await opened(rig)
            quic, limit = session.quic, session.quic._local_max_streams_bidi
            told = limit.sent
            for n in range(limit.used, limit.used + STREAM_CREDIT + told - limit.value):
                stream = quic._get_or_create_stream(0, 4 * n)
                stream.receiver.is_finished = stream.sender.is_finished = True
            limit.used = limit.sent - left
            begun.clear()
            assert session.push(b"event")
            now = rig.server._loop.time()
            assert len(quic.datagrams_to_send(now)) == len(begun) == packets
            session.push(b"another")
            quic.datagrams_to_send(now)
            assert limit.sent == told + STREAM_CREDIT

    run(body)
