"""A cable that is pulled in the middle of a transfer, for a while and for ever."""

import asyncio
import json
import os
import subprocess
from contextlib import ExitStack

import pytest
from cli_rig import COMMAND, environment
from netns_rig import VethPair, ip
from node_rig import NodeProcess

from fabricbios.cli.data import CHUNK
from fabricbios.client import connect
from fabricbios.model import Binding

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
MIB = 1 << 20
PIPE = 1 << 16  # bytes that a pipe holds (pipe(7))


class Served:
    """A node in `there`; `inside` is a loop in `here`."""

    def __init__(self, directory, pair):
        self.pair, self.identity, self.address = pair, directory / "me", f"{pair.V4}1"
        self.node = NodeProcess(directory, "--drivers", "simulated", mem="64M")
        self.node.prefix = ["nsenter", f"--net=/run/netns/{pair.there}"]
        self.node.flags[self.node.flags.index("127.0.0.1")] = self.address
        self.inside = pair.inside(pair.here)

    def connect(self):
        return connect(self.address, self.node.port, identity=self.identity)

    def cli(self, *words, **pipes):
        whom = ["-H", f"{self.address}:{self.node.port}", "--identity", str(self.identity)]
        command = ["nsenter", f"--net=/run/netns/{self.pair.here}", *COMMAND, *whom, *words]
        return subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, **pipes)

    def set_link(self, state):
        ip("-n", self.pair.there, "link", "set", self.pair.iface, state)


@pytest.fixture
def served(tmp_path):
    with ExitStack() as stack:
        pair = VethPair("4")
        stack.callback(pair.unmake)
        pair.make()
        made = Served(tmp_path, pair)
        stack.callback(made.node.close)
        made.node.start()
        yield made


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_a_cable_that_comes_back_costs_time_alone(served, binding):
    data = os.urandom(8 * MIB)
    pulled = []

    def pull(done: int, total: int) -> None:
        """In the loop that writes, so that it cannot be through before the cable is out."""
        if not pulled:
            pulled.append(done)
            served.set_link("down")

    async def body():
        async with served.connect() as node, node.lease_memory(len(data), ttl=60, binding=binding) as lease:
            writing = asyncio.create_task(lease.write(0, data, progress=pull))
            while not pulled:
                await asyncio.sleep(0.01)
            done, _ = await asyncio.wait([writing], timeout=3)
            assert not done, "the cable was out in the middle of it"
            await asyncio.to_thread(served.set_link, "up")
            await writing
            assert await lease.read(0, len(data)) == data

    served.inside.do(body(), 150)


def test_write_tells_how_far_it_came_when_the_cable_stays_out(served):
    read, write = os.pipe()
    writing = served.cli("write", leased(served), stdin=read)
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe:
        pipe.write(bytes(CHUNK + PIPE + 1))  # is taken when the first chunk is written, and the second one read
        served.set_link("down")
    said = writing.stderr.read().decode()
    assert writing.wait(90) == 4
    assert "the first 4 MiB are written" in said
    assert said.count("\n") == 1


def leased(served):
    making = served.cli("lease", "mem", "--size", "16M", "--ttl", "5m", "--json")
    return json.loads(making.communicate(timeout=60)[0])["lease_id"]
