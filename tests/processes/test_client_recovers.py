"""A node that is killed and started again under a client that goes on: found out soon, told plainly, used again."""

import asyncio
import json
import signal
from contextlib import closing

import pytest
from cli_rig import Cli, fits
from node_rig import NodeProcess

from fabricbios.client import Node, connect
from fabricbios.errors import LeaseExpired, NotFound, Revoked
from fabricbios.model import Binding
from fabricbios.transport import Identity
from fabricbios.transport.limits import DEFAULTS

pytestmark = pytest.mark.timeout(120)
GONE = (LeaseExpired, NotFound, Revoked)  # whichever the node remembers of a lease it took down at its start


@pytest.fixture
def process(tmp_path):
    with closing(NodeProcess(tmp_path, "--drivers", "simulated")) as node:
        node.start()
        ports = (("--control-port", "control"), ("--fbmu-port", "fbmu"))
        node.flags += [word for flag, name in ports for word in (flag, str(node.ready[name]["port"]))]  # the later wins
        yield node


def again(node: NodeProcess, number: int) -> None:
    node.end(number)
    node.start()


def client(process: NodeProcess) -> Node:
    return connect("127.0.0.1", process.port, identity=Identity.load_or_create(process.directory / "me"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_library_says_that_the_lease_is_gone_and_leases_anew(process, number):
    async def body():
        async with client(process) as node:
            lost = await node.lease_memory(1 << 16, ttl=60).open()
            await lost.write(0, b"hello")
            await asyncio.to_thread(again, process, number)
            with pytest.raises(GONE):
                await lost.read(0, 5, timeout=0.5)
            async with node.lease_memory(1 << 16, ttl=60) as lease:
                assert await lease.read(0, 5) == bytes(5)

    asyncio.run(body())


def test_a_dead_connection_is_found_out_before_quic_does(process):
    """A renewal that draws no answer doubts the connection while there is time for another; QUIC alone takes longer."""

    async def body():
        async with client(process) as node:
            lease = await node.lease_memory(1 << 16, ttl=4, binding=Binding.QUIC).open()
            await asyncio.to_thread(again, process, signal.SIGKILL)
            async with asyncio.timeout(DEFAULTS.idle_seconds):
                while lease.over is None:
                    await asyncio.sleep(0.05)
            assert isinstance(lease.over, GONE)

    asyncio.run(body())


def test_hold_says_that_its_lease_went_with_the_node(process):
    cli = Cli(process.directory / "me", process.port)
    holding = cli.start("lease", "mem", "--size", "1M", "--ttl", "20s", "--hold", "--json")
    json.loads(holding.stdout.readline())
    again(process, signal.SIGKILL)
    assert holding.wait(60) == 3
    assert fits(json.loads(holding.stderr.read()))["status"] in ("LEASE_EXPIRED", "RESOURCE_NOT_FOUND")
