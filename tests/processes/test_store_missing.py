"""Stores that are missing when the daemon starts, and come back, or do not: as a process, with files. Needs no root."""

import asyncio
import os
import shutil
import signal
from contextlib import closing

import pytest
from node_rig import NodeProcess

from fabricbios.errors import Fenced, NotFound, Refused
from fabricbios.model import Binding, LeaseStatus, ResourceFlags, ResourceType
from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(180)
OWNER = Identity.generate()
MIB = 1 << 20
GONE, WELL = 8 * MIB, 6 * MIB  # capacities, by which the two stores are told apart


@pytest.fixture
def node(tmp_path):
    (tmp_path / "disks").mkdir()
    (tmp_path / "away").mkdir()
    with closing(
        NodeProcess(tmp_path, "--block", f"{tmp_path}/disks/one.img:8M", "--block", f"{tmp_path}/two.img:6M", mem="1M")
    ) as process:
        process.start()
        yield process


def image(node):
    return node.directory / "disks" / "one.img"


def pull(node):
    """Take the disk away while nobody looks."""
    image(node).rename(node.directory / "away" / "one.img")


def put_back(node):
    (node.directory / "away" / "one.img").rename(image(node))


async def store(client, capacity):
    (found,) = [r for r in await client.inventory() if r.capacity == capacity]
    return found


async def until_offered(client, capacity):
    while not (found := await store(client, capacity)).available:
        await asyncio.sleep(0.05)
    return found


async def leased(client, capacity, data):
    """Return a lease over all of a store, with something on it, that nobody looks after any more."""
    wanted = await store(client, capacity)
    disk = client.lease_block(capacity, ttl=120, resource_id=wanted.resource_id)
    await disk.open()
    await disk.write(0, data.ljust(512))
    await disk.detach()
    return disk.lease_id


async def both(client):
    await client.cap_request()  # the first one claims the node
    return await leased(client, GONE, b"of one"), await leased(client, WELL, b"of two")


async def state_of(client, capacity):
    """Return what `fabricbios status` says of a store, "" if all is well."""
    found = await store(client, capacity)
    return (await client.build_info()).get(f"store.0x{found.resource_id:032x}", "")


def test_a_store_that_is_missing_at_a_start_costs_the_others_nothing_and_is_taken_in_when_it_is_back(node):
    one, two = node.run(both, OWNER)
    node.end(signal.SIGKILL)
    pull(node)
    node.start()
    assert (
        f"a store is gone, and its leases with it: {image(node)}: No such file or directory; put it back" in node.said()
    )

    async def without(client):
        missing = await store(client, GONE)
        assert missing.flags == ResourceFlags.FENCED | ResourceFlags.DEGRADED
        assert missing.available == 0
        assert (await state_of(client, GONE)).startswith(f"absent: {image(node)}: No such file")
        assert await state_of(client, WELL) == ""
        with pytest.raises(Fenced):
            await client.lease_alloc(30, ResourceType.BLOCK, MIB, resource_id=missing.resource_id)
        assert (await client.query(one)).lease_status == LeaseStatus.REVOKED
        other = client.attach_block(two, 60)
        await other.open()
        assert (await other.read(0, 512)).startswith(b"of two")
        await other.close()
        while "lease.fenced" not in node.said():
            await asyncio.sleep(0.05)
        with pytest.raises(Fenced):  # its teardown cannot have wiped anything: the fence stays
            await client.fence_clear(missing.resource_id)
        return missing.resource_id

    resource_id = node.run(without, OWNER)
    state = f'{{path="{image(node)}",resource="0x{resource_id:032x}",state='
    assert node.metric("fabricbios_store_state")[f'fabricbios_store_state{state}"absent"}}'] == 1
    assert not image(node).exists(), "nothing is made where a disk is missing"
    put_back(node)

    async def again(client):
        while await state_of(client, GONE):
            await asyncio.sleep(0.05)
        back = await store(client, GONE)
        assert back.flags == ResourceFlags.FENCED, "what an earlier holder had is there still"
        assert image(node).read_bytes().startswith(b"of one")
        await client.fence_clear(resource_id)
        assert not any(image(node).read_bytes())
        await until_offered(client, GONE)
        for binding in (Binding.UDP, Binding.QUIC):
            async with client.lease_block(GONE, ttl=60, binding=binding, resource_id=resource_id) as disk:
                assert await disk.read(0, 512) == bytes(512)
                await disk.write(512, b"anew".ljust(512))
                assert image(node).read_bytes()[512:516] == b"anew"

    node.run(again, OWNER)
    assert "is back; what is FENCED on it waits for FENCE_CLEAR" in node.said()
    assert node.metric("fabricbios_store_state")[f'fabricbios_store_state{state}"well"}}'] == 1
    assert node.end() == 0


def test_another_file_at_the_path_is_not_touched_and_not_leased(node):
    node.run(both, OWNER)
    node.end(signal.SIGKILL)
    pull(node)
    image(node).write_bytes(b"somebody's own".ljust(GONE, b"!"))
    before = image(node).read_bytes()
    node.start()
    assert "another store stands here" in node.said()

    async def look(client):
        await asyncio.sleep(3)  # more than one look
        assert "another store stands here" in await state_of(client, GONE)
        with pytest.raises(Fenced):
            await client.lease_alloc(30, ResourceType.BLOCK, MIB, resource_id=(await store(client, GONE)).resource_id)

    node.run(look, OWNER)
    assert image(node).read_bytes() == before
    os.replace(node.directory / "away" / "one.img", image(node))

    async def back(client):
        while await state_of(client, GONE):
            await asyncio.sleep(0.05)

    node.run(back, OWNER)
    assert image(node).read_bytes().startswith(b"of one")


def test_force_takes_another_store_in_its_place(node):
    one, _ = node.run(both, OWNER)
    node.end(signal.SIGKILL)
    pull(node)
    image(node).write_bytes(bytes(GONE))
    node.flags += ["--block-force", str(image(node))]
    node.start()
    assert "stood before (block_force)" in node.said()

    async def work(client):
        with pytest.raises((NotFound, Refused)):
            await client.attach(one)
        assert await state_of(client, GONE) == ""

    node.run(work, OWNER)


def test_a_path_at_which_nothing_ever_stood_is_a_wrong_path(node):
    node.end()
    node.flags += ["--block", f"{node.directory}/disks/tow.img"]
    node.spawn()
    assert node.process.wait(30) == 2
    node.process.stdout.close()
    assert "tow.img does not exist" in node.said()


def test_what_is_missing_at_every_start_is_missing_still(node):
    """Neither its lease nor its place is forgotten, however often the daemon starts without it."""
    node.run(both, OWNER)
    node.end(signal.SIGKILL)
    shutil.move(node.directory / "disks", node.directory / "elsewhere")  # a file system that is not mounted
    for _ in range(2):
        node.start()

        async def missing(client):
            assert not (await store(client, GONE)).available

        node.run(missing, OWNER)
        assert node.end() == 0
    shutil.move(node.directory / "elsewhere", node.directory / "disks")
    node.start()

    async def work(client):
        found = await store(client, GONE)
        if found.flags:
            await client.fence_clear(found.resource_id)
        await until_offered(client, GONE)

    node.run(work, OWNER)
    assert not any(image(node).read_bytes())
