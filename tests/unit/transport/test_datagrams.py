"""How many datagrams an endpoint reads before it lets them be handled."""

import asyncio
import socket
from typing import Any

from quic_rig import run, until

from fabricbios.transport.datagrams import LONE, Endpoint

BURST = 2 * LONE


class Counting(socket.socket):
    """Counts how often it was read, with success or without."""

    reads = 0

    def recvfrom_into(self, *arguments: Any) -> Any:
        self.reads += 1
        return super().recvfrom_into(*arguments)


def test_where_datagrams_come_one_by_one_nothing_is_asked_for_behind_them() -> None:
    async def body() -> None:
        sock = Counting(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(("127.0.0.1", 0))
        heard: list[bytes] = []
        batches: list[int] = []
        endpoint = Endpoint(sock, lambda data, *_: heard.append(data), lambda: batches.append(len(heard)))
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        async def send(count: int) -> None:
            """Send so many at once, and wait until they were heard."""
            expected = len(heard) + count
            for n in range(count):
                sender.sendto(b"%d" % n, sock.getsockname())
            await until(lambda: len(heard) == expected and batches[-1] == expected)

        for _ in range(LONE + 2):
            await send(1)
        reads = sock.reads
        await send(1)
        assert sock.reads == reads + 1

        await send(BURST)  # the first of them still come alone, then it is seen that they do not
        batches.clear()
        await send(BURST)
        assert batches == [len(heard)]
        assert len(heard) == LONE + 3 + 2 * BURST
        sender.close()
        endpoint.close()
        await asyncio.sleep(0)

    run(body)
