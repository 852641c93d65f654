"""FBBU's user-space path against nbd-server on the same file: random blocks, the same number outstanding.

Both read and write through the page cache, and neither flushes (`sync = none`; nbd-server without FUA). Ours checks
tag, window, lease and range of every datagram and seals its answer; NBD is a TCP stream that trusts whoever holds it.
Server and client are pinned alike, and the file lies in memory where it can: it is the serving that is compared.
Rows in ops/s are wall time, and on a busy machine say more about the scheduler (nbd-server has many threads, ours one);
those in ops/s of server CPU do not depend on who else is there.
"""

from __future__ import annotations

import json
import os
import shutil
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

from fabricbios.dataplane.block import BlockPlane
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Slab
from fabricbios.dataplane.slots import QUARANTINE_NS, Plane
from fabricbios.hw.backing import open_backing
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import BLOCK_SIZE, NS, Binding, DpAuth, DpOp, ResourceType, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import FbbuReadBlock, FbbuWriteBlock, ReadBlock, Tagger, WriteBlock, question_message, with_tag

HERE = Path(__file__).parent
LEASE_ID, DISK, KEY, SPAN = 0xBE9C << 64 | 2, 1, bytes(range(32)), 64 << 20
RECEIVE_BUFFER = 4 << 20
PORT_OF_NBD = 17_809
MEMORY = "/dev/shm"
ODD = 0x9E3779B1  # spreads the blocks: random enough, the same in every run


class Load(NamedTuple):
    """Operations of one kind."""

    op: DpOp
    blocks: int
    auth: DpAuth

    @property
    def bytes(self) -> int:
        return self.blocks * BLOCK_SIZE


class Figures(NamedTuple):
    """One run: operations a second, the same a second of the server's CPU, median latency."""

    rate: float
    a_core: float
    p50_us: float


class Target(NamedTuple):
    """A server under test: `fire(load, count, outstanding)`."""

    fire: Callable[[Load, int, int], Figures]


def question(load: Load, nonce: int, tagger: Tagger) -> bytes:
    """Return question number `nonce`; a READ is padded to the length of its answer (D10)."""
    index = nonce * ODD % (SPAN // BLOCK_SIZE - load.blocks)
    if load.op == DpOp.READ:
        payload = ReadBlock(index, load.blocks, load.bytes - 4)
        bare = FbbuReadBlock(nonce & 0xFFFFFFFF, LEASE_ID, nonce, payload).pack()
    else:
        bare = FbbuWriteBlock(
            nonce & 0xFFFFFFFF, LEASE_ID, nonce, WriteBlock(index, load.blocks, bytes(load.bytes))
        ).pack()
    return with_tag(bare, tagger.tag(question_message(bare, load.auth)))


def prepare(load: Load, count: int, directory: Path) -> Path:
    """Write the questions where load.c finds them, once for all runs."""
    path = directory / f"{load.op}-{load.blocks}-{load.auth}-{count}"
    if not path.exists():
        tagger = Tagger(load.auth, KEY)
        questions = [question(load, nonce, tagger) for nonce in range(1, count + 1)]
        path.write_bytes(struct.pack("=II", count, len(questions[0])) + b"".join(questions))
    return path


def cores() -> tuple[int, int]:
    """Return (server's, client's); one core does for both where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have had (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told_by(command: Sequence[str | Path]) -> dict[str, float]:
    """Run a load generator on the client's core."""
    pinned = ["taskset", "-c", str(cores()[1]), *map(str, command)]
    told: dict[str, float] = json.loads(subprocess.run(pinned, check=True, capture_output=True, text=True).stdout)
    if told["refused"] or told["lost"] > told["answered"] / 20:
        raise RuntimeError(f"not a fair run: {told}")
    return told


def figures(told: dict[str, float], cpu: float) -> Figures:
    return Figures(told["answered"] / told["seconds"], told["answered"] / max(cpu, 1e-9), told["p50_us"])


@contextmanager
def ours(file: Path, directory: Path) -> Iterator[Target]:
    """Serve one lease of SPAN bytes; each run rekeys it, which empties the window."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind(("127.0.0.1", 0))
        journal = ExtentJournal(directory / "extents")
        stack.callback(journal.close)
        backing = open_backing(Sysfs(), str(file), None, force=True)
        stack.callback(backing.close)
        board = LeaseBoard.create(64)
        server = ServerProcess(Plane.FBBU, [sock], board, [Slab(backing.fd, backing.size)], Sync.NONE)
        stack.callback(server.close)
        listener = Listener(Transport.FBBU_UDP, *sock.getsockname())
        ticks = iter(range(0, 1 << 62, 2 * QUARANTINE_NS))  # rested slots without waiting for them
        pool = BlockPool({DISK: backing}, journal, "none")
        plane = BlockPlane(board.table(), pool, [listener], server.quiesce, clock=lambda: next(ticks))
        end = boottime_ns() + 3600 * NS
        auth = DpAuth.BLAKE2S_FULL
        lease = LeaseSpec(LEASE_ID, DISK, ResourceType.BLOCK, Binding.UDP, SPAN, 1, 1, auth, KEY, 3, end)
        for step in plane.steps(lease):
            plane.do(step, lease)
        server.start()
        pid = server.pid
        assert pid is not None
        os.sched_setaffinity(pid, {cores()[0]})

        def fire(load: Load, count: int, outstanding: int) -> Figures:
            questions = prepare(load, count, directory)
            plane.rekey(lease._replace(dp_auth=load.auth))
            before = cpu_seconds(pid)
            command = [directory / "load", "127.0.0.1", str(listener.port), questions, str(outstanding)]
            return figures(told_by(command), cpu_seconds(pid) - before)

        yield Target(fire)


@contextmanager
def nbd(file: Path, directory: Path) -> Iterator[Target]:
    """Run nbd-server, a fresh one a run: in the foreground it serves one connection and ends."""
    config = directory / "nbd.conf"
    config.write_text(
        f"[generic]\nlistenaddr = 127.0.0.1\nport = {PORT_OF_NBD}\n[disk]\nexportname = {file}\n", encoding="ascii"
    )

    def fire(load: Load, count: int, outstanding: int) -> Figures:
        server = subprocess.Popen(
            ["taskset", "-c", str(cores()[0]), "nbd-server", "-d", "-C", str(config)], stderr=subprocess.DEVNULL
        )
        try:
            _await_listener(server)
            before = cpu_seconds(server.pid)
            kind = "read" if load.op == DpOp.READ else "write"
            loader = [directory / "nbd_load", str(PORT_OF_NBD), "disk", kind]
            told = told_by([*loader, str(load.bytes), str(count), str(outstanding)])
            spent = os.wait4(server.pid, 0)[2]
            return figures(told, spent.ru_utime + spent.ru_stime - before)
        finally:
            server.kill()

    yield Target(fire)


def _await_listener(server: subprocess.Popen[bytes]) -> None:
    """Wait until the port is bound, without connecting: the first connection is the one that is served."""
    wanted = f"0100007F:{PORT_OF_NBD:04X} 00000000:0000 0A"
    for _ in range(500):
        if wanted in Path("/proc/net/tcp").read_text():
            return
        if server.poll() is not None:
            break
        time.sleep(0.01)
    raise RuntimeError("nbd-server does not listen")


def compare(load: Load, targets: tuple[Target, Target], count: int, rounds: int) -> list[Row]:
    """Measure both in turns, 64 outstanding and one."""
    busy = [[target.fire(load, count, 64) for target in targets] for _ in range(rounds)]
    alone = [[target.fire(load, count // 16, 1) for target in targets] for _ in range(rounds)]
    name = f"{load.op.name} {load.bytes} B, {load.auth.name}"
    return [
        row(name, "ops/s", [[f.rate for f in pair] for pair in busy]),
        row(name, "ops/s of server CPU", [[f.a_core for f in pair] for pair in busy]),
        row(f"{name}, alone", "p50 us", [[f.p50_us for f in pair] for pair in alone], less_is_better=True),
    ]


def row(case: str, unit: str, runs: list[list[float]], *, less_is_better: bool = False) -> Row:
    mine, peer = ([pair[side] for pair in runs] for side in (0, 1))
    ours_, theirs = statistics.median(mine), statistics.median(peer)
    ratio = theirs / ours_ if less_is_better else ours_ / theirs
    return Row(case, ours_, unit, "nbd-server", theirs, ratio, len(runs), (max(mine) - min(mine)) / ours_)


def rows(quick: bool) -> Sequence[Row]:
    """1 KiB as the target has it (two blocks, all that a datagram holds); one block and every mode without --quick."""
    modes = (DpAuth.BLAKE2S_FULL, DpAuth.SIPHASH_FULL) if quick else tuple(DpAuth)
    loads = [Load(op, blocks, auth) for blocks in ((2,) if quick else (1, 2)) for op in (DpOp.READ, DpOp.WRITE)
             for auth in modes]  # fmt: skip
    count, rounds = (30_000, 2) if quick else (100_000, 5)
    if not shutil.which("nbd-server"):
        raise SystemExit("bench fbbu: nbd-server is not installed (apt-get install nbd-server)")
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="fbbu-bench-", dir=MEMORY if os.path.isdir(MEMORY) else None)
            )
        )
        for name in ("load", "nbd_load"):
            subprocess.run(["cc", "-O2", "-Wall", "-o", directory / name, HERE / "c" / f"{name}.c"], check=True)
        file = directory / "disk"
        file.write_bytes(os.urandom(SPAN))
        targets = stack.enter_context(ours(file, directory)), stack.enter_context(nbd(file, directory))
        return [one for load in loads for one in compare(load, targets, count, rounds)]


def main(argv: Sequence[str] | None = None) -> int:
    return run("fbbu", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
