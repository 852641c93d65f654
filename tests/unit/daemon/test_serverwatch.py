"""A server process that died is started again, and whatever becomes of that, the daemon's loop goes on."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fabricbios.daemon import serverwatch
from fabricbios.daemon.serverwatch import ServerWatch
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slots import Plane


def test_a_server_that_does_not_come_to_serve_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one ends at once, the third hangs, as it would in a store that does not answer; the fourth serves."""
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\nmkdir {tmp_path}/second && exit 3\nmkdir {tmp_path}/third\nexec sleep 600\n")
    broken.chmod(0o755)
    monkeypatch.setattr(serverwatch, "RESTART_AFTER", 0.01)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        asyncio.run(_kill_again_and_again(sock, broken, monkeypatch))


async def _kill_again_and_again(sock: socket.socket, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = ServerProcess(Plane.FBMU, [sock], LeaseBoard.create(4))
    watch = ServerWatch(process, "FBMU")
    watch.start()
    with monkeypatch.context() as breaking:
        breaking.setattr(sys, "executable", str(broken))
        _kill(process)
        await _until(lambda: (broken.parent / "third").exists())
    _kill(process)
    sock.sendto(b"nothing of ours", sock.getsockname())
    await _until(lambda: process.counters()["drops"]["malformed"] == 1)
    watch.close()


def _kill(process: ServerProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


async def _until(happened: Callable[[], bool]) -> None:
    """Wait for it in the loop that the daemon runs in: while that is held up, what was is over."""
    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert happened()
