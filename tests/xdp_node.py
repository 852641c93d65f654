"""A daemon's worth of XDP path as a process, for tests that kill it: `python xdp_node.py SPEC`, SPEC is JSON.

Opens the path, leases LENGTH bytes, starts on an interface, prints one JSON line, then answers what reaches its
sockets until stdin ends; then it stops the path ("stop" was read) or releases it (anything else).
"""

import json
import socket
import sys
from pathlib import Path

from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import Extent, Plane, SlotLease
from fabricbios.dataplane.xdp import Station, XdpPath
from fabricbios.dataplane.xdp_socket import XdpSocketServer
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import DpAuth

LENGTH = 16384
KEY = bytes(range(32))


def lease_id(auth: DpAuth) -> int:
    return (0xF00D << 64) + auth


def install(path: XdpPath, seconds: float) -> list[int]:
    """Lease to four keys at once, one a mode, all over the same bytes; return what was leased before."""
    table = path.maps.table(path.maps.board())
    before = [found for found, _ in table]
    until = boottime_ns() + int(seconds * 1e9)
    for auth in DpAuth:
        extent = Extent(4096, LENGTH)
        table.install(SlotLease(lease_id(auth), Plane.FBMU, extent, 3, auth, KEY, 1, until, 1408, 1404), 0)
    return before


def sockets(port: int) -> list[socket.socket]:
    made = []
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((anywhere, port))
        made.append(sock)
    return made


def main(spec: dict[str, object]) -> None:
    path = XdpPath.open(str(spec["instance"]), 64, 1 << 20, Path(str(spec["bpffs"])))
    before = install(path, float(str(spec.get("seconds", 3600))))
    memory = Memory(path.maps.slabs())
    if not path.adopted:
        memory.view[:] = bytes(range(256)) * (len(memory.view) // 256)
    socks = sockets(int(str(spec["port"])))
    server = XdpSocketServer(path.answer, socks)
    choices = path.start([Station.named(str(spec["iface"]))], int(str(spec["port"])), 0, str(spec["mode"]))
    server.start()
    told = {"adopted": path.adopted, "drained": path.drained, "before": before, "choices": choices}
    print(json.dumps(told), flush=True)
    word = sys.stdin.readline().strip()
    server.close()
    print(json.dumps(path.counters()), flush=True)
    if word == "stop":
        path.stop()
    else:
        path.release()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
