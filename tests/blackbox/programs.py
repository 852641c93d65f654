"""The real programs as processes: ports 0, the ready line, exit codes. Nothing of them is imported."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0


def poll(fact: Callable[[], object], seconds: float = PATIENCE, every: float = 0.02):
    """Return the first true value of `fact()`; its last one when time is out."""
    until = time.monotonic() + seconds
    while True:
        value = fact()
        if value or time.monotonic() > until:
            return value
        time.sleep(every)


def run(module: str, *arguments: str, stdin: str | bytes = "", env: dict[str, str] | None = None):
    """Run a program to its end; output is bytes where input is."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], input=stdin, capture_output=True,
        text=isinstance(stdin, str), timeout=120, env=env,
    )  # fmt: skip


def cli(*arguments: str, stdin: str | bytes = "", env: dict[str, str] | None = None):
    return run("fabricbios.cli", *arguments, stdin=stdin, env=env)


def cli_all(*commands: list[str], env: dict[str, str] | None = None) -> list[subprocess.CompletedProcess[str]]:
    """Run several commands side by side: most of a command's time is its start."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda command: cli(*command, env=env), commands))


def fail_all(*commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Start daemons side by side that are not to come up."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda command: run("fabricbios.daemon", *command), commands))


class Program:
    """A role of the daemon that prints `ready {json}`."""

    def __init__(self, directory: Path, role: str, *flags: str) -> None:
        self.directory, self.role, self.flags = directory, role, flags
        directory.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> dict:
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fabricbios.daemon", self.role, *self.flags],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], self.said()
        line = self.process.stdout.readline()
        assert line.startswith("ready "), (line, self.said())
        self.ready = json.loads(line.removeprefix("ready "))
        return self.ready

    def said(self) -> str:
        return (self.directory / "log").read_text()

    def port(self, plane: str) -> int:
        return self.ready[plane]["port"]

    @property
    def node_id(self) -> int:
        return int(self.ready["node_id"], 16)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it; return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def metrics(self) -> dict[str, float]:
        """Return every sample: name with labels -> value."""
        at = self.ready["metrics"]
        with urllib.request.urlopen(f"http://{at['addr']}:{at['port']}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line and line[0] != "#"}

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels; 0 where there is none."""
        total = 0.0
        for sample, value in self.metrics().items():
            found = dict(re.findall(r'(\w+)="([^"]*)"', sample))
            if sample.partition("{")[0] == name and labels.items() <= found.items():
                total += value
        return total


@contextmanager
def serving(program: Program) -> Iterator[Program]:
    """Start it, and kill it at the end, when nothing may have come apart in it."""
    try:
        program.start()
        yield program
        assert "Traceback" not in program.said()
    finally:
        program.close()


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Be whom a node announces to, as if we were its relay: `told_to` are its flags."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        yield ear


def told_to(ear: socket.socket) -> tuple[str, str]:
    return "--relay", f"127.0.0.1:{ear.getsockname()[1]}"


def node(directory: Path, *flags: str) -> Program:
    """Return a node, not started: loopback, every port picked, everything under `directory`."""
    return Program(
        directory, "node",
        "--state-dir", str(directory / "state"), "--runtime-dir", str(directory / "run"),
        "--trust-dir", str(directory / "trust"), "--bind", "127.0.0.1", "--control-port", "0",
        "--discovery-port", "0", "--fbmu-port", "0", "--fbbu-port", "0", "--metrics", "127.0.0.1:0",
        "--xdp", "off", "--nvmeof", "off", *flags,
    )  # fmt: skip
