"""Two namespaces as in netns_rig, joined by a wire that loses, delays, reorders, doubles, corrupts, throttles or cuts.

sch_netem is in few kernels that tests run on, so the wire is a process of ours (bad_wire.py) in a third namespace.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

from bad_wire import Weather
from netns_rig import VethPair, ip
from pyroute2 import netns

WIRE = Path(__file__).with_name("bad_wire.py")
GOOD = Weather()
SIOCETHTOOL = 0x8946  # linux/sockios.h
OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)  # ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO: what is on the wire is whole datagrams


class BadWire(VethPair):
    """As VethPair, IPv4 alone. The wire is a good one until `set` says otherwise."""

    def __init__(self, seed: int = 1, mtu: int = 1500) -> None:
        super().__init__("4")
        self.between = self.there.replace("fbt-", "fbw-")
        self._seed, self._mtu = seed, mtu
        self._process: subprocess.Popen[str] | None = None

    def make(self) -> None:
        for name in (self.there, self.here, self.between):
            ip("netns", "add", name)
        for name, far, end in ((self.there, "n0", "1"), (self.here, "c0", "2")):
            ip("-n", name, "link", "add", self.iface, "type", "veth", "peer", "name", far, "netns", self.between)
            self._sysctl(name, "disable_ipv6", "1")
            self._plain(name, self.iface)
            self._plain(self.between, far)
            ip("-n", name, "addr", "add", f"{self.V4}{end}/24", "dev", self.iface)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", self.iface, "mtu", str(self._mtu), "up")
            ip("netns", "exec", self.between, "sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{far}/disable_ipv6")
            ip("-n", self.between, "link", "set", far, "up")
        self._process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.between}", sys.executable, str(WIRE), str(self._seed), "n0", "c0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "up\n"

    def unmake(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
        super().unmake()
        subprocess.run(["ip", "netns", "del", self.between], capture_output=True)

    def set(self, to: Weather = GOOD, fro: Weather | None = None) -> dict[str, dict[str, int]]:
        """Change the weather, `fro` the node as `to` it by default. Return the fates of frames so far, a direction."""
        fro = to if fro is None else fro
        self._process.stdin.write(json.dumps({"to": to._asdict(), "fro": fro._asdict()}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    async def change(self, to: Weather = GOOD, fro: Weather | None = None) -> dict[str, dict[str, int]]:
        """As `set`, from inside a loop."""
        return await asyncio.to_thread(self.set, to, fro)

    def _plain(self, namespace: str, interface: str) -> None:
        """Switch off what would put more than a datagram, or one without its checksum, on the wire."""
        netns.pushns(namespace)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for command in OFFLOADS:
                    value = array.array("B", struct.pack("=II", command, 0))
                    name = interface.encode().ljust(16, b"\0")
                    fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("@16sP", name, value.buffer_info()[0]) + bytes(16))
        finally:
            netns.popns()
