"""A block lease whose journal was lost: wiped by the next daemon, and nobody's until then."""

import asyncio
import signal
import time

import pytest
from node_rig import NodeProcess

from fabricbios.errors import CapacityExceeded
from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(120)
OWNER = Identity.generate()
MIB = 1 << 20


def test_an_orphan_is_wiped_while_the_daemon_serves(tmp_path):
    node = NodeProcess(tmp_path, "--block", f"{tmp_path}/disk.img:8M", mem="1M")

    async def fill(client):
        disk = client.lease_block(8 * MIB, ttl=60)
        await disk.open()
        await disk.write(0, b"\xaa" * MIB)
        await disk.detach()

    async def lease_all(client):
        until = time.monotonic() + 60
        while True:
            try:
                async with client.lease_block(8 * MIB, ttl=30) as disk:
                    return await disk.read(0, MIB)
            except CapacityExceeded:  # it is still the orphan's
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    try:
        node.start()
        node.run(fill, OWNER)
        node.end(signal.SIGKILL)
        (tmp_path / "state" / "journal").unlink()
        node.start()
        assert node.run(lambda client: client.inventory(), OWNER)
        assert node.run(lease_all, OWNER) == bytes(MIB)
        assert "took back lease" in node.said()
        assert node.end() == 0
    finally:
        node.close()
