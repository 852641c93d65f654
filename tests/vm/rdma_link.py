"""Soft-RoCE over a veth pair, for tests that want an RDMA device of their own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = "10.57.9.1"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def soft_roce(name: str = "fbrxe0") -> Iterator[str]:
    """Make the rxe device `name` at ADDRESS and yield its name; both ends of the veth go away again."""
    _run("modprobe", "-a", "rdma_rxe", "ib_uverbs", "rdma_ucm")
    _run("ip", "link", "add", "fbr0", "type", "veth", "peer", "name", "fbr1")
    try:
        _run("ip", "addr", "add", f"{ADDRESS}/24", "dev", "fbr0")
        _run("ip", "link", "set", "fbr0", "up")
        _run("ip", "link", "set", "fbr1", "up")
        _run("rdma", "link", "add", name, "type", "rxe", "netdev", "fbr0")
        _wait_active(name)
        yield name
    finally:
        subprocess.run(["rdma", "link", "del", name], check=False)
        _run("ip", "link", "del", "fbr0")


def _wait_active(name: str) -> None:
    state = Path(f"/sys/class/infiniband/{name}/ports/1/state")
    deadline = time.monotonic() + 5
    while "ACTIVE" not in state.read_text():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{state} stays {state.read_text().strip()}")
        time.sleep(0.05)
