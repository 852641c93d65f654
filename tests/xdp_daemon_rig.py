"""A daemon on the kernel path, between two namespaces, with pins of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from netns_rig import VethPair
from node_rig import NodeProcess

from fabricbios.client import connect
from fabricbios.transport import Identity

OWNER = Identity.generate()
MIB = 1 << 20


class XdpNode(NodeProcess):
    """A node in the namespace `there` of a pair, in a mount namespace that outlives it and holds its pins."""

    def __init__(self, directory: Path, pair: VethPair, *flags: str, mode: str = "auto") -> None:
        super().__init__(directory, "--xdp-iface", pair.iface, *flags, xdp=mode)
        self.flags[self.flags.index("127.0.0.1")] = f"{pair.V4}1"
        self.flags[self.flags.index("127.0.0.1:0")] = f"{pair.V4}1:0"
        self._pair = pair
        self.inside = pair.inside(pair.here)
        self._mounts = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf; echo up; read x"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self._mounts.stdout.readline() != "up\n":
            self.close()
            raise AssertionError("no bpffs of its own")

    def start(self) -> dict:
        self.log = (self.directory / "node.log").open("a")
        entered = ["nsenter", f"--mount=/proc/{self._mounts.pid}/ns/mnt", f"--net=/run/netns/{self._pair.there}"]
        self.process = subprocess.Popen(
            [*entered, sys.executable, "-m", "fabricbios.daemon", "node", *self.flags],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("ready "), self.said()
        self.ready = json.loads(line[6:])
        return self.ready

    def pins(self) -> list[str]:
        """Return what is pinned, as the node's mount namespace has it."""
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/{self._mounts.pid}/ns/mnt", "find", "/sys/fs/bpf/fabricbios", "-type", "f"],
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.split()

    def run(self, work, who=OWNER):
        async def session():
            async with connect(f"{self._pair.V4}1", self.port, identity=who) as node:
                return await work(node)

        return self.inside.do(session(), 60)

    def scrape(self, start: str) -> dict[str, float]:
        address = self.ready["metrics"]
        url = f"http://{address['addr']}:{address['port']}/metrics"
        code = f"import urllib.request; print(urllib.request.urlopen({url!r}).read().decode())"
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self._pair.here}", sys.executable, "-c", code],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith(start)]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def close(self) -> None:
        super().close()
        self._mounts.communicate()


async def kept(client, ttl=60, size=MIB):
    """Lease, and keep the lease and its data path when the control connection is closed."""
    lease = client.lease_memory(size, ttl)
    await lease.open()
    lease._renewer.cancel()
    client.leases.pop(lease.lease_id)
    return lease
