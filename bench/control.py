"""The control plane against a bare aioquic echo of the same sizes: operations a second, and how long one takes.

The peer is aioquic's stock asyncio server and client without a check, a frame or a certificate of the client. Ours
is measured twice: the transport alone, with a handler that echoes, and a real `fabricbiosd node` process,
where PING is read, decided and answered by the core, and LEASE_ALLOC with LEASE_FREE binds and zeroes
memory and writes the journal. All take turns in short slices, so that a busy neighbour hits all alike, and a ratio
is the median over the turns. "a CPU second" counts the processor time of both ends: the steadiest figure.
"""

from __future__ import annotations

import asyncio
import json
import os
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
from fabricbios.client.node import HOLD
from fabricbios.model import DpAuth, Op, ResourceType
from fabricbios.transport import Identity, accept_anyone, dial
from fabricbios.wire import Frame, LeaseAllocParams, LeaseAllocResult, LeaseFreeParams, MsgType, Request, Response

FLIGHTS = (1, 32)
LEASE_BYTES = 4096
PEER = "aioquic echo"
TICKS = os.sysconf("SC_CLK_TCK")


class Work(NamedTuple):
    """One kind of operation, and the process that serves it."""

    do: Callable[[], Awaitable[object]]
    server: int


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
def process(*command: str) -> Iterator[tuple[str, int]]:
    """Start a server; give its first line and its process id."""
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert started.stdout is not None
        yield started.stdout.readline(), started.pid
    finally:
        started.terminate()
        started.wait(15)


def echo(kind: str, size: int) -> Any:
    return process(str(Path(__file__).parent / "peers" / "quic_echo.py"), kind, str(size))


@contextmanager
def node_process() -> Iterator[tuple[int, int]]:
    """Run a node on loopback with a simulated machine; give its control port and process id."""
    with tempfile.TemporaryDirectory() as home:
        flags = ["--state-dir", f"{home}/s", "--runtime-dir", f"{home}/r", "--trust-dir", f"{home}/t", "--xdp", "off"]
        flags += [part for port in ("control", "discovery", "fbmu", "fbbu") for part in (f"--{port}-port", "0")]
        flags += ["--bind", "127.0.0.1", "--mem-capacity", "16MiB", "--drivers", "simulated", "--log-format", "json"]
        with process("-m", "fabricbios.daemon", "node", *flags) as (ready, pid):
            yield json.loads(ready.removeprefix("ready "))["control"]["port"], pid


class Slice(NamedTuple):
    """How long each operation took, and the processor time of both ends, in seconds."""

    took: list[float]
    cpu: float


def cpu_of(pid: int) -> float:
    """Return the processor time that a process has had, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def slice_of(work: Work, flight: int, seconds: float) -> Slice:
    """Keep `flight` operations under way for `seconds`."""
    took: list[float] = []
    cpu = cpu_of(work.server) + time.process_time()
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (start := time.perf_counter()) < end:
            await work.do()
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(one_after_the_other() for _ in range(flight)))
    return Slice(took, cpu_of(work.server) + time.process_time() - cpu)


async def take_turns(works: dict[str, Work], flight: int, seconds: float, runs: int) -> dict[str, list[Slice]]:
    """Measure every work in `runs` slices of `seconds`, one after the other in each run."""
    found: dict[str, list[Slice]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            found[name].append(await slice_of(work, flight, seconds))
    return found


def frame(op: Op, params: bytes, token: bytes = b"") -> int:
    """Return how long a question with these params is."""
    payload = Request(op=op, params=params, token=token).pack("quic")
    return len(Frame(msg_type=MsgType.REQUEST, flags=0, request_id=1, nonce=1, sender=1, payload=payload).pack())


def answer(op: Op, result: bytes) -> int:
    payload = Response(status=0, op=op, result=result).pack("quic")
    return len(Frame(msg_type=MsgType.RESPONSE, flags=0, request_id=1, nonce=1, sender=1, payload=payload).pack())


def stock_work(client: StockClient, server: int, *sizes: Sizes) -> Work:
    questions = [bytes(size.question) for size in sizes]

    async def work() -> None:
        for question in questions:
            await client.request(question)

    return Work(work, server)


async def alloc_and_free(node: Node) -> LeaseAllocResult:
    lease = await node.lease_alloc(60, ResourceType.MEM, LEASE_BYTES, dp_auth=DpAuth.BLAKE2S_FULL)
    await node.free(lease.lease_id)
    return lease


async def stock_client(stack: AsyncExitStack, answer_size: int) -> tuple[StockClient, int]:
    port, pid = stack.enter_context(echo("stock", answer_size))
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], verify_mode=ssl.CERT_NONE)
    client = stock_connect("127.0.0.1", int(port), configuration=configuration, create_protocol=StockClient)
    found = await stack.enter_async_context(client)
    assert isinstance(found, StockClient)
    return found, pid


async def measure(quick: bool) -> list[Row]:
    seconds, runs = (0.3, 5) if quick else (1.0, 9)
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        ping = Sizes(frame(Op.PING, b""), answer(Op.PING, bytes(8)))
        stock = await stock_client(stack, ping.answer)
        echo_port, echo_pid = stack.enter_context(echo("ours", ping.answer))
        link = await dial("127.0.0.1", int(echo_port), Identity.generate(), accept_anyone)
        stack.callback(link.close)
        port, pid = stack.enter_context(node_process())
        node = await stack.enter_async_context(connect("127.0.0.1", port, identity=Identity.generate()))
        lease = await alloc_and_free(node)
        pair = lease_sizes(lease, await node.tokens.get(HOLD))
        question = bytes(ping.question)
        works = {
            PEER: stock_work(*stock, ping),
            "transport": Work(lambda: link.request(question), echo_pid),
            "PING": Work(node.ping, pid),
            "pair": stock_work(*await stock_client(stack, pair[0].answer), *pair),
            "LEASE_ALLOC+FREE": Work(lambda: alloc_and_free(node), pid),
        }
        for flight in FLIGHTS:
            found = await take_turns(works, flight, seconds, runs)
            for name, peer in (("transport", PEER), ("PING", PEER), ("LEASE_ALLOC+FREE", "pair")):
                rows += rows_of(f"{name}, {flight} in flight", found[name], found[peer], seconds)
    return rows


def lease_sizes(lease: LeaseAllocResult, token: bytes) -> tuple[Sizes, Sizes]:
    """Return the sizes of LEASE_ALLOC and of LEASE_FREE; the echo answers both with the longer answer."""
    params = LeaseAllocParams(duration_secs=60, resource_type=ResourceType.MEM, requested_bytes=LEASE_BYTES).pack()
    longer = answer(Op.LEASE_ALLOC, lease.pack())
    free = frame(Op.LEASE_FREE, LeaseFreeParams(lease_id=lease.lease_id).pack())
    return Sizes(frame(Op.LEASE_ALLOC, params, token), longer), Sizes(free, longer)


def rows_of(case: str, ours: Sequence[Slice], peer: Sequence[Slice], seconds: float) -> list[Row]:
    """Compare slice by slice: neighbours in time had the same neighbours on the machine."""
    return [
        row(case, "ops/s", [len(s.took) / seconds for s in ours], [len(s.took) / seconds for s in peer]),
        row(f"{case}, a CPU second", "ops", [len(s.took) / s.cpu for s in ours], [len(s.took) / s.cpu for s in peer]),
        row(f"{case}, p50", "ms", [at(s, 50) for s in ours], [at(s, 50) for s in peer]),
        row(f"{case}, p99", "ms", [at(s, 99) for s in ours], [at(s, 99) for s in peer]),
    ]


def at(one: Slice, percent: int) -> float:
    """Return the percentile of a slice's times, in milliseconds."""
    return sorted(one.took)[len(one.took) * percent // 100] * 1000


def row(case: str, unit: str, ours: list[float], peer: list[float]) -> Row:
    ratios = [p / o if unit == "ms" else o / p for o, p in zip(ours, peer, strict=True)]
    median, ratio = statistics.median(ours), statistics.median(ratios)
    spread = (max(ratios) - min(ratios)) / ratio
    return Row(case, median, unit, PEER, statistics.median(peer), ratio, len(ours), spread)


def main(argv: Sequence[str] | None = None) -> int:
    return run("control", lambda quick: asyncio.run(measure(quick)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
