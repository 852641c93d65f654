"""What a well-behaved pair of ends does: many questions, events, several addresses, migration of trust."""

import asyncio
import ipaddress
from typing import Any

import pytest
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from leaping_loop import LeapingLoop
from quic_rig import Echo, Rig, run, served, until

from fabricbios.errors import Disconnected, LocalMisuse, TimedOut
from fabricbios.ports import StreamPeer
from fabricbios.transport import DEFAULTS, Identity, QuicServer, accept_anyone, dial
from fabricbios.transport.link import open_link
from fabricbios.transport.quic import DATAGRAM_SIZE, LARGEST_DATAGRAM, STREAM_CREDIT, ClientConnection, unix_now


def test_many_questions_at_once_each_get_their_own_answer() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            asked = [bytes([n % 256]) * (1 + n * 37 % 4000) for n in range(300)]
            assert await asyncio.gather(*map(link.request, asked)) == asked
            assert not rig.server.faults

    run(body)


async def hearing(rig: Rig) -> tuple[list[bytes], int]:
    """Dial as a friend; return what events will have come, and the connection's number at the server."""
    link = await rig.dial(rig.friend)
    heard: list[bytes] = []
    link.on_push = heard.append
    await link.request(b"hello")
    return heard, rig.echo.opened[0].connection


def test_a_large_answer_comes_whole() -> None:
    async def body() -> None:
        async with served() as rig:
            rig.echo.silent = True
            link = await rig.dial(rig.friend)
            _, answer = link.ask(b"read")
            await until(lambda: len(rig.echo.asked) == 1)
            large = bytes(range(256)) * 8192
            assert rig.server.answer(rig.echo.asked[0][1], large)
            assert await asyncio.wait_for(answer, 60) == large

    run(body)


def test_events_reach_the_peer_each_on_a_stream_of_its_own() -> None:
    async def body() -> None:
        async with served() as rig:
            heard, connection = await hearing(rig)
            for n in range(200):
                assert rig.server.push(connection, b"event %d" % n)
                if n % 32 == 31:
                    await until(lambda n=n: len(heard) == n + 1)
            await until(lambda: len(heard) == 200)
            assert set(heard) == {b"event %d" % n for n in range(200)}

    run(body)


def test_who_is_disconnected_gets_the_events_that_say_why() -> None:
    async def body() -> None:
        async with served() as rig:
            heard, connection = await hearing(rig)
            for n in range(40):
                assert rig.server.push(connection, b"event %d" % n)
            rig.server.disconnect(connection)
            rig.server.disconnect(connection)
            await until(lambda: rig.echo.closed == [connection])
            assert set(heard) == {b"event %d" % n for n in range(40)}

    run(body, LeapingLoop)


def test_who_asks_one_by_one_may_ask_nearly_64_at_once_afterwards() -> None:
    """Clients that fail where they should wait (qh3) are not to see room for half of them."""

    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            for _ in range(100):
                await link.request(b"hello")
            quic = link._quic
            await until(lambda: quic._remote_max_streams_bidi - 100 > DEFAULTS.streams - STREAM_CREDIT)
            assert quic._remote_max_streams_bidi <= 100 + DEFAULTS.streams
            link.close()

    run(body)


def test_events_of_the_last_moment_leave_before_the_endpoint_closes() -> None:
    """A daemon that stops revokes its leases and closes in one breath; the holder is to hear of both."""

    async def body() -> None:
        async with served() as rig:
            heard, connection = await hearing(rig)
            assert rig.server.push(connection, b"revoked")
            await rig.server.close()
            await until(lambda: heard == [b"revoked"])

    run(body)


def test_who_is_disconnected_and_acknowledges_nothing_is_gone_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabricbios.transport.server.LEAVING_SECONDS", 0.05)

    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            await link.request(b"hello")
            connection = rig.echo.opened[0].connection
            monkeypatch.setattr(rig.server._endpoints[0], "_receive", lambda *_: None)  # it hears nothing any more
            rig.server.push(connection, b"event")
            rig.server.disconnect(connection)
            assert rig.echo.closed == []
            await until(lambda: rig.echo.closed == [connection])
            assert rig.server.connections == 0

    run(body)


def test_a_peer_that_does_not_take_its_events_loses_them() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            await link.request(b"hello")
            connection = rig.echo.opened[0].connection
            sent = [rig.server.push(connection, b"event") for _ in range(100)]
            assert sent.count(True) == DEFAULTS.pushes
            assert rig.server.faults["push_dropped"] == 100 - DEFAULTS.pushes

    run(body)


@pytest.mark.parametrize(("bind", "ask"), [("0.0.0.0", "127.0.0.77"), ("::", "127.0.0.78"), ("::", "::1")])
def test_under_a_wildcard_bind_the_address_reached_is_told_and_answers(bind: str, ask: str) -> None:
    async def body() -> None:
        async with served(host=bind) as rig:
            link = await dial(ask, rig.port, None, accept_anyone)
            assert await link.request(b"x") == b"x"
            peer = rig.echo.asked[0][1]
            assert peer.local == (ask, rig.port)
            assert ipaddress.ip_address(peer.remote[0]).is_loopback

    run(body)


def test_one_server_serves_several_addresses() -> None:
    async def body() -> None:
        async with served() as rig:
            _, other = await rig.server.start("127.0.0.9", 0)
            link = await dial("127.0.0.9", other, None, accept_anyone)
            assert await link.request(b"x") == b"x"
            await rig.assert_friend_is_served()

    run(body)


def test_a_taken_port_is_an_os_error() -> None:
    async def body() -> None:
        async with served() as rig:
            with pytest.raises(OSError, match="in use"):
                await QuicServer(Identity.generate(), Echo()).start("127.0.0.1", rig.port)

    run(body)


def test_closing_tells_both_sides() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            rig.echo.silent = True
            _, answer = link.ask(b"x")
            await until(lambda: len(rig.echo.asked) == 1)
            await rig.server.close()
            with pytest.raises(Disconnected):
                await asyncio.wait_for(answer, 60)
            assert rig.echo.closed == [1]
            with pytest.raises(Disconnected):
                link.ask(b"y")

    run(body)


def test_a_node_that_does_not_listen_is_disconnected_and_one_that_is_silent_timed_out() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        silent, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        port = silent.get_extra_info("sockname")[1]
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            await dial("127.0.0.1", port, None, accept_anyone, timeout=0.2)
        silent.close()
        await asyncio.sleep(0)
        with pytest.raises(Disconnected, match="refused"):
            await dial("127.0.0.1", port, None, accept_anyone, timeout=60)

    run(body)


def test_an_answer_that_never_comes_times_out_and_frees_the_stream() -> None:
    async def body() -> None:
        async with served() as rig:
            rig.echo.silent = True
            link = await rig.dial(rig.friend)
            for _ in range(70):
                with pytest.raises(TimedOut):
                    await link.request(b"x", timeout=0.005)
            rig.echo.silent = False
            assert await link.request(b"x") == b"x"

    run(body, LeapingLoop)


def test_a_handler_that_raises_harms_no_other_question() -> None:
    class Faulty(Echo):
        def request(self, data: bytes, peer: StreamPeer) -> None:
            if data == b"trap":
                raise LocalMisuse("a bug in the daemon")
            super().request(data, peer)

    async def body() -> None:
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
        handler = Faulty()
        server = handler.server = QuicServer(Identity.generate(), handler)
        _, port = await server.start("127.0.0.1", 0)
        link = await dial("127.0.0.1", port, None, accept_anyone)
        _, trap = link.ask(b"trap")
        assert await asyncio.gather(*(link.request(b"%d" % n) for n in range(20))) == [b"%d" % n for n in range(20)]
        assert not trap.done()
        assert len(raised) == 1
        await server.close()

    asyncio.run(body())


def test_wide_routes_get_large_datagrams_and_black_holes_small_ones() -> None:
    async def body() -> None:
        async with served(DEFAULTS) as rig:
            rig.echo.silent = True
            link = await rig.dial(rig.friend)
            _, answer = link.ask(bytes(60_000))
            await until(lambda: len(rig.echo.asked) == 1)
            assert link._quic._max_datagram_size == LARGEST_DATAGRAM
            assert next(iter(rig.server._sessions.values())).quic._max_datagram_size == LARGEST_DATAGRAM
            send = link._endpoint.send
            link._endpoint.send = lambda data, address: send(data, address) if len(data) <= 1500 else None  # type: ignore
            endpoint = rig.server._endpoints[0]
            answer_send = endpoint.send
            endpoint.send = lambda data, *to: answer_send(data, *to) if len(data) <= 1500 else None  # type: ignore
            rig.server.answer(rig.echo.asked[0][1], bytes(60_000))
            assert len(await asyncio.wait_for(answer, 60)) == 60_000
            rig.echo.silent = False
            assert len(await link.request(bytes(60_000))) == 60_000
            assert link._quic._max_datagram_size == DATAGRAM_SIZE

    run(body)


class Narrow(ClientConnection):
    """Says that it takes datagrams of 1400 bytes (max_udp_payload_size), as quiche and picoquic do."""

    def _serialize_transport_parameters(self) -> bytes:
        return super()._serialize_transport_parameters() + bytes.fromhex("03024578")


def test_datagrams_are_no_larger_than_the_peer_takes() -> None:
    async def body() -> None:
        async with served() as rig:
            quic = Narrow(rig.friend, DEFAULTS, unix_now, accept_anyone)
            link = await open_link(("127.0.0.1", rig.port), quic, 60.0, DEFAULTS)
            endpoint, sizes = rig.server._endpoints[0], []
            send = endpoint.send
            endpoint.send = lambda data, *to: (sizes.append(len(data)), send(data, *to))[1]  # type: ignore
            assert len(await link.request(bytes(60_000))) == 60_000
            assert max(sizes) == 1400
            link.close()

    run(body)


class LosesItsHello(ClientConnection):
    """Of its flight after Retry only a PING arrives, as when quiche's probe overtakes its lost ClientHello."""

    lost = False

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        sent = super().datagrams_to_send(now)
        if self.lost or not self._retry_count or not sent:
            return sent
        self.lost = True
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=True,
            max_datagram_size=DATAGRAM_SIZE,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            peer_token=self._peer_token,
            version=self._version,
        )
        builder.start_packet(QuicPacketType.INITIAL, self._cryptos_initial[self._version])
        builder.start_frame(QuicFrameType.PING)
        self._packet_number += 1
        (ping,), _ = builder.flush()
        return [(ping, sent[0][1])]


def test_a_ping_may_come_before_the_hello() -> None:
    async def body() -> None:
        async with served() as rig:
            quic = LosesItsHello(rig.friend, DEFAULTS, unix_now, accept_anyone)
            link = await open_link(("127.0.0.1", rig.port), quic, 60.0, DEFAULTS)
            assert quic.lost
            assert await link.request(b"hello") == b"hello"
            assert rig.server.handshakes == {"retry_sent": 1, "ok": 1}
            link.close()

    run(body)
