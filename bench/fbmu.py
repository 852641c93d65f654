"""FBMU served by XDP against memcached over UDP, a bare C echo and our own user-space path.

Client and server are two ends of one veth pair and share one core, whoever serves: XDP works in the client's own
softirq, so a core of its own would be a present to the others. Rates are answers a second of that core's time: what
client, server and ksoftirqd used, which on an idle machine is the time that passed. Peers' interfaces carry no XDP
program. One C load generator asks all of them; every question is sent once, and between runs the lease is rekeyed,
which empties the window. Rounds take turns over the targets, so that a busy neighbour hits all alike.

Needs root, memcached, and bench/c compiled by cc.
"""

from __future__ import annotations

import contextlib
import ctypes
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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
# ruff: noqa: E402

from fbmu_user import KEY, LEASE_ID, SPAN, Load, prepare
from netns_rig import VethPair
from report import Row, run
from xdp_repeat import costs

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import QUARANTINE_NS, Extent, Plane, SlotLease, SlotTable
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.hw import bpf
from fabricbios.model import DpAuth, DpOp

SERVER = VethPair.V4 + "1"
PORT, MEMCACHED_PORT, ECHO_PORT, USER_PORT = 5702, 11211, 5799, 5798
PASS_ALL = bytes.fromhex("b7000000020000009500000000000000")  # r0 = XDP_PASS; exit
MODES = (DpAuth.SIPHASH_FULL, DpAuth.BLAKE2S_FULL, DpAuth.HMAC_HEADER, DpAuth.HMAC_FULL)
FLOOD_SECONDS = 3.0


class Figures(NamedTuple):
    """One run."""

    rate: float  # answers a second of the core's time
    p50_us: float
    passed: float  # answers a second that passed


class Target(NamedTuple):
    """Somebody who answers on `port`; `reset` is called before each run, `dialect` is load.c's fifth word."""

    name: str
    port: int
    reset: Callable[[DpAuth], None]
    pid: int = 0  # of the server process, if there is one
    dialect: tuple[str, ...] = ()


class Stage(NamedTuple):
    """Where it all happens."""

    pair: VethPair
    directory: Path
    core: int
    other_core: int

    def command(self, namespace: str, core: int, *words: object) -> list[str]:
        return ["ip", "netns", "exec", namespace, "taskset", "-c", str(core), *map(str, words)]


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace: what is opened in here stays there."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        set_namespace(there)
        yield
    finally:
        set_namespace(home)
        os.close(home)
        os.close(there)


def set_namespace(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


class Leases:
    """One lease of SPAN bytes in a table; each reset rekeys it, under any mode."""

    def __init__(self, table: SlotTable) -> None:
        self._table, self._now = table, 0
        self._lease = SlotLease(
            LEASE_ID, Plane.FBMU, Extent(0, SPAN), 3, DpAuth.HMAC_HEADER, KEY, 1, 1 << 62, 1408, 1404
        )
        table.install(self._lease, 0)

    def reset(self, auth: DpAuth) -> None:
        self._now += 2 * QUARANTINE_NS  # rested slots without waiting for them
        self._table.rekey(self._lease._replace(auth=auth), self._now)


@contextmanager
def xdp(stage: Stage) -> Iterator[Target]:
    """Serve by the native path; the client's end has a program too, or veth loses what XDP_TX sends it."""
    with ExitStack() as stack:
        maps = XdpMaps.create(64, SPAN)
        stack.callback(maps.close)
        program = xdp_program.load(maps, PORT, 0, CounterRecord.NATIVE)
        passing = bpf.prog_load(bpf.Program("pass_all", PASS_ALL, "Apache-2.0"))
        for namespace, fd in ((stage.pair.there, program), (stage.pair.here, passing)):
            stack.callback(os.close, fd)
            with inside(namespace):
                link = bpf.link_xdp(fd, socket.if_nametoindex(stage.pair.iface), bpf.XDP_FLAGS_DRV_MODE)
            stack.callback(os.close, link)
        leases = Leases(maps.table(maps.board()))
        yield Target("XDP", PORT, leases.reset)


@contextmanager
def user(stage: Stage) -> Iterator[Target]:
    """Our own user-space path."""
    with inside(stage.pair.there):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((SERVER, USER_PORT))
    board, memory = LeaseBoard.create(64), Memory.create(SPAN)
    server = ServerProcess(Plane.FBMU, [sock], board, memory.slabs)
    leases = Leases(board.table())
    server.start()
    os.sched_setaffinity(server.pid or 0, {stage.core})
    try:
        yield Target("user space", USER_PORT, leases.reset, server.pid or 0)
    finally:
        server.close()
        sock.close()


@contextmanager
def process(stage: Stage, target: Target, *words: object) -> Iterator[Target]:
    """Run a peer in the server's namespace on the shared core."""
    peer = subprocess.Popen(
        stage.command(stage.pair.there, stage.core, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(0.5)
    try:
        yield target._replace(pid=peer.pid)
    finally:
        peer.kill()
        peer.wait()


def memcached(stage: Stage) -> contextlib.AbstractContextManager[Target]:
    target = Target("memcached UDP", MEMCACHED_PORT, lambda auth: None, 0, ("memcached",))
    options = ("-u", "nobody", "-l", SERVER, "-p", MEMCACHED_PORT, "-U", MEMCACHED_PORT, "-t", 1)
    return process(stage, target, "memcached", *options)


def echo(stage: Stage) -> contextlib.AbstractContextManager[Target]:
    target = Target("C echo", ECHO_PORT, lambda auth: None)
    return process(stage, target, stage.directory / "echo", ECHO_PORT, SERVER)


def memcached_questions(op: DpOp, size: int, count: int, directory: Path) -> Path:
    """Write as many gets or sets of one value (memcached's doc/protocol.txt, "UDP protocol")."""
    path, value = directory / f"memcached-{op}-{size}-{count}", b"x" * size
    text = b"get k%d\r\n" % size if op == DpOp.READ else b"set k%d 0 0 %d\r\n%s\r\n" % (size, size, value)
    frames = [struct.pack(">HHHH", n & 0xFFFF, 0, 1, 0) + text for n in range(1, count + 1)]
    path.write_bytes(struct.pack("=II", count, len(frames[0])) + b"".join(frames))
    return path


def store_value(stage: Stage, size: int) -> None:
    """Give memcached what it is to be asked for, over TCP."""
    with inside(stage.pair.here), socket.create_connection((SERVER, MEMCACHED_PORT)) as peer:
        peer.sendall(b"set k%d 0 0 %d\r\n%s\r\n" % (size, size, b"x" * size))
        if not peer.recv(100).startswith(b"STORED"):
            raise RuntimeError("memcached did not store the value")


def ksoftirqd(core: int) -> int:
    """Return the pid of the thread that finishes a core's softirqs when they are too many."""
    named = [p for p in Path("/proc").glob("[0-9]*/comm") if p.read_text() == f"ksoftirqd/{core}\n"]
    return int(named[0].parent.name) if named else 0


def cpu_seconds(pid: int) -> float:
    """Return what all threads of a process have used (schedstat: Documentation/scheduler/sched-stats)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat") if pid else ()
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def fire(stage: Stage, target: Target, questions: Path, outstanding: int, auth: DpAuth) -> Figures:
    """Send all questions once; nearly every one must be answered OK."""
    target.reset(auth)
    others = (target.pid, ksoftirqd(stage.core))
    words = (stage.directory / "load", SERVER, target.port, questions, outstanding, *target.dialect)
    before = sum(map(cpu_seconds, others))
    with subprocess.Popen(stage.command(stage.pair.here, stage.core, *words), stdout=subprocess.PIPE) as load:
        assert load.stdout is not None
        told = json.loads(load.stdout.read())
    spent = sum(map(cpu_seconds, others)) - before + told["cpu_seconds"]
    if told["refused"] or told["lost"] > told["answered"] / 100:
        raise RuntimeError(f"{target.name}: not a fair run: {told}")
    return Figures(told["answered"] / spent, told["p50_us"], told["answered"] / told["seconds"])


class Contest(NamedTuple):
    """What is measured together: name -> (target, questions, mode)."""

    load: str
    outstanding: int
    entries: dict[str, tuple[Target, Path, DpAuth]]


class Targets(NamedTuple):
    xdp: Target
    user: Target
    memcached: Target
    echo: Target


def contest(targets: Targets, op: DpOp, size: int, outstanding: int, count: int, directory: Path) -> Contest:
    """All four modes against the peers, at one op, size and depth."""
    entries: dict[str, tuple[Target, Path, DpAuth]] = {}
    for auth in MODES:
        questions = prepare(Load(op, size, auth), count, directory)
        entries[auth.name] = (targets.xdp, questions, auth)
        if auth == DpAuth.BLAKE2S_FULL:
            entries["user space"] = (targets.user, questions, auth)
        if auth == DpAuth.SIPHASH_FULL:
            entries["C echo"] = (targets.echo, questions, auth)
    asked = memcached_questions(op, size, count, directory)
    entries["memcached UDP"] = (targets.memcached, asked, DpAuth.HMAC_HEADER)
    return Contest(f"{op.name} {size} B", outstanding, entries)


def rows_of(contest: Contest, found: dict[str, list[Figures]]) -> Iterator[Row]:
    """Yield each mode against each peer: the median's ratio, and in the unit the best of the rounds."""
    alone = contest.outstanding == 1
    for auth in MODES:
        mine = [f.p50_us if alone else f.rate for f in found[auth.name]]
        for peer in ("memcached UDP", "C echo", "user space"):
            theirs = [f.p50_us if alone else f.rate for f in found[peer]]
            ours, other = statistics.median(mine), statistics.median(theirs)
            ratio = other / ours if alone else ours / other
            best = f"best {min(mine):.1f}" if alone else f"best {max(mine):,.0f}"
            unit = f"p50 us ({best})" if alone else f"answers/s of the core ({best})"
            case = f"{contest.load}, {contest.outstanding} outstanding, {auth.name}"
            yield Row(case, ours, unit, peer, other, ratio, len(mine), (max(mine) - min(mine)) / ours)


def flood_rows(stage: Stage, targets: Targets, count: int, rounds: int) -> Iterator[Row]:
    """Legitimate answers a second with forged datagrams at full speed from the other core, by those without."""
    auth = DpAuth.BLAKE2S_FULL
    questions = prepare(Load(DpOp.READ, 64, auth), count, stage.directory)
    forged = bytearray(questions.read_bytes())
    (_, size) = struct.unpack_from("=II", forged)
    for at in range(8 + 40, len(forged), size):
        forged[at] ^= 1
    attack = stage.directory / "forged"
    attack.write_bytes(forged)
    for target in (targets.xdp, targets.user):
        calm, flooded, sent = [], [], []
        for _ in range(rounds):
            calm.append(fire(stage, target, questions, 64, auth).passed)
            rate, attackers = under_attack(stage, target, questions, attack, auth)
            flooded.append(rate)
            sent.append(attackers)
        ours, without = statistics.median(flooded), statistics.median(calm)
        case = f"{target.name}, READ 64 B under {statistics.median(sent):,.0f} forged/s"
        spread = (max(flooded) - min(flooded)) / ours if ours else 0.0
        yield Row(case, ours, "answers/s", "itself without", without, ours / without, rounds, spread)


def under_attack(stage: Stage, target: Target, questions: Path, attack: Path, auth: DpAuth) -> tuple[float, float]:
    """Return (answers a second, forged datagrams a second). Losses count: a flood makes them."""
    target.reset(auth)
    words = (stage.directory / "flood", SERVER, target.port, attack, FLOOD_SECONDS)
    command = stage.command(stage.pair.here, stage.other_core, *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        time.sleep(0.3)
        load = (stage.directory / "load", SERVER, target.port, questions, 64)
        command = ["timeout", "-s", "INT", str(FLOOD_SECONDS - 0.5), *stage.command(stage.pair.here, stage.core, *load)]
        done = subprocess.run(command, capture_output=True, text=True)
        told = json.loads(done.stdout) if done.stdout else {"answered": 0, "seconds": 1.0}
        flood = json.loads(attacker.communicate()[0])
    return told["answered"] / told["seconds"], flood["sent"] / flood["seconds"]


def cost_rows() -> Iterator[Row]:
    """Nanoseconds of one question inside the program, and what a bare HMAC of one block costs on this machine."""
    for cost in costs():
        unit = f"ns a question (limit {cost.limit})"
        yield Row(f"test run, {cost.name}", cost.nanoseconds, unit, "-", None, None, cost.runs, cost.spread)


def rows(quick: bool) -> Sequence[Row]:
    """64 bytes, and 1024 with SipHash, under --quick; every size, both ops and both depths without."""
    cores = sorted(os.sched_getaffinity(0))
    count, rounds = (60_000, 5) if quick else (200_000, 7)
    cases = [(DpOp.READ, 64, 64), (DpOp.READ, 1024, 64), (DpOp.READ, 64, 1)]
    if not quick:
        cases = [(op, size, depth) for op in (DpOp.READ, DpOp.WRITE) for size in (64, 512, 1024) for depth in (64, 1)]
    out: list[Row] = list(cost_rows())
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fbmu-bench-")))
        for name in ("echo", "load", "flood"):
            subprocess.run(["cc", "-O2", "-Wall", "-o", directory / name, HERE / "c" / f"{name}.c"], check=True)
        pair = VethPair("4")
        stack.callback(pair.unmake)
        pair.make()
        stage = Stage(pair, directory, cores[-1], cores[0])
        for op, size, depth in cases:
            out += measured(stage, op, size, depth, count if depth > 1 else count // 6, rounds)
        with xdp(stage) as kernel, user(stage) as own:
            out += flood_rows(stage, Targets(kernel, own, own, own), count, 2 if quick else 5)
    return out


def measured(stage: Stage, op: DpOp, size: int, depth: int, count: int, rounds: int) -> list[Row]:
    """One case. XDP is off the interface while the others are measured: it would cost them."""
    found: dict[str, list[Figures]] = {}
    with user(stage) as own, memcached(stage) as cache, echo(stage) as bare:
        store_value(stage, size)
        whole = contest(Targets(own, own, cache, bare), op, size, depth, count, stage.directory)
        for _ in range(rounds):
            for name, (target, questions, auth) in whole.entries.items():
                if name in DpAuth.__members__:
                    with xdp(stage) as kernel:
                        figures = fire(stage, kernel, questions, depth, auth)
                else:
                    figures = fire(stage, target, questions, depth, auth)
                found.setdefault(name, []).append(figures)
    for _, questions, _ in whole.entries.values():
        questions.unlink(missing_ok=True)
    return list(rows_of(whole, found))


def main(argv: Sequence[str] | None = None) -> int:
    return run("fbmu", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
