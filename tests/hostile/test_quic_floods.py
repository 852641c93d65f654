"""Clients that cost too much: junk, half-open handshakes and streams, too many of everything. Good ones stay served."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc

import pytest
from aioquic.quic.packet import QuicErrorCode
from quic_rig import FIRST_LIMIT, PATIENT, TRUSTED_LIMIT, Rig, run, served, until

from fabricbios.errors import Disconnected
from fabricbios.transport import DEFAULTS, Identity, Link, accept_anyone, dial
from fabricbios.transport.link import _Asked
from fabricbios.transport.quic import ClientConnection, unix_now
from fabricbios.transport.server import _parse_initial

JUNK = 10_000


def udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.connect(("127.0.0.1", port))
    return sock


def initial(token: bytes = b"", version: int = 1) -> bytes:
    """Return 1200 bytes that look like a client's first packet."""
    head = bytes([0xC3]) + version.to_bytes(4, "big") + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    head += bytes([0x40, len(token)]) + token
    rest = 1200 - len(head) - 2
    return head + (0x4000 | rest).to_bytes(2, "big") + os.urandom(rest)


def drain(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(65536))
        except (BlockingIOError, ConnectionRefusedError):
            return found


async def flood(sock: socket.socket, packets: list[bytes]) -> tuple[int, int]:
    """Send all; return bytes sent and bytes that came back."""
    sent = received = 0
    for n, packet in enumerate(packets):
        sent += sock.send(packet)
        if n % 50 == 49:
            await asyncio.sleep(0)
            received += sum(map(len, drain(sock)))
    await asyncio.sleep(0.05)
    return sent, received + sum(map(len, drain(sock)))


def test_ten_thousand_junk_initials_cost_nothing_and_amplify_nothing() -> None:
    async def body() -> None:
        async with served() as rig:
            await rig.assert_friend_is_served()
            junk = [initial() for _ in range(JUNK // 10)]
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            with udp(rig.port) as sock:
                total = [await flood(sock, junk) for _ in range(10)]
                forged = await flood(sock, [initial(os.urandom(40)) for _ in range(500)])
                await rig.assert_friend_is_served()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            await until(lambda: rig.server.handshakes["retry_sent"] >= JUNK)
            await until(lambda: rig.server.handshakes["bad_token"] == 500)
            assert sum(back for _, back in total) < 0.2 * sum(sent for sent, _ in total)
            assert forged[1] == 0
            assert rig.server.connections <= 1  # the friend's may still be closing
            assert grown < 1 << 20

    run(body)


def test_garbage_draws_silence_and_is_counted() -> None:
    garbage = [b"", b"\x00", b"\xff", bytes(1200), b"\xff" * 1200, b"\x40" + os.urandom(30), initial()[:1199]]
    garbage += [os.urandom(n) for n in (5, 6, 7, 60, 300)]
    garbage += [b"\xc0\x00\x00\x00\x00\x08" + bytes(1300)]  # a version negotiation packet, never answered with one

    async def body() -> None:
        async with served() as rig:
            with udp(rig.port) as sock:
                _, back = await flood(sock, garbage)
                assert back == 0
            await until(lambda: rig.server.faults["junk"] == len(garbage))
            await rig.assert_friend_is_served()

    run(body)


def test_an_unknown_version_draws_a_short_list_and_only_for_a_full_datagram() -> None:
    async def body() -> None:
        async with served() as rig:
            with udp(rig.port) as sock:
                _, back = await flood(sock, [initial(version=0x1A2A3A4A), initial(version=0x1A2A3A4A)[:900]])
            assert 0 < back < 60
            assert rig.server.faults["version_negotiation"] == 1

    run(body)


async def half_handshake(port: int) -> ClientConnection:
    """Prove the address (answer the Retry) and go silent before Finished."""
    quic = ClientConnection(Identity.generate(), DEFAULTS, unix_now, accept_anyone)
    loop = asyncio.get_running_loop()
    with udp(port) as sock:
        quic.connect(("127.0.0.1", port), loop.time())
        sock.send(quic.datagrams_to_send(loop.time())[0][0])
        await until(lambda: bool(feed(quic, sock, port)))
        sock.send(quic.datagrams_to_send(loop.time())[0][0])
        await asyncio.sleep(0.005)
    return quic


def feed(quic: ClientConnection, sock: socket.socket, port: int) -> int:
    packets = drain(sock)
    for packet in packets:
        quic.receive_datagram(packet, ("127.0.0.1", port), asyncio.get_running_loop().time())
    return len(packets)


def test_half_open_handshakes_are_bounded() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(half_open=5)) as rig:
            for number in range(1, 13):
                await half_handshake(rig.port)
                await until(lambda number=number: rig.server.connections + rig.server.handshakes["evicted"] == number)
                assert rig.server.connections <= 5
            assert rig.server.handshakes["evicted"] == 7
            await rig.assert_friend_is_served()

    run(body)


def test_half_open_handshakes_time_out() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(handshake_seconds=0.5)) as rig:
            for _ in range(4):
                await half_handshake(rig.port)
            await until(lambda: rig.server.handshakes["timed_out"] == 4)
            assert rig.server.connections == 0
            assert rig.echo.opened == rig.echo.closed == []

    run(body)


def unfinished(link: Link, data: bytes) -> tuple[int, asyncio.Future[bytes]]:
    """Send a request without its end."""
    stream = link._quic.get_next_available_stream_id()
    link._quic.send_stream_data(stream, data)
    answer = asyncio.get_running_loop().create_future()
    link._waiting[stream] = _Asked(answer, float("inf"), 0.0, 0, 0.0)
    link._touch()
    return stream, answer


def test_streams_that_are_never_finished_are_reset() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(stream_seconds=0.4)) as rig:
            link = await rig.dial()
            _, answer = unfinished(link, b"FBIO")
            with pytest.raises(Disconnected, match="code 2"):
                async with asyncio.timeout(60):
                    await answer
            assert rig.server.faults["stream_timeout"] == 1
            assert rig.echo.asked == []
            assert await link.request(b"still good") == b"still good"

    run(body)


def test_a_stream_that_was_skipped_is_reset_too() -> None:
    """Opening stream 4 opens stream 0 with it, which then never carries a byte."""

    async def body() -> None:
        async with served(PATIENT._replace(stream_seconds=0.4)) as rig:
            link = await rig.dial()
            link._quic._local_next_stream_id_bidi = 4
            assert await link.request(b"second") == b"second"
            await until(lambda: rig.server.faults["stream_timeout"] == 1)
            await rig.assert_friend_is_served()

    run(body)


def test_a_sixty_fifth_stream_closes_the_connection_that_opens_it() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial()
            quiet = [unfinished(link, b"x") for _ in range(64)]
            await asyncio.sleep(0.05)
            assert not any(answer.done() for _, answer in quiet)
            link._quic._remote_max_streams_bidi = 1000  # an honest client would wait
            unfinished(link, b"one too many")
            await until(lambda: link.closed)
            assert link._quic._close_event.error_code == QuicErrorCode.STREAM_LIMIT_ERROR
            for _, answer in quiet:
                assert isinstance(answer.exception(), Disconnected)
            await rig.assert_friend_is_served()

    run(body)


def test_a_unidirectional_stream_closes_the_connection() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial()
            link._quic._remote_max_streams_uni = 10
            link._quic.send_stream_data(link._quic.get_next_available_stream_id(True), b"psst", True)
            link._touch()
            await until(lambda: link.closed)
            assert rig.echo.asked == []

    run(body)


@pytest.mark.parametrize(("trusted", "limit"), [(False, FIRST_LIMIT), (True, TRUSTED_LIMIT)])
def test_a_request_over_its_limit_is_reset_before_it_is_whole(trusted: bool, limit: int) -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend if trusted else None)
            assert await link.request(bytes(limit)) == bytes(limit)
            with pytest.raises(Disconnected, match="code 1"):
                await link.request(bytes(limit + 1))
            _, answer = unfinished(link, bytes(limit + 1))
            with pytest.raises(Disconnected, match="code 1"):
                await answer
            assert rig.server.faults["request_too_long"] == 2
            assert len(rig.echo.asked) == 1
            assert await link.request(b"x") == b"x"
            session = next(iter(rig.server._sessions.values()))
            assert session.trusted is trusted
            assert session.quic.window == (PATIENT.window if trusted else PATIENT.first_window)

    run(body)


def claim_offset(link: Link, offset: int) -> None:
    """Send one byte that says it stands at `offset`, minding no limit."""
    quic = link._quic
    stream = quic._get_or_create_stream_for_send(quic.get_next_available_stream_id())
    stream.max_stream_data_remote = quic._remote_max_data = 1 << 60
    sender = stream.sender
    sender._buffer_start = sender._buffer_stop = sender.highest_offset = offset
    quic.send_stream_data(stream.stream_id, b"x")
    link._touch()


def held_by_engine(rig: Rig) -> int:
    sessions = rig.server._sessions.values()
    return sum(len(s.receiver._buffer) for session in sessions for s in session.quic._streams.values())


def test_a_named_offset_opens_no_window() -> None:
    """Stock aioquic doubles its windows on what is claimed: twelve one-byte frames, a gigabyte allocated."""

    async def body() -> None:
        async with served() as rig:
            link = await rig.dial()
            await link.request(b"hello")
            for part in range(3):
                claim_offset(link, 16_000 + part)
                await asyncio.sleep(0.01)
            await until(lambda: held_by_engine(rig) > 0)
            assert held_by_engine(rig) <= PATIENT.first_window
            assert not link.closed
            claim_offset(link, 40_000)  # 48k are claimed already
            await until(lambda: link.closed)
            assert link._quic._close_event.error_code == QuicErrorCode.FLOW_CONTROL_ERROR
            await until(lambda: held_by_engine(rig) == 0)
            await rig.assert_friend_is_served()

    run(body)


def test_a_hundred_thousand_bytes_pass_a_window_of_64k_when_they_are_consumed() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial()
            for _ in range(50):
                assert len(await link.request(bytes(4000))) == 4000

    run(body)


def test_slow_lorises_give_way_to_a_trusted_client() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(connections=10)) as rig:
            friend = await rig.dial(rig.friend)
            assert await friend.request(b"first") == b"first"
            lorises = [await rig.dial() for _ in range(25)]
            for loris in lorises:
                unfinished(loris, b"F")
            await asyncio.sleep(0.05)
            assert rig.server.connections <= 10
            assert rig.server.handshakes["evicted"] >= 15
            assert await friend.request(b"still here") == b"still here"
            await rig.assert_friend_is_served()

    run(body)


def test_one_trusted_peer_never_has_the_whole_table() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(connections=6, connections_a_peer=3)) as rig:
            greedy = Identity.generate()
            rig.echo.trusted.add(greedy.public_key)
            links = []
            for _ in range(5):
                links.append(await rig.dial(greedy))
                assert await links[-1].request(b"greedy") == b"greedy"
            await rig.assert_friend_is_served()
            assert rig.server.handshakes["evicted"] == 2
            await until(lambda: [link.closed for link in links] == [True, True, False, False, False])

    run(body)


def test_a_table_full_of_trusted_clients_refuses_the_next() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(connections=3)) as rig:
            friends = [await rig.dial(rig.friend) for _ in range(3)]
            for friend in friends:
                await friend.request(b"hello")
            with pytest.raises(Disconnected):
                await dial("127.0.0.1", rig.port, None, accept_anyone, timeout=3)
            assert rig.server.handshakes["busy"] >= 1
            assert await friends[0].request(b"x") == b"x"

    run(body)


def test_a_stream_closed_early_is_forgotten_and_its_answer_dropped() -> None:
    async def body() -> None:
        async with served() as rig:
            rig.echo.silent = True
            link = await rig.dial()
            stream, _ = link.ask(b"never mind")
            await until(lambda: len(rig.echo.asked) == 1)
            link._give_up(stream)
            half, _ = unfinished(link, b"neither this")
            (session,) = rig.server._sessions.values()
            await until(lambda: half in session.quic._streams)
            link._give_up(half)
            await until(lambda: rig.server.faults["stream_given_up"] == 1)
            await asyncio.sleep(0.02)
            assert rig.server.answer(rig.echo.asked[0][1], b"too late") is False
            assert rig.server.faults["answer_unwanted"] == 1
            rig.echo.silent = False
            assert await link.request(b"next") == b"next"

    run(body)


def test_a_client_that_vanishes_is_forgotten_with_its_streams() -> None:
    async def body() -> None:
        async with served(PATIENT._replace(idle_seconds=2.0)) as rig:
            rig.echo.silent = True
            link = await rig.dial()
            link.ask(b"question")
            await until(lambda: len(rig.echo.asked) == 1)
            peer = rig.echo.asked[0][1]
            link._endpoint.close()
            for handle in (link._timer, link._keeper):
                if handle is not None:
                    handle.cancel()
            await until(lambda: rig.echo.closed == [peer.connection])
            assert rig.server.connections == 0
            assert rig.server.answer(peer, b"late") is False
            assert rig.server.push(peer.connection, b"event") is False

    run(body)


def test_parsing_refuses_what_cannot_open_a_connection() -> None:
    assert _parse_initial(initial()) is not None
    assert _parse_initial(initial()[:1199]) is None
    assert _parse_initial(bytes([0x43]) + initial()[1:]) is None  # a short header
    assert _parse_initial(bytes([0xE3]) + initial()[1:]) is None  # Handshake, not Initial
