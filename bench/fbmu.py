"""FBMU served by XDP against memcached over UDP, redis, a bare C echo and our own user-space path.

Client and server are two ends of one veth pair and share one core, whoever serves: XDP works in the client's own
softirq, so a core of its own would be a present to the others. Rates are answers a second of that core's time: what
client, server and ksoftirqd used, which on an idle machine is the time that passed. Peers' interfaces carry no XDP
program. One C load generator asks all of them; every question is sent once, and between runs the lease is rekeyed,
which empties the window. Rounds take turns over the targets, so that a busy neighbour hits all alike; the bench puts
itself before its neighbours besides (nice, and the nice of its autogroup), in runs of a second at most.

The load sends what it may have outstanding as one train (UDP_SEGMENT), to all targets alike. Where XDP serves, the
train is cut up before the link, and the programs see its frames behind each other. redis has TCP alone: it is asked
through one connection, pipelined, what may be outstanding in one write (bench/c/redis_load.c).

Needs root, memcached, redis-server, and bench/c compiled by cc.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
# ruff: noqa: E402

from fbmu_flood import flood_rows
from fbmu_peers import (
    Leases,
    Target,
    echo,
    memcached,
    memcached_questions,
    redis,
    redis_questions,
    store_value,
    user,
)
from fbmu_user import SPAN, Load, prepare
from report import Row, run
from stage import SERVER, Stage, cpu_seconds, go_first, inside, ksoftirqd, stage_of
from xdp_repeat import costs

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.hw import bpf
from fabricbios.model import DpAuth, DpOp

PORT = 5702
PEERS = ("memcached UDP", "redis", "C echo", "user space")
PASS_ALL = bytes.fromhex("b7000000020000009500000000000000")  # r0 = XDP_PASS; exit
MODES = (DpAuth.SIPHASH_FULL, DpAuth.BLAKE2S_FULL, DpAuth.HMAC_HEADER, DpAuth.HMAC_FULL)


class Figures(NamedTuple):
    """One run."""

    rate: float  # answers a second of the core's time
    p50_us: float
    passed: float  # answers a second that passed


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


def fire(stage: Stage, target: Target, questions: Path, outstanding: int, auth: DpAuth) -> Figures:
    """Send all questions once; nearly every one must be answered OK."""
    target.reset(auth)
    others = (target.pid, ksoftirqd(stage.core))
    words = (stage.directory / target.load, SERVER, target.port, questions, outstanding, *target.dialect)
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
    redis: Target
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
    entries["redis"] = (targets.redis, redis_questions(op, size, count, directory), DpAuth.HMAC_HEADER)
    return Contest(f"{op.name} {size} B", outstanding, entries)


def rows_of(contest: Contest, found: dict[str, list[Figures]]) -> Iterator[Row]:
    """Yield each mode against each peer: the median's ratio, and in the unit the best of the rounds."""
    alone = contest.outstanding == 1
    for auth in MODES:
        mine = [f.p50_us if alone else f.rate for f in found[auth.name]]
        for peer in PEERS:
            theirs = [f.p50_us if alone else f.rate for f in found[peer]]
            ours, other = statistics.median(mine), statistics.median(theirs)
            ratio = other / ours if alone else ours / other
            best = f"best {min(mine):.1f}" if alone else f"best {max(mine):,.0f}"
            unit = f"p50 us ({best})" if alone else f"answers/s of the core ({best})"
            case = f"{contest.load}, {contest.outstanding} outstanding, {auth.name}"
            yield Row(case, ours, unit, peer, other, ratio, len(mine), (max(mine) - min(mine)) / ours)


def cost_rows() -> Iterator[Row]:
    """Nanoseconds of one question inside the program, and what a bare HMAC of one block costs on this machine."""
    for cost in costs():
        unit = f"ns a question (limit {cost.limit})"
        yield Row(f"test run, {cost.name}", cost.nanoseconds, unit, "-", None, None, cost.runs, cost.spread)


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
            out += flood_rows(stage, lambda: program.attached(stage), own, 4 * count, 2 if quick else 5)
    return out


def measured(stage: Stage, program: Kernel, op: DpOp, size: int, depth: int, count: int, rounds: int) -> list[Row]:
    """One case. XDP is off the interface while the others are measured: it would cost them."""
    found: dict[str, list[Figures]] = {}
    with user(stage) as own, memcached(stage) as cache, redis(stage) as store, echo(stage) as bare:
        store_value(stage, size)
        whole = contest(Targets(own, own, cache, store, bare), op, size, depth, count, stage.directory)
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
