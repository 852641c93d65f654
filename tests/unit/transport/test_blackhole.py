"""Which losses say that a path takes no large datagrams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count

from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch

from fabricbios.transport.blackhole import DATAGRAM_SIZE, SUSPECT, WatchingReno
from fabricbios.transport.datagrams import Address
from fabricbios.transport.limits import DEFAULTS
from tests.quic_rig import run, served

LARGE, SMALL = 8952, 300


class Path:
    """A congestion controller, and packets of both sizes that it sends, delivers and loses."""

    def __init__(self) -> None:
        self.reno = WatchingReno(max_datagram_size=LARGE)
        self.numbers: Iterator[int] = count()

    def sent(self, size: int) -> QuicSentPacket:
        number = next(self.numbers)
        packet = QuicSentPacket(Epoch.ONE_RTT, True, True, False, number, QuicPacketType.ONE_RTT, float(number), size)
        self.reno.on_packet_sent(packet=packet)
        return packet

    def delivered(self, packet: QuicSentPacket) -> None:
        self.reno.on_packet_acked(now=packet.sent_time + 1, packet=packet)

    def lost(self, *packets: QuicSentPacket) -> None:
        self.reno.on_packets_lost(now=packets[-1].sent_time + 1, packets=packets)


def test_large_ones_lost_while_small_ones_arrive_are_a_black_hole() -> None:
    path = Path()
    for _ in range(SUSPECT):
        assert not path.reno.black_hole
        large, small = path.sent(LARGE), path.sent(SMALL)
        path.delivered(small)
        path.lost(large)
    assert path.reno.black_hole
    assert path.reno.bytes_in_flight == 0


def test_probes_that_go_unanswered_count_alike() -> None:
    path = Path()
    for _ in range(SUSPECT):
        path.reno.on_packets_expired(packets=iter([path.sent(LARGE)]))
    assert path.reno.black_hole
    assert path.reno.bytes_in_flight == 0


def test_congestion_is_no_black_hole() -> None:
    """A queue drops the middle of every burst, and what was sent after it arrives."""
    path = Path()
    for _ in range(20):
        first, *middle, last = [path.sent(LARGE) for _ in range(30)]
        path.delivered(first)
        path.delivered(last)
        path.lost(*middle)
        assert not path.reno.black_hole


def test_one_large_one_that_arrives_clears_the_path() -> None:
    path = Path()
    for _ in range(10):
        for _ in range(SUSPECT - 1):
            path.lost(path.sent(LARGE))
        path.delivered(path.sent(LARGE))
    assert not path.reno.black_hole


def test_small_ones_lost_say_nothing() -> None:
    path = Path()
    for _ in range(10):
        path.lost(path.sent(SMALL), path.sent(DATAGRAM_SIZE))
    assert not path.reno.black_hole


def test_a_black_hole_is_found_while_small_ends_keep_the_timers_quiet() -> None:
    """A window of two large datagrams and some bytes: the rest of it goes into a small one, and arrives."""

    async def body() -> None:
        async with served(DEFAULTS) as rig:
            link = await rig.dial(rig.friend)
            assert len(await link.request(bytes(60_000))) == 60_000
            send, swallowed = link._endpoint.send, 0

            def narrow(data: bytes, address: Address) -> None:
                nonlocal swallowed
                if len(data) <= 1500:
                    send(data, address)
                else:
                    swallowed += 1

            link._endpoint.send = narrow  # type: ignore[method-assign]
            congestion = link._quic._loss._cc
            _, answer = link.ask(bytes(60_000))
            while not answer.done():
                if link._quic._max_datagram_size > DATAGRAM_SIZE:
                    congestion.congestion_window = 2 * LARGE + 500
                await asyncio.sleep(0)
            assert len(await answer) == 60_000
            assert link._quic._max_datagram_size == DATAGRAM_SIZE
            assert swallowed <= 2 * (SUSPECT + 2)  # what is on its way beside each loss

    run(body)
