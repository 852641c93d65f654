"""One node and one client on this machine: a daemon, the command line, and the client's library."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fabricbios.cli.main import main as fabricbios
from fabricbios.client import Node, connect
from fabricbios.daemon.main import main as fabricbiosd
from fabricbios.hw import nvme_host
from vm.forked import Forked
from vm.nvmeof_rig import load_modules, nothing_left

T = TypeVar("T")


class Site:
    """A daemon over `stores` (PATH[:SIZE]) at `bind`, in a network namespace where one is named."""

    def __init__(self, directory: Path, *stores: str, bind: str = "127.0.0.1", netns: str = "") -> None:
        self.directory, self.stores, self.bind, self.netns = directory, stores, bind, netns
        self.state = directory / "state"
        self.log = directory / "daemon.log"
        self.daemon: Forked | None = None
        self.port = 0

    def start(self) -> None:
        places = ["--state-dir", str(self.state), "--runtime-dir", str(self.directory / "run")]
        ports = [word for name in ("control", "discovery", "fbmu", "fbbu") for word in (f"--{name}-port", "0")]
        disks = [word for store in self.stores for word in ("--block", store)]
        here = ["node", "--bind", self.bind, "--trust", "tofu", "--xdp", "off", "--nvmeof", "tcp:4420"]
        here += ["--mem-capacity", "1M"]
        self.daemon = Forked(fabricbiosd, *here, *places, *ports, *disks, log=self.log, netns=self.netns)
        line = self.daemon.stdout.readline()
        assert line.startswith("ready "), self.log.read_text()
        self.port = json.loads(line.removeprefix("ready "))["control"]["port"]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the daemon a signal and return how it exited."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait()
        self.daemon = None
        return code

    def command(self, *arguments: str) -> Forked:
        """Begin fabricbios with --json."""
        where = ["-H", f"{self.bind}:{self.port}", "--identity", str(self.directory / "client")]
        return Forked(fabricbios, *where, *arguments, "--json", log=self.directory / "cli.log")

    def cli(self, *arguments: str) -> Any:
        """Run fabricbios with --json and return its document."""
        process = self.command(*arguments)
        said = process.stdout.read()
        assert process.wait() == 0, (self.directory / "cli.log").read_text()
        return json.loads(said)

    def run(self, work: Callable[[Node], Awaitable[T]]) -> T:
        """Do `work` as the same client, without a process."""

        async def session() -> T:
            async with connect(self.bind, self.port, identity=self.directory / "client") as node:
                return await work(node)

        return asyncio.run(session())

    def leased_disk(self, size: int) -> tuple[str, str]:
        """Lease, attach; return lease id and block device."""
        lease = self.cli("lease", "block", "--size", str(size), "--ttl", "10m", "--binding", "nvmeof")["lease_id"]
        return lease, self.cli("attach", lease)["device"]


@contextmanager
def site_at(directory: Path, *stores: str, bind: str = "127.0.0.1", netns: str = "") -> Iterator[Site]:
    """Start a site; at the end its disks are disconnected, its daemon ends well, and nothing of it is left."""
    load_modules()
    site = Site(directory, *stores, bind=bind, netns=netns)
    site.start()
    try:
        yield site
    finally:
        for nqn in set(nvme_host.subsystems()):
            if "fabricbios" in nqn:
                nvme_host.disconnect(nqn)
        code = site.end() if site.daemon else 0
    assert (code, nothing_left()) == (0, True), site.log.read_text()
