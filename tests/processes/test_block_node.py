"""Block leases through the daemon as a process: files as disks, over UDP and QUIC. Needs no root."""

import asyncio
import os
import signal
import socket
from contextlib import closing

import pytest
from node_rig import NodeProcess

from fabricbios.client.node import HOLD
from fabricbios.errors import CapacityExceeded, Fenced, InvalidToken, NotFound, Refused, Revoked
from fabricbios.model import Binding, ResourceType
from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(120)
OWNER = Identity.generate()
MIB = 1 << 20


@pytest.fixture
def node(tmp_path):
    with closing(NodeProcess(tmp_path, "--block", f"{tmp_path}/disk.img:8M", mem="1M")) as process:
        process.start()
        yield process


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_write_and_read_a_leased_disk(node, binding):
    async def work(client):
        async with client.lease_block(2 * MIB, ttl=30, binding=binding) as disk:
            data = os.urandom(512 * 300)
            await disk.write(512 * 7, data)
            assert await disk.read(512 * 7, len(data)) == data
            assert await disk.read(0, 512) == bytes(512)

    node.run(work, OWNER)


def test_the_next_holder_reads_zeros(node):
    async def work(client):
        async with client.lease_block(8 * MIB, ttl=30) as disk:
            await disk.write(0, b"\xaa" * MIB)
        async with client.lease_block(8 * MIB, ttl=30) as disk:
            assert await disk.read(0, 2 * MIB) == bytes(2 * MIB)

    node.run(work, OWNER)
    assert b"\xaa" not in (node.directory / "disk.img").read_bytes()


def test_the_remedy_for_a_damaged_journal_leaves_nothing_bound_and_no_token_good(node):
    async def lease(client):
        disk = client.lease_block(8 * MIB, ttl=60)
        await disk.open()
        await disk.write(0, b"\xaa" * MIB)
        await disk.detach()
        return await client.tokens.get(HOLD)

    token = node.run(lease, OWNER)
    node.end(signal.SIGKILL)
    journal, key = (node.directory / "state" / name for name in ("journal", "token.key"))
    journal.write_bytes(b"damaged " + journal.read_bytes())
    node.spawn()
    assert node.process.wait(60) == 2
    assert node.said().strip().splitlines()[-1].startswith(f"fabricbiosd: {journal}: damaged at byte 0: move it and")
    for moved in (journal, key):
        moved.rename(node.directory / moved.name)
    node.start()

    async def again(client):
        with pytest.raises(InvalidToken):
            await client.lease_alloc(60, ResourceType.MEM, 4096, token=token)
        for _ in range(600):
            try:
                async with client.lease_block(8 * MIB, ttl=60) as disk:
                    return await disk.read(0, MIB)
            except Refused:  # the one that nobody knows any more is being wiped
                await asyncio.sleep(0.1)
        raise AssertionError("the disk did not come back")

    assert node.run(again, OWNER) == bytes(MIB)
    assert "took back lease" in node.said()


def test_two_leases_that_ask_for_the_last_extent(node):
    async def work(client):
        asked = [client.lease_alloc(30, ResourceType.BLOCK, 5 * MIB) for _ in range(2)]
        return await asyncio.gather(*asked, return_exceptions=True)

    got = node.run(work, OWNER)
    assert sorted(isinstance(result, CapacityExceeded) for result in got) == [False, True]


def test_a_block_lease_outlives_a_killed_daemon_with_its_data(node):
    async def fill(client):
        disk = client.lease_block(2 * MIB, ttl=60)
        await disk.open()
        await disk.write(0, b"kept over a crash".ljust(512))
        await disk.detach()
        return disk.lease_id

    lease_id = node.run(fill, OWNER)
    node.end(signal.SIGKILL)
    node.start()

    async def again(client):
        disk = client.attach_block(lease_id, 60)
        await disk.open()
        assert (await disk.read(0, 512)).startswith(b"kept over a crash")
        await disk.close()

    node.run(again, OWNER)


def test_a_start_that_fails_leaves_the_leases_to_the_next(node):
    async def fill(client):
        disk = client.lease_block(2 * MIB, ttl=60)
        await disk.open()
        await disk.write(0, b"kept over a bad start".ljust(512))
        await disk.detach()
        return disk.lease_id

    lease_id = node.run(fill, OWNER)
    node.end(signal.SIGKILL)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = node.flags.index("--metrics") + 1
        node.flags[at] = f"127.0.0.1:{taken.getsockname()[1]}"
        node.spawn()
        assert node.process.wait(60) == 1
        node.process.stdout.close()
        node.flags[at] = "127.0.0.1:0"
    node.start()

    async def again(client):
        disk = client.attach_block(lease_id, 60)
        await disk.open()
        assert (await disk.read(0, 512)).startswith(b"kept over a bad start")

    node.run(again, OWNER)


def test_sigterm_wipes_what_was_leased(node):
    async def fill(client):
        disk = client.lease_block(2 * MIB, ttl=60)
        await disk.open()
        await disk.write(0, b"\xbb" * 4096)
        await disk.detach()
        return disk.lease_id

    lease_id = node.run(fill, OWNER)
    assert node.end() == 0
    assert b"\xbb" not in (node.directory / "disk.img").read_bytes()
    node.start()

    async def work(client):
        with pytest.raises((NotFound, Refused)):
            await client.attach(lease_id)

    node.run(work, OWNER)


def test_a_truncated_file_fences_the_resource_and_says_so(node):
    async def fill(client):
        disk = client.lease_block(4 * MIB, ttl=60)
        await disk.open()
        os.truncate(node.directory / "disk.img", MIB)
        with pytest.raises(Fenced):
            await disk.close()
        for _ in range(600):
            (resource,) = [r for r in await client.inventory() if r.resource_type == ResourceType.BLOCK]
            if resource.flags & 1:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("nothing was fenced")

    node.run(fill, OWNER)
    assert node.metric("fabricbios_fenced_resources{")['fabricbios_fenced_resources{kind="block"}'] == 1


def test_a_file_deleted_under_a_live_lease_ends_it_at_once_and_harms_nobody_else(node):
    """Nobody frees and nobody does I/O: the daemon itself has to look."""

    async def work(client):
        disk, memory = client.lease_block(4 * MIB, ttl=60), client.lease_memory(4096, ttl=60)
        await disk.open()
        await memory.open()
        (node.directory / "disk.img").unlink()
        while disk.over is None:
            await asyncio.sleep(0.05)
        assert isinstance(disk.over, Revoked)
        while True:
            (store,) = [r for r in await client.inventory() if r.resource_type == ResourceType.BLOCK]
            if store.flags & 1 and not store.available:
                break
            await asyncio.sleep(0.05)
        with pytest.raises(Fenced):
            await client.lease_alloc(30, ResourceType.BLOCK, MIB)
        await memory.write(0, b"untouched")
        assert await memory.read(0, 9) == b"untouched"

    node.run(work, OWNER)
    assert "a store is gone" in node.said()
    assert node.end() == 0


def test_a_file_that_is_whole_again_is_offered_again(node):
    image = node.directory / "disk.img"

    async def flagged(client, wanted):
        while True:
            (store,) = [r for r in await client.inventory() if r.resource_type == ResourceType.BLOCK]
            if bool(store.flags & 1) is wanted:
                return
            await asyncio.sleep(0.05)

    async def work(client):
        async with client.lease_block(MIB, ttl=60):
            pass  # the first lease claims the node
        os.truncate(image, MIB)
        await flagged(client, True)
        os.truncate(image, 8 * MIB)
        await flagged(client, False)
        async with client.lease_block(4 * MIB, ttl=60) as disk:
            assert await disk.read(0, 512) == bytes(512)

    node.run(work, OWNER)
