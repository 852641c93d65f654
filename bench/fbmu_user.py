"""FBMU's user-space path against a bare C recvmmsg echo: requests a second of the server's CPU time.

One C load generator sends the same questions to both, the same number outstanding; server and client
are pinned alike. The echo returns what it got, without looking at it; ours checks the tag, the window,
the lease and the range, moves the bytes, and answers with a tag where the mode has one. Each question
is made beforehand and sent once; between runs the lease is rekeyed, which empties the window.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from report import Row, run
from stage import go_first

from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.memory import EXTENT, SLOT_STEP, MemoryPlane
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import QUARANTINE_NS, Plane
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import NS, Binding, DpAuth, DpOp, ResourceType, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import FbmuRead, FbmuWrite, Read, Tagger, Write, question_message, with_tag

HERE = Path(__file__).parent
LEASE_ID, KEY, SPAN = 0xBE9C << 64 | 1, bytes(range(32)), 1 << 20
RECEIVE_BUFFER = 4 << 20


class Load(NamedTuple):
    """Questions of one kind."""

    op: DpOp
    size: int
    auth: DpAuth

    @property
    def name(self) -> str:
        return f"{self.op.name} {self.size} B, {self.auth.name}"


def question(load: Load, nonce: int, tagger: Tagger) -> bytes:
    """Return question number `nonce`: a READ is padded to the length of its answer (D10)."""
    offset = nonce * 4096 % (SPAN - load.size)
    if load.op == DpOp.READ:
        bare = FbmuRead(nonce & 0xFFFFFFFF, LEASE_ID, nonce, Read(offset, load.size, max(0, load.size - 4))).pack()
    else:
        bare = FbmuWrite(nonce & 0xFFFFFFFF, LEASE_ID, nonce, Write(offset, load.size, bytes(load.size))).pack()
    return with_tag(bare, tagger.tag(question_message(bare, load.auth)))


def prepare(load: Load, count: int, directory: Path) -> Path:
    """Write the questions where load.c finds them."""
    path = directory / f"{load.op}-{load.size}-{load.auth}-{count}"
    tagger = Tagger(load.auth, KEY)
    questions = [question(load, nonce, tagger) for nonce in range(1, count + 1)]
    path.write_bytes(struct.pack("=II", count, len(questions[0])) + b"".join(questions))
    return path


class Target(NamedTuple):
    """A server under test."""

    pid: int
    port: int
    reset: Callable[[DpAuth], None]


def cores() -> tuple[int, int]:
    """Return (server's, client's); one core does for both where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def ours() -> Iterator[Target]:
    """Serve one lease of SPAN bytes; reset gives it a fresh window under the mode that comes next."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind(("127.0.0.1", 0))
        memory, board = Memory.create(SPAN), LeaseBoard.create(64)
        server = ServerProcess(Plane.FBMU, [sock], board, memory.slabs)
        listener = Listener(Transport.FBMU_UDP, *sock.getsockname())
        ticks = iter(range(0, 1 << 62, 2 * QUARANTINE_NS))  # rested slots without waiting for them
        table = board.table()
        plane = MemoryPlane(table, memory, [listener], server.quiesce, clock=lambda: next(ticks))
        lease = LeaseSpec(
            LEASE_ID,
            1,
            ResourceType.MEM,
            Binding.UDP,
            SPAN,
            1,
            1,
            DpAuth.HMAC_HEADER,
            KEY,
            3,
            boottime_ns() + 3600 * NS,
        )
        for step in (EXTENT, SLOT_STEP):
            plane.do(step, lease)
        server.start()
        assert server.pid is not None
        try:
            yield Target(server.pid, listener.port, lambda auth: void(plane.rekey(lease._replace(dp_auth=auth))))
        finally:
            server.close()
            memory.close()


def void(_: object) -> None:
    """Drop a result."""


@contextmanager
def echo(directory: Path) -> Iterator[Target]:
    """Run bench/c/echo.c."""
    with subprocess.Popen([directory / "echo", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Target(process.pid, int(process.stdout.readline()), lambda auth: None)
        finally:
            process.kill()


def compiled(directory: Path) -> None:
    """Build the C parts."""
    for name in ("echo", "load"):
        subprocess.run(["cc", "-O2", "-Wall", "-o", directory / name, HERE / "c" / f"{name}.c"], check=True)


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process has had (schedstat: documented in Documentation/scheduler/sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def rest(pid: int) -> None:
    """Wait until a server has nothing left to do: what is late would spend nonces of the next run."""
    before = -1
    while (now := cpu_ns(pid)) != before:
        before = now
        time.sleep(0.05)


class Figures(NamedTuple):
    """One run: answers a second of the server's CPU, answers a second, latency."""

    a_core: float
    rate: float
    p50_us: float
    p99_us: float


def fire(target: Target, questions: Path, outstanding: int, directory: Path, auth: DpAuth) -> Figures:
    """Send all questions once; every one must be answered OK."""
    server_core, client_core = cores()
    rest(target.pid)
    target.reset(auth)
    os.sched_setaffinity(target.pid, {server_core})
    before = cpu_ns(target.pid)
    command = [directory / "load", "127.0.0.1", str(target.port), questions, str(outstanding)]
    done = subprocess.run(
        ["taskset", "-c", str(client_core), *command], check=True, capture_output=True, text=True
    )  # fmt: skip
    told = json.loads(done.stdout)
    spent = (cpu_ns(target.pid) - before) / 1e9
    if told["refused"] or told["lost"] > told["answered"] / 100:
        raise RuntimeError(f"not a fair run: {told}")
    return Figures(told["answered"] / spent, told["answered"] / told["seconds"], told["p50_us"], told["p99_us"])


def compare(load: Load, targets: tuple[Target, Target], count: int, rounds: int, directory: Path) -> list[Row]:
    """Measure both in turns."""
    questions = prepare(load, count, directory)
    runs = [[fire(t, questions, 64, directory, load.auth) for t in targets] for _ in range(rounds)]
    single = prepare(load, count // 16, directory)
    alone = [[fire(t, single, 1, directory, load.auth) for t in targets] for _ in range(rounds)]
    questions.unlink()
    return [row_of(load, runs), latency_of(load, alone)]


def row_of(load: Load, runs: list[list[Figures]]) -> Row:
    mine, peer = ([run[side].a_core for run in runs] for side in (0, 1))
    ours, theirs = statistics.median(mine), statistics.median(peer)
    spread = (max(mine) - min(mine)) / ours
    return Row(load.name, ours, "answers/s of server CPU", "C echo", theirs, ours / theirs, len(runs), spread)


def latency_of(load: Load, runs: list[list[Figures]]) -> Row:
    mine, peer = ([run[side].p50_us for run in runs] for side in (0, 1))
    ours, theirs = statistics.median(mine), statistics.median(peer)
    spread = (max(mine) - min(mine)) / ours
    return Row(f"{load.name}, alone", ours, "p50 us", "C echo", theirs, theirs / ours, len(runs), spread)


def rows(quick: bool) -> Sequence[Row]:
    """512 bytes as the target has it, every mode; the other sizes without --quick."""
    sizes = (512,) if quick else (64, 512, 1024)
    loads = [Load(op, size, auth) for size in sizes for op in (DpOp.READ, DpOp.WRITE) for auth in DpAuth]
    count, rounds = (30_000, 2) if quick else (100_000, 5)
    if os.geteuid() == 0:
        go_first()  # a server that others take the core from in mid-train has cold caches, and the longer train more so
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fbmu-bench-")))
        compiled(directory)
        targets = stack.enter_context(ours()), stack.enter_context(echo(directory))
        return [row for load in loads for row in compare(load, targets, count, rounds, directory)]


def main(argv: Sequence[str] | None = None) -> int:
    return run("fbmu_user", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
