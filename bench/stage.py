"""Where the data path is measured: two namespaces, a veth pair between them, and a second one for an attacker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
# ruff: noqa: E402

from netns_rig import VethPair, ip

SERVER = VethPair.V4 + "1"
C_PARTS = ("echo", "load", "redis_load", "flood")


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


@contextmanager
def stage_of(cores: Sequence[int]) -> Iterator[Stage]:
    """Build namespaces, links and the C parts."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fbmu-bench-")))
        for name in C_PARTS:
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


def ksoftirqd(core: int) -> int:
    """Return the pid of the thread that finishes a core's softirqs when they are too many."""
    named = [p for p in Path("/proc").glob("[0-9]*/comm") if p.read_text() == f"ksoftirqd/{core}\n"]
    return int(named[0].parent.name) if named else 0


def cpu_seconds(pid: int) -> float:
    """Return what all threads of a process have used (schedstat: Documentation/scheduler/sched-stats)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat") if pid else ()
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def go_first() -> None:
    """Put this process and its children before the rest of the machine, for whose sake no run is long."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    with contextlib.suppress(FileNotFoundError):  # a kernel without autogroups
        Path("/proc/self/autogroup").write_text("-20")
