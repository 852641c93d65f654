"""Taking a lease up again: with what it has, and never to its harm."""

from __future__ import annotations

import asyncio

import pytest
from client_rig import NodeRig, node_rig
from quic_rig import run

from fabricbios.client import Node, connect
from fabricbios.errors import Unsupported
from fabricbios.model import Binding, LeaseStatus


def friend(rig: NodeRig) -> Node:
    return connect("127.0.0.1", rig.port, identity=rig.friend, node_id=rig.identity.node_id)


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_a_lease_is_taken_up_with_the_binding_that_it_has(binding: Binding) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(4096, 60, binding=binding) as lease:
            await lease.write(0, b"kept")
            again = await node.attach_memory(lease.lease_id, 60).open()
            assert await again.read(0, 4) == b"kept"
            await again.detach()

    run(body)


def test_a_lease_that_cannot_be_taken_up_lives_on() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            lease_id = (await node.lease_memory(4096, 60, binding=Binding.QUIC).open()).lease_id
            with pytest.raises(Unsupported, match="no such ENDPOINT"):
                await node.attach_memory(lease_id, 60, Binding.UDP).open()
            assert (await node.query(lease_id)).lease_status == LeaseStatus.ACTIVE
            assert not node.leases

    run(body)


def test_an_interrupt_while_it_is_taken_up_leaves_it_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            lease_id = (await node.lease_memory(4096, 60).open()).lease_id
            started: asyncio.Event = asyncio.Event()

            async def clock(again: bool = False) -> None:
                started.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(node, "clock", clock)
            opening = asyncio.create_task(node.attach_memory(lease_id, 60).open())
            await started.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert (await node.query(lease_id)).lease_status == LeaseStatus.ACTIVE

    run(body)
