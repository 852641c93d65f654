"""Trust that an admin takes back from a running node: connections, leases and data paths of that identity end."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
from cli_rig import Cli
from node_rig import NodeProcess

from fabricbios.client import Node
from fabricbios.errors import Disconnected, FabricError
from fabricbios.model import Binding, LeaseEventKind
from fabricbios.transport import Identity, trustdir

pytestmark = pytest.mark.timeout(120)
LOST, KEPT = Identity.generate(), Identity.generate()


@pytest.fixture
def node(tmp_path):
    for who in (LOST, KEPT):
        trustdir.save(tmp_path / "trust", trustdir.PEERS, who.public_key)
    with closing(NodeProcess(tmp_path, "--trust", "pinned", "--block", f"{tmp_path}/disk.img:4M")) as process:
        process.start()
        yield process


@contextlib.asynccontextmanager
async def stranger(node: NodeProcess) -> AsyncIterator[Node]:
    """Whoever is distrusted cannot free its leases when it leaves."""
    client = await node.connect(LOST).__aenter__()
    yield client
    with contextlib.suppress(FabricError):
        await client.close()


async def events_of(client: Node) -> set[int]:
    """Return the leases that the node says it took back, before it closes the connection."""
    revoked: set[int] = set()
    with contextlib.suppress(Disconnected):
        async for event in client.events():
            revoked |= {event.lease_id} if event.event == LeaseEventKind.REVOKED else set()
    return revoked


async def withdraw(node: NodeProcess) -> None:
    """As an admin does: forget, then reload."""
    admin = Cli(node.directory / "admin", node.port)
    where = ("--trust-dir", str(node.directory / "trust"), "--state-dir", str(node.directory / "state"))
    said = await asyncio.to_thread(admin.run, "trust", "forget", f"0x{LOST.node_id:032x}", *where)
    assert "its leases revoked" in said.out.decode()
    node.kill(signal.SIGHUP)
    while "reloaded trust" not in node.said():
        await asyncio.sleep(0.02)


def test_the_leases_and_the_connection_of_who_is_forgotten_end_and_others_do_not(node):
    async def work():
        async with stranger(node) as lost, node.connect(KEPT) as kept:
            memory = [lost.lease_memory(1 << 20, ttl=60, binding=b) for b in (Binding.UDP, Binding.QUIC)]
            disk, theirs = lost.lease_block(1 << 20, ttl=60), kept.lease_memory(1 << 20, ttl=60)
            for lease in (*memory, disk, theirs):
                await lease.open()
                await lease.write(0, b"\xaa" * 512)
            told = asyncio.create_task(events_of(lost))
            await asyncio.sleep(0)
            await withdraw(node)
            assert await told == {lease.lease_id for lease in (*memory, disk)}
            for lease in (*memory, disk):
                with pytest.raises((FabricError, OSError)):
                    await lease.read(0, 512)
            with pytest.raises(FabricError):
                await lost.inventory()
            assert await theirs.read(0, 512) == b"\xaa" * 512
            assert len(await kept.list_active()) == 1

    asyncio.run(work())
    assert f"peer={LOST.node_id:032x} 3 leases revoked, 1 connections closed" in node.said()
    assert b"\xaa" not in (node.directory / "disk.img").read_bytes()
    assert node.end() == 0


def test_a_key_that_was_forgotten_while_the_node_was_down_gets_nothing_back(node):
    async def lease(client):
        disk = client.lease_block(1 << 20, ttl=60)
        await disk.open()
        await disk.write(0, b"\xaa" * 512)
        await disk.detach()

    node.run(lease, LOST)
    node.end(signal.SIGKILL)
    assert trustdir.forget(node.directory / "trust", trustdir.PEERS, LOST.node_id)
    node.start()
    assert node.run(lambda client: client.list_active(), KEPT) == ()
    assert "trust.withdrawn" in node.said()


def test_a_trust_file_that_others_may_write_ends_nothing_and_lets_nobody_new_in(node):
    async def work():
        async with stranger(node) as client:
            memory = client.lease_memory(1 << 20, ttl=60)
            await memory.open()
            pem = next(p for p in (node.directory / "trust" / "peers").iterdir() if f"{LOST.node_id:032x}" in p.name)
            pem.chmod(0o666)
            node.kill(signal.SIGHUP)
            while "reloaded trust" not in node.said():
                await asyncio.sleep(0.02)
            assert await memory.read(0, 512) == bytes(512)
            with pytest.raises(FabricError, match="not trusted"):
                await client.inventory()

    asyncio.run(work())
    assert "can be written by others (mode 0666): chmod go-w" in node.said()
