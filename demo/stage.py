"""The stage: two network namespaces joined by veth, or loopback where we are not root; undone whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000


class Stage:
    """Where node, relay and client stand. `node_addr` is the node's, `client_addr` the client's and relay's."""

    def __init__(self, directory: Path, namespaces: tuple[str, str] | None) -> None:
        self.directory = directory
        self.namespaces = namespaces
        self.node_addr, self.client_addr = ("10.57.0.1", "10.57.0.2") if namespaces else ("127.0.0.1", "127.0.0.1")
        self._children: list[subprocess.Popen[str]] = []

    def daemon(self, where: int, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start `fabricbiosd` in namespace `where` (0 node, 1 client); return it and its ready line."""
        prefix = ["nsenter", f"--net=/run/netns/{self.namespaces[where]}", *_with_bpffs()] if self.namespaces else []
        log = (self.directory / f"{arguments[0]}.log").open("w")
        child = subprocess.Popen(
            [*prefix, sys.executable, "-m", "fabricbios.daemon", *arguments],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        self._children.append(child)
        assert child.stdout
        line = child.stdout.readline()
        if not line.startswith("ready "):
            raise SystemExit(f"demo: fabricbiosd {arguments[0]} did not start:\n{Path(log.name).read_text()}")
        return child, json.loads(line[6:])

    def run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run the `fabricbios` command as the client; it shows what a person would see."""
        return subprocess.run(
            [sys.executable, "-m", "fabricbios.cli", *arguments], input=stdin, capture_output=True, timeout=120
        )

    def enter_client(self) -> None:
        """Move this process into the client's namespace."""
        if self.namespaces:
            fd = os.open(f"/run/netns/{self.namespaces[1]}", os.O_RDONLY)
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            os.close(fd)

    def stop(self, child: subprocess.Popen[str], within: float = 10) -> float:
        """SIGTERM; return how long it took. A daemon that does not go in time fails the demo."""
        begun = time.monotonic()
        child.send_signal(signal.SIGTERM)
        child.wait(within)
        self._children.remove(child)
        return time.monotonic() - begun

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()


def _with_bpffs() -> list[str]:
    """Return what gives a command a bpffs of its own where the machine has none mounted: the kernel path pins there.

    (`ip netns exec` would hide the machine's own behind a fresh /sys.)
    """
    if any(line.split()[1:3] == ["/sys/fs/bpf", "bpf"] for line in Path("/proc/mounts").read_text().splitlines()):
        return []
    return ["unshare", "--mount", "sh", "-c", 'mount -t bpf bpf /sys/fs/bpf; exec "$@"', "sh"]


def leftovers(names: tuple[str, str] | None) -> list[str]:
    """What of ours is still there after everything was closed: must be empty."""
    left = [f"namespace {n}" for n in names or () if Path(f"/run/netns/{n}").exists()]
    pins = Path("/sys/fs/bpf/fabricbios")
    if pins.is_dir():
        left += [f"pin {p}" for p in pins.rglob("*") if p.is_file()]
    return left


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def namespaces_possible() -> str:
    """Return "" if we can make network namespaces, else why not."""
    if os.geteuid() != 0:
        return "not root"
    for tool in ("ip", "nsenter", "unshare"):
        if not shutil.which(tool):
            return f"{tool} is missing"
    return _tried()


def _tried() -> str:
    """Make a namespace, look into it, remove it: what counts is whether it works (containers, chroots)."""
    name = f"fbdemo-probe-{os.getpid()}"
    try:
        for command in (("netns", "add", name), ("-n", name, "link", "show")):
            done = subprocess.run(["ip", *command], capture_output=True, text=True)
            if done.returncode:
                return f"ip {' '.join(command)}: {done.stderr.strip() or done.returncode}"
        return ""
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Set the stage and clear it."""
    tag = os.getpid()
    names = (f"fbdemo-node-{tag}", f"fbdemo-client-{tag}") if not namespaces_possible() else None
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    with tempfile.TemporaryDirectory(prefix="fabricbios-demo-") as directory, contextlib.ExitStack() as undo:
        undo.callback(os.close, home)
        if names:
            _join(names, undo)
        theatre = Stage(Path(directory), names)
        undo.callback(lambda: ctypes.CDLL(None).setns(home, CLONE_NEWNET) if names else None)
        undo.callback(theatre.close)
        yield theatre


def _join(names: tuple[str, str], undo: contextlib.ExitStack) -> None:
    for name in names:
        _ip("netns", "add", name)
        undo.callback(subprocess.run, ["ip", "netns", "del", name], capture_output=True)
    _ip("-n", names[0], "link", "add", "fbnode0", "type", "veth", "peer", "name", "fbclient0", "netns", names[1])
    for name, link, address in zip(names, ("fbnode0", "fbclient0"), ("10.57.0.1/24", "10.57.0.2/24"), strict=True):
        _ip("-n", name, "addr", "add", address, "dev", link)
        _ip("-n", name, "link", "set", link, "up")
        _ip("-n", name, "link", "set", "lo", "up")
