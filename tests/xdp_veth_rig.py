"""The XDP path on a veth pair: namespaces, pins of its own, children that serve and die, and a client's socket."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from netns_rig import CLONE_NEWNET, Inside, VethPair
from xdp_node import install
from xdp_rig import PORT, require_bpf

from fabricbios.dataplane.xdp import Station, XdpPath
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.hw import bpf

PASS_ALL = bytes.fromhex("b7000000020000009500000000000000")  # r0 = XDP_PASS; exit


@contextmanager
def xdp_pair(families: str = "46") -> Iterator[VethPair]:
    """Make a pair where the program can be loaded; skip elsewhere."""
    require_bpf()
    pair = VethPair(families)
    try:
        pair.make()
        yield pair
    finally:
        pair.unmake()


@contextmanager
def bpffs_at(mount: Path) -> Iterator[Path]:
    """Mount a bpffs on a new directory."""
    mount.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def pass_all(inside: Inside, iface: str) -> int:
    """Attach a program that passes everything, and return its link: veth drops what XDP_TX sends to an end without."""

    async def attach() -> int:
        program = bpf.prog_load(bpf.Program("pass_all", PASS_ALL, "Apache-2.0"))
        return bpf.link_xdp(program, socket.if_nametoindex(iface), bpf.XDP_FLAGS_DRV_MODE)

    return inside.do(attach())


def client(inside: Inside, address: str) -> socket.socket:
    """Return a socket that lives in the namespace and asks `address`."""

    async def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(30)
        sock.connect((address, PORT))
        return sock

    return inside.do(make())


def ask(sock: socket.socket, datagram: bytes) -> bytes:
    sock.send(datagram)
    return sock.recv(2048)


def silent(sock: socket.socket, datagram: bytes) -> bool:
    """Ask, and say whether there was no answer within 0.2 s."""
    sock.settimeout(0.2)
    try:
        ask(sock, datagram)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(30)
    return False


def enter(namespace: str) -> None:
    """Move this thread into a network namespace."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork; return its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def untested(mode: CounterRecord) -> str:
    """A self-test that always succeeds: it leaves no pins, and a start would take twice as long."""
    return ""


def started(bpffs: Path, iface: str) -> XdpPath:
    """Open the path, lease, and serve an interface of this thread's namespace."""
    path = XdpPath.open("test", 8, 1 << 16, bpffs)
    install(path, 3600)
    choices = path.start([Station.named(iface)], PORT, 0, "native", untested)
    assert choices[0].path == "xdp_native", choices
    return path
