"""A server process for bench/control.py: `stock` is aioquic's own asyncio server, `ours` QuicServer.

Usage: quic_echo.py stock|ours SIZE. Prints its port; answers every stream with SIZE bytes until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived

from fabricbios.ports import StreamPeer
from fabricbios.transport import Identity, QuicServer


class StockEcho(QuicConnectionProtocol):
    """The shortest server that aioquic allows: no parsing, no check, one answer a stream."""

    answer = b""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, self.answer, end_stream=True)


class OurEcho:
    """The shortest handler."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.server = QuicServer(Identity.generate(), self)

    def connection_opened(self, peer: StreamPeer) -> None:
        pass

    def connection_closed(self, connection: int) -> None:
        pass

    def request_limit(self, peer: StreamPeer, first_bytes: bytes) -> int:
        return 65_536

    def request(self, data: bytes, peer: StreamPeer) -> None:
        self.server.answer(peer, self.answer)


async def stock(answer: bytes) -> int:
    StockEcho.answer = answer
    identity = Identity.generate()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.certificate, configuration.private_key = identity.x509(), identity.private_key
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=StockEcho)
    port: int = server._transport.get_extra_info("sockname")[1]  # type: ignore[union-attr]
    return port


async def ours(answer: bytes) -> int:
    _, port = await OurEcho(answer).server.start("127.0.0.1", 0)
    return port


async def main(kind: str, answer_size: int) -> None:
    port = await (stock if kind == "stock" else ours)(bytes(answer_size))
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
