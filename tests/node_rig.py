"""A real `fabricbiosd node` process on loopback, and a client of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from fabricbios.client import connect
from fabricbios.transport import Identity


class NodeProcess:
    """`ready` is the ready line's object. Everything is under `directory`; all ports are picked by the kernel."""

    def __init__(self, directory: Path, *flags: str, mem: str = "16M", xdp: str = "off") -> None:
        self.directory = directory
        self.flags = [
            "--state-dir", str(directory / "state"), "--runtime-dir", str(directory / "run"),
            "--trust-dir", str(directory / "trust"), "--bind", "127.0.0.1", "--control-port", "0",
            "--discovery-port", "0", "--fbmu-port", "0", "--fbbu-port", "0", "--metrics", "127.0.0.1:0",
            "--mem-capacity", mem, "--xdp", xdp, *flags,
        ]  # fmt: skip
        self.program = ["-m", "fabricbios.daemon"]
        self.prefix: list[str] = []  # what it is run by, such as nsenter
        self.process: subprocess.Popen | None = None

    def start(self) -> dict:
        self.spawn()
        line = self.process.stdout.readline()
        assert line.startswith("ready "), (line, self.said())
        self.ready = json.loads(line[6:])
        return self.ready

    def spawn(self) -> None:
        """Start it and do not wait."""
        self.log = (self.directory / "node.log").open("a")
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, *self.program, "node", *self.flags],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip

    def said(self) -> str:
        return (self.directory / "node.log").read_text()

    @property
    def port(self) -> int:
        return self.ready["control"]["port"]

    def kill(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM, seconds: float = 90) -> int:
        self.kill(number)
        code = self.process.wait(seconds)
        self.process.stdout.close()
        self.log.close()
        return code

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)

    def servers(self) -> list[int]:
        """Return the pids of the data plane processes under it."""
        with contextlib.suppress(FileNotFoundError):
            return [
                int(p) for p in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        return []

    def metric(self, start: str, seconds: float = 20) -> dict[str, float]:
        address = self.ready["metrics"]
        with urllib.request.urlopen(f"http://{address['addr']}:{address['port']}/metrics", timeout=seconds) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(start)}

    def connect(self, who: Identity | None):
        return connect("127.0.0.1", self.port, identity=who)

    def run(self, work, who: Identity | None = None):
        """Run `async work(node)` as a client; return its result."""

        async def session():
            async with self.connect(who) as node:
                return await work(node)

        return asyncio.run(session())


def gone(pid: int, seconds: float = 60) -> bool:
    """Wait until a process is no more."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not os.path.exists(f"/proc/{pid}"):
            return True
        time.sleep(0.02)
    return False
