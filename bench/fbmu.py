"""FBMU served by XDP against memcached over UDP, a bare C echo and our own user-space path.

Client and server are two ends of one veth pair and share one core, whoever serves: XDP works in the client's own
softirq, so a core of its own would be a present to the others. Rates are answers a second of that core's time: what
client, server and ksoftirqd used, which on an idle machine is the time that passed. Peers' interfaces carry no XDP
program. One C load generator asks all of them; every question is sent once, and between runs the lease is rekeyed,
which empties the window. Rounds take turns over the targets, so that a busy neighbour hits all alike; the bench puts
itself before its neighbours besides (nice, and the nice of its autogroup), in runs of a second at most.

The load sends what it may have outstanding as one train (UDP_SEGMENT), to all targets alike. Where XDP serves, the
train is cut up before the link, and the programs see its frames behind each other.

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
from netns_rig import VethPair, ip
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
CALM_SECONDS, FLOOD_SECONDS = 0.5, 1.0


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


class Link(NamedTuple):
    """One veth link into the server's namespace: its name on both ends, and the namespace of the other end."""

    iface: str
    client: str


class Stage(NamedTuple):
    """Where it all happens."""

    pair: VethPair
    links: tuple[Link, Link]  # the client's and the attacker's
    directory: Path
    core: int
    other_core: int

    def command(self, namespace: str, core: int, *words: object) -> list[str]:
        return ["nice", "-n", "-20", "ip", "netns", "exec", namespace, "taskset", "-c", str(core), *map(str, words)]


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


class Kernel(NamedTuple):
    """The program and a lease for it, on no interface yet; `passing` is for the client's end, or veth loses XDP_TX."""

    program: int
    passing: int
    leases: Leases

    @contextmanager
    def attached(self, stage: Stage) -> Iterator[Target]:
        """Serve by the native path."""
        with ExitStack() as stack:
            for link in stage.links:
                self._attach(stack, stage.pair.there, link.iface, self.program)
                self._attach(stack, link.client, link.iface, self.passing)
            yield Target("XDP", PORT, self.leases.reset)

    def _attach(self, stack: ExitStack, namespace: str, iface: str, program: int) -> None:
        with inside(namespace):
            fd = bpf.link_xdp(program, socket.if_nametoindex(iface), bpf.XDP_FLAGS_DRV_MODE)
        stack.callback(os.close, fd)


@contextmanager
def kernel() -> Iterator[Kernel]:
    with ExitStack() as stack:
        maps = XdpMaps.create(64, SPAN)
        stack.callback(maps.close)
        program = xdp_program.load(maps, PORT, 0, CounterRecord.NATIVE)
        passing = bpf.prog_load(bpf.Program("pass_all", PASS_ALL, "Apache-2.0"))
        for fd in (program, passing):
            stack.callback(os.close, fd)
        yield Kernel(program, passing, Leases(maps.table(maps.board())))


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


def forge(questions: Path, forged: Path) -> None:
    """Write the same questions with a bit of each tag turned."""
    data = bytearray(questions.read_bytes())
    (_, size) = struct.unpack_from("=II", data)
    for at in range(8 + 40, len(data), size):
        data[at] ^= 1
    forged.write_bytes(data)


def flood_rows(stage: Stage, program: Kernel, own: Target, count: int, rounds: int) -> Iterator[Row]:
    """Legitimate answers a second while forged datagrams come in at full speed, by those without.

    The attacker has the other core and a link of its own, as on a network card whose queues go to several cores: what
    the kernel does to a frame it does on the core of its queue. The user-space server hears both on its one core.
    """
    auth = DpAuth.BLAKE2S_FULL
    questions, attack = prepare(Load(DpOp.READ, 64, auth), count, stage.directory), stage.directory / "forged"
    forge(questions, attack)
    with program.attached(stage) as served:
        yield flood_row(stage, served, questions, attack, rounds)
    yield flood_row(stage, own, questions, attack, rounds)


def flood_row(stage: Stage, target: Target, questions: Path, attack: Path, rounds: int) -> Row:
    calm, flooded, sent = [], [], []
    for _ in range(rounds):
        calm.append(answered_a_second(stage, target, questions))
        with flood(stage, target, attack) as told:
            flooded.append(answered_a_second(stage, target, questions))
        sent.append(told[0])
    ours, without = statistics.median(flooded), statistics.median(calm)
    case = f"{target.name}, READ 64 B under {statistics.median(sent):,.0f} forged/s"
    spread = (max(flooded) - min(flooded)) / ours if ours else 0.0
    return Row(case, ours, "answers/s", "itself without", without, ours / without, rounds, spread)


def answered_a_second(stage: Stage, target: Target, questions: Path) -> float:
    """Ask for a while; losses count as time, for a flood makes them."""
    target.reset(DpAuth.BLAKE2S_FULL)
    words = (stage.directory / "load", SERVER, target.port, questions, 64, "fbmu", CALM_SECONDS)
    done = subprocess.run(stage.command(stage.pair.here, stage.core, *words), capture_output=True, check=True)
    told = json.loads(done.stdout)
    return float(told["answered"] / told["seconds"])


@contextmanager
def flood(stage: Stage, target: Target, attack: Path) -> Iterator[list[float]]:
    """Send forged datagrams for FLOOD_SECONDS; when they are over the list holds how many a second it were."""
    words = (stage.directory / "flood", SERVER, target.port, attack, FLOOD_SECONDS)
    told: list[float] = []
    command = stage.command(stage.links[1].client, stage.other_core, *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        time.sleep(0.2)
        yield told
        flooded = json.loads(attacker.communicate()[0])
    told.append(flooded["sent"] / flooded["seconds"])


def cost_rows() -> Iterator[Row]:
    """Nanoseconds of one question inside the program, and what a bare HMAC of one block costs on this machine."""
    for cost in costs():
        unit = f"ns a question (limit {cost.limit})"
        yield Row(f"test run, {cost.name}", cost.nanoseconds, unit, "-", None, None, cost.runs, cost.spread)


@contextmanager
def stage_of(cores: Sequence[int]) -> Iterator[Stage]:
    """Build namespaces, links and the C parts."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fbmu-bench-")))
        for name in ("echo", "load", "flood"):
            subprocess.run(["cc", "-O2", "-Wall", "-o", directory / name, HERE / "c" / f"{name}.c"], check=True)
        pair = VethPair("4")
        stack.callback(pair.unmake)
        pair.make()
        attacker = Link("fbv1", f"{pair.here}-foe")
        stack.callback(subprocess.run, ["ip", "netns", "del", attacker.client], capture_output=True)
        connect(pair.there, attacker)
        yield Stage(pair, (Link(pair.iface, pair.here), attacker), directory, cores[-1], cores[0])


def connect(there: str, link: Link) -> None:
    """Give the attacker a namespace, and a link from it to the server's."""
    ip("netns", "add", link.client)
    ip("-n", there, "link", "add", link.iface, "type", "veth", "peer", "name", link.iface, "netns", link.client)
    for namespace, end in ((there, "1"), (link.client, "2")):
        ip("-n", namespace, "addr", "add", f"10.57.1.{end}/24", "dev", link.iface)
        ip("-n", namespace, "link", "set", link.iface, "up")
    ip("-n", link.client, "route", "add", SERVER, "via", "10.57.1.1")


def go_first() -> None:
    """Put this process and its children before the rest of the machine, for whose sake no run is long."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    with contextlib.suppress(FileNotFoundError):  # a kernel without autogroups
        Path("/proc/self/autogroup").write_text("-20")


def rows(quick: bool) -> Sequence[Row]:
    """64 bytes, and 1024, and one outstanding, under --quick; every size, both ops and both depths without."""
    count, rounds = (20_000, 3) if quick else (40_000, 5)
    cases = [(DpOp.READ, 64, 64), (DpOp.READ, 1024, 64), (DpOp.READ, 64, 1)]
    if not quick:
        cases = [(op, size, depth) for op in (DpOp.READ, DpOp.WRITE) for size in (64, 512, 1024) for depth in (64, 1)]
    go_first()
    out: list[Row] = list(cost_rows())
    with stage_of(sorted(os.sched_getaffinity(0))) as stage, kernel() as program:
        for op, size, depth in cases:
            out += measured(stage, program, op, size, depth, count if depth > 1 else count // 8, rounds)
        with user(stage) as own:
            out += flood_rows(stage, program, own, 4 * count, 2 if quick else 5)
    return out


def measured(stage: Stage, program: Kernel, op: DpOp, size: int, depth: int, count: int, rounds: int) -> list[Row]:
    """One case. XDP is off the interface while the others are measured: it would cost them."""
    found: dict[str, list[Figures]] = {}
    with user(stage) as own, memcached(stage) as cache, echo(stage) as bare:
        store_value(stage, size)
        whole = contest(Targets(own, own, cache, bare), op, size, depth, count, stage.directory)
        for _ in range(rounds):
            for name, (target, questions, auth) in whole.entries.items():
                if name in DpAuth.__members__:
                    with program.attached(stage) as served:
                        figures = fire(stage, served, questions, depth, auth)
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
