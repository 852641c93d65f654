"""What a node costs that does nothing: time to its ready line, memory, processor time at rest.

A real `fabricbiosd node` on loopback with 16 MiB to lease, and its server process beside it, against the
smallest process that could serve at all: aioquic's stock echo server. Both start from compiled bytecode, as
an installed package has it (the first start, which compiles, is not counted). "ready" is wall time and grows with what
else runs on the machine; "processor time to ready" is all processes together and hardly does. "pss" is memory with
what processes share divided among them, "rss" counts it in each.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from report import Row, run

TICKS = os.sysconf("SC_CLK_TCK")
PEER = "aioquic echo"
ECHO = (str(Path(__file__).parent / "peers" / "quic_echo.py"), "stock", "64")


class Idle(NamedTuple):
    """One process at rest: MiB, and the share of a processor it takes."""

    rss: float
    pss: float
    cpu: float


class Life(NamedTuple):
    """One start, seconds of wall and of processor time, and then each process at rest, the first one's first."""

    ready: float
    spent: float
    processes: list[Idle]


def node_command(home: str) -> tuple[str, ...]:
    flags = ["--state-dir", f"{home}/s", "--runtime-dir", f"{home}/r", "--trust-dir", f"{home}/t", "--xdp", "off"]
    flags += [part for port in ("control", "discovery", "fbmu", "fbbu") for part in (f"--{port}-port", "0")]
    return ("-m", "fabricbios.daemon", "node", *flags, "--bind", "127.0.0.1", "--mem-capacity", "16MiB",
            "--drivers", "simulated")  # fmt: skip


def live(command: Sequence[str], bytecode: str, rest: float) -> Life:
    """Start a process, wait for its first line, watch it for `rest` seconds, and end it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"{command} did not start")
            ready = time.perf_counter() - start
            pids = [process.pid, *children(process.pid)]
            return Life(ready, sum(map(cpu_of, pids)), at_rest(pids, rest))
        finally:
            process.terminate()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def at_rest(pids: Sequence[int], seconds: float) -> list[Idle]:
    time.sleep(min(1.0, seconds))  # what a start leaves to be done is done
    before = [cpu_of(pid) for pid in pids]
    time.sleep(seconds)
    return [
        Idle(memory(pid, "Rss"), memory(pid, "Pss"), (cpu_of(pid) - spent) / seconds)
        for pid, spent in zip(pids, before, strict=True)
    ]


def cpu_of(pid: int) -> float:
    """Return the processor time that a process has had, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int, kind: str) -> float:
    """Return a sum of proc_pid_smaps_rollup(5), in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{kind}:"))


def rows(quick: bool) -> Sequence[Row]:
    runs, rest = (3, 3.0) if quick else (7, 20.0)
    ours: list[Life] = []
    peers: list[Life] = []
    with tempfile.TemporaryDirectory() as home:
        for turn in range(runs + 1):
            quiet = rest if turn == runs else 0.1
            ours.append(live(node_command(f"{home}/{turn}"), f"{home}/bytecode", quiet))
            peers.append(live(ECHO, f"{home}/bytecode", quiet))
    node, echo = ours[-1].processes, peers[-1].processes
    names = ("the daemon", "its FBMU server")
    return [
        row("ready", "s", [one.ready for one in ours[1:]], [one.ready for one in peers[1:]]),
        row("processor time to ready", "s", [one.spent for one in ours[1:]], [one.spent for one in peers[1:]]),
        row("rss, all", "MiB", [sum(p.rss for p in node)], [sum(p.rss for p in echo)]),
        row("pss, all", "MiB", [sum(p.pss for p in node)], [sum(p.pss for p in echo)]),
        *(row(f"rss, {name}", "MiB", [process.rss], []) for name, process in zip(names, node, strict=True)),
        *(row(f"at rest, {name}", "% CPU", [process.cpu * 100], []) for name, process in zip(names, node, strict=True)),
    ]


def row(case: str, unit: str, ours: list[float], peer: list[float]) -> Row:
    """Less is better in all of them."""
    median = statistics.median(ours)
    spread = (max(ours) - min(ours)) / median if median else 0.0
    if not peer:
        return Row(case, median, unit, "", None, None, len(ours), spread)
    other = statistics.median(peer)
    return Row(case, median, unit, PEER, other, other / median, len(ours), spread)


if __name__ == "__main__":
    sys.exit(run("daemon", rows))
