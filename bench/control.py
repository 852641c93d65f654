"""The control plane against a bare aioquic echo of the same sizes: operations a second, and how long one takes.

The peer is aioquic's stock asyncio server and client without a check, a frame or a certificate of the client. Ours
is measured twice: the transport alone, with a handler that echoes, and a real `fabricbiosd node` process,
where PING is read, decided and answered by the core, and LEASE_ALLOC with LEASE_FREE binds and zeroes
memory and writes the journal. All take turns in short slices, so that a busy neighbour hits all alike.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio import connect as stock_connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from report import Row, run

from fabricbios.client import Node, connect
from fabricbios.model import DpAuth, Op, ResourceType
from fabricbios.transport import Identity, accept_anyone, dial
from fabricbios.wire import Frame, LeaseAllocParams, LeaseAllocResult, LeaseFreeParams, MsgType, Request, Response

FLIGHTS = (1, 32)
LEASE_BYTES = 4096
PEER = "aioquic echo"
Work = Callable[[], Awaitable[object]]


class Sizes(NamedTuple):
    """Bytes of one question and of its answer."""

    question: int
    answer: int


class StockClient(QuicConnectionProtocol):
    """The shortest client that aioquic allows."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._waiting.pop(event.stream_id).set_result(event.data)

    async def request(self, data: bytes) -> bytes:
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, data, end_stream=True)
        answer = self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._transmit_soon()
        return await answer


@contextmanager
def process(*command: str) -> Iterator[str]:
    """Start a server; give its first line."""
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert started.stdout is not None
        yield started.stdout.readline()
    finally:
        started.terminate()
        started.wait(15)


def echo(kind: str, size: int) -> Any:
    return process(str(Path(__file__).parent / "peers" / "quic_echo.py"), kind, str(size))


@contextmanager
def node_process() -> Iterator[int]:
    """Run a node on loopback with a simulated machine; give its control port."""
    with tempfile.TemporaryDirectory() as home:
        flags = ["--state-dir", f"{home}/s", "--runtime-dir", f"{home}/r", "--trust-dir", f"{home}/t", "--xdp", "off"]
        flags += [part for port in ("control", "discovery", "fbmu", "fbbu") for part in (f"--{port}-port", "0")]
        flags += ["--bind", "127.0.0.1", "--mem-capacity", "16MiB", "--drivers", "simulated", "--log-format", "json"]
        with process("-m", "fabricbios.daemon", "node", *flags) as ready:
            yield json.loads(ready.removeprefix("ready "))["control"]["port"]


async def slice_of(work: Work, flight: int, seconds: float) -> list[float]:
    """Keep `flight` operations under way for `seconds`; return how long each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (start := time.perf_counter()) < end:
            await work()
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(one_after_the_other() for _ in range(flight)))
    return took


class Result(NamedTuple):
    rate: float
    p50: float
    p99: float
    spread: float


async def take_turns(works: dict[str, Work], flight: int, seconds: float, runs: int) -> dict[str, Result]:
    """Measure every work in `runs` slices of `seconds`, one after the other in each run."""
    found: dict[str, list[list[float]]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            found[name].append(await slice_of(work, flight, seconds))
    return {name: summary(slices, seconds) for name, slices in found.items()}


def summary(slices: Sequence[list[float]], seconds: float) -> Result:
    rates = [len(one) / seconds for one in slices]
    median = statistics.median(rates)
    every = sorted(t for one in slices for t in one)
    p50, p99 = every[len(every) // 2], every[len(every) * 99 // 100]
    return Result(median, p50 * 1000, p99 * 1000, (max(rates) - min(rates)) / median)


def frame(op: Op, params: bytes, token: bytes = b"") -> int:
    """Return how long a question with these params is."""
    payload = Request(op=op, params=params, token=token).pack("quic")
    return len(Frame(msg_type=MsgType.REQUEST, flags=0, request_id=1, nonce=1, sender=1, payload=payload).pack())


def answer(op: Op, result: bytes) -> int:
    payload = Response(status=0, op=op, result=result).pack("quic")
    return len(Frame(msg_type=MsgType.RESPONSE, flags=0, request_id=1, nonce=1, sender=1, payload=payload).pack())


def stock_work(client: StockClient, *sizes: Sizes) -> Work:
    questions = [bytes(size.question) for size in sizes]

    async def work() -> None:
        for question in questions:
            await client.request(question)

    return work


async def alloc_and_free(node: Node) -> LeaseAllocResult:
    lease = await node.lease_alloc(60, ResourceType.MEM, LEASE_BYTES, dp_auth=DpAuth.BLAKE2S_FULL)
    await node.free(lease.lease_id)
    return lease


async def stock_client(stack: AsyncExitStack, answer_size: int) -> StockClient:
    port = int(stack.enter_context(echo("stock", answer_size)))
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], verify_mode=ssl.CERT_NONE)
    client = stock_connect("127.0.0.1", port, configuration=configuration, create_protocol=StockClient)
    found = await stack.enter_async_context(client)
    assert isinstance(found, StockClient)
    return found


async def measure(quick: bool) -> list[Row]:
    seconds, runs = (0.3, 5) if quick else (1.0, 9)
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        ping = Sizes(frame(Op.PING, b""), answer(Op.PING, bytes(8)))
        stock = await stock_client(stack, ping.answer)
        link = await dial(
            "127.0.0.1", int(stack.enter_context(echo("ours", ping.answer))), Identity.generate(), accept_anyone
        )
        stack.callback(link.close)
        port = stack.enter_context(node_process())
        node = await stack.enter_async_context(connect("127.0.0.1", port, identity=Identity.generate()))
        lease = await alloc_and_free(node)
        pair = lease_sizes(lease, await node.tokens.get(next(iter(node.tokens._held))[0]))
        stock_pair = await stock_client(stack, pair[0].answer)
        question = bytes(ping.question)
        for flight in FLIGHTS:
            works = {
                PEER: stock_work(stock, ping),
                "transport": lambda: link.request(question),
                "PING": node.ping,
                "pair": stock_work(stock_pair, *pair),
                "LEASE_ALLOC+FREE": lambda: alloc_and_free(node),
            }
            found = await take_turns(works, flight, seconds, runs)
            for name, peer in (("transport", PEER), ("PING", PEER), ("LEASE_ALLOC+FREE", "pair")):
                rows += rows_of(f"{name}, {flight} in flight", found[name], found[peer], runs)
    return rows


def lease_sizes(lease: LeaseAllocResult, token: bytes) -> tuple[Sizes, Sizes]:
    """Return the sizes of LEASE_ALLOC and of LEASE_FREE; the echo answers both with the longer answer."""
    params = LeaseAllocParams(duration_secs=60, resource_type=ResourceType.MEM, requested_bytes=LEASE_BYTES).pack()
    longer = answer(Op.LEASE_ALLOC, lease.pack())
    free = frame(Op.LEASE_FREE, LeaseFreeParams(lease_id=lease.lease_id).pack())
    return Sizes(frame(Op.LEASE_ALLOC, params, token), longer), Sizes(free, longer)


def rows_of(case: str, ours: Result, peer: Result, runs: int) -> list[Row]:
    rate = Row(case, ours.rate, "ops/s", PEER, peer.rate, ours.rate / peer.rate, runs, max(ours.spread, peer.spread))
    return [
        rate,
        Row(f"{case}, p50", ours.p50, "ms", PEER, peer.p50, peer.p50 / ours.p50, runs, rate.spread),
        Row(f"{case}, p99", ours.p99, "ms", PEER, peer.p99, peer.p99 / ours.p99, runs, rate.spread),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    return run("control", lambda quick: asyncio.run(measure(quick)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
