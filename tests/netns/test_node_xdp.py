"""The daemon on the kernel path, between two namespaces: served, killed, handed over, taken down."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import closing

import pytest
from xdp_daemon_rig import MIB, XdpNode, kept
from xdp_veth_rig import xdp_pair

from fabricbios.errors import LeaseExpired, NotFound, Refused
from fabricbios.model import ResourceType

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]


@pytest.fixture
def pair():
    with xdp_pair("4") as made:
        yield made


@pytest.fixture
def node(tmp_path, pair):
    with closing(XdpNode(tmp_path, pair)) as process:
        process.start()
        yield process


def test_the_kernel_serves_and_counts(node):
    assert node.ready["paths"]["fbmu"] == "xdp_generic"  # auto, on a veth

    async def work(client):
        async with client.lease_memory(MIB, ttl=30) as lease:
            data = os.urandom(100_000)
            await lease.write(1234, data)
            assert await lease.read(1234, len(data)) == data
        async with client.lease_memory(MIB, ttl=30) as lease:
            assert await lease.read(0, MIB // 4) == bytes(MIB // 4)  # nothing of the earlier holder
        return (await client.build_info())["path.fbmu"]

    assert "xdp_generic" in node.run(work)
    served = node.scrape("fabricbios_dp_requests_total")
    assert served['fabricbios_dp_requests_total{op="read",path="xdp_generic",plane="fbmu"}'] > 70
    assert served.get('fabricbios_dp_requests_total{op="read",path="user",plane="fbmu"}', 0) == 0


def test_reads_go_on_while_the_daemon_is_dead_and_the_next_one_adopts(node):
    async def before(client):
        lease = await kept(client)
        await lease.write(7, b"through the crash")
        return lease

    async def dead(lease):
        assert await lease.read(7, 17) == b"through the crash"
        await lease.write(100, b"written while dead")

    lease = node.run(before)
    node.end(signal.SIGKILL)
    node.inside.do(dead(lease))
    node.start()
    assert "took back" not in node.said()

    async def after(client):
        again = client.attach_memory(lease.lease_id, 60)
        await again.open()
        assert await again.read(7, 17) == b"through the crash"
        assert await again.read(100, 18) == b"written while dead"
        await again.close()
        assert await client.list_active() == ()

    node.run(after)
    assert node.end() == 0
    assert node.pins() == []


def test_a_lease_expires_on_time_while_the_daemon_is_dead(node):
    async def before(client):
        lease = await kept(client, ttl=5)
        await lease.write(0, b"x")
        return lease

    async def late(lease):
        with pytest.raises(LeaseExpired):
            await lease._io.read(0, memoryview(bytearray(1)), 60)

    lease = node.run(before)
    node.end(signal.SIGKILL)
    time.sleep(5.2)
    node.inside.do(late(lease))
    node.start()

    async def gone(client):
        for _ in range(600):
            if not await client.list_active():
                break
            await asyncio.sleep(0.05)
        with pytest.raises((NotFound, Refused)):
            await client.attach(lease.lease_id)

    node.run(gone)


def test_a_handover_leaves_the_path_to_the_successor(node):
    async def before(client):
        lease = await kept(client)
        await lease.write(0, b"handed over")
        return lease

    lease = node.run(before)
    assert node.end(signal.SIGUSR2) == 0
    assert node.pins()

    async def meanwhile():
        assert await lease.read(0, 11) == b"handed over"

    node.inside.do(meanwhile())
    node.start()
    assert node.run(lambda client: client.query(lease.lease_id)).lease_status == 0


def test_switching_xdp_off_takes_down_what_was_left(node, tmp_path, pair):
    node.run(lambda client: kept(client))
    node.end(signal.SIGKILL)
    assert node.pins()
    node.flags[node.flags.index("auto")] = "off"
    node.start()
    assert node.ready["paths"]["fbmu"] == "user"
    assert node.pins() == []
    assert "took down" in node.said()


def test_sigterm_leaves_no_pin_and_no_program(node, pair):
    node.run(lambda client: kept(client))
    assert node.end() == 0
    assert node.pins() == []
    shown = subprocess.run(["ip", "-n", pair.there, "-d", "link", "show", pair.iface], capture_output=True, text=True)
    assert "xdp" not in shown.stdout


def test_a_thousand_leases_go_together(node):
    """Each has to be waited for in the kernel, about 10 ms: one after the other, a full table would be FENCED (D8)."""

    async def work(client):
        for _ in range(10):
            await asyncio.gather(*(client.lease_alloc(300, ResourceType.MEM, 4096) for _ in range(100)))
        return len(await client.list_active())

    assert node.run(work) == 1000
    assert node.end() == 0
    assert "FENCED" not in node.said()
