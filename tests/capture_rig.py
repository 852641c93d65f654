"""A capture of a real conversation: tcpdump on loopback, and the TLS secrets of the client here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fabricbios.transport.keylog import VARIABLE

LOUD_ENOUGH = "listening on"  # what tcpdump says once it captures


@contextlib.contextmanager
def captured(path: Path, ports: list[int]) -> Iterator[None]:
    """Write all UDP of these ports on loopback to `path` while the block runs."""
    wanted = " or ".join(f"udp port {port}" for port in ports)
    command = ["tcpdump", "-i", "lo", "-U", "--immediate-mode", "-s", "0", "-Z", "root", "-w", str(path), wanted]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as dump:
        assert dump.stderr is not None
        said = dump.stderr.readline()
        while said and LOUD_ENOUGH not in said:
            said = dump.stderr.readline()
        assert said, "tcpdump did not start"
        try:
            yield
        finally:
            dump.send_signal(signal.SIGINT)
            dump.communicate(timeout=60)


@contextlib.contextmanager
def secrets_logged(path: Path) -> Iterator[None]:
    """Let QUIC connections that are dialled here write their secrets."""
    os.environ[VARIABLE] = str(path)
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def without_first(capture: Path, count: int, path: Path) -> Path:
    """Copy a capture without its first packets.

    The handshake starts with Initial and Retry, and aioquic answers Retry with another ClientHello: what was before
    it leads tshark to look for the wrong secrets.
    """
    data, at = capture.read_bytes(), 24
    for _ in range(count):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    path.write_bytes(data[:24] + data[at:])
    return path
