"""Reading and writing what is leased, over a network that loses, repeats, reorders and forges."""

from __future__ import annotations

import asyncio
import errno
import gc
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import client_rig
import pytest
from client_rig import NodeRig, node_rig
from leaping_loop import LeapingLoop
from quic_rig import run as run_in
from quic_rig import until

from fabricbios.client import Node, connect
from fabricbios.client.plane import Silent
from fabricbios.errors import (
    CapacityExceeded,
    Disconnected,
    Fenced,
    LeaseExpired,
    LocalMisuse,
    NotFound,
    Refused,
    Revoked,
    TimedOut,
    Untrusted,
)
from fabricbios.model import Binding, DpAuth, DpStatus, LeaseEventKind
from fabricbios.transport import PeerKey, link

DATA = random.Random(5).randbytes(60_001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """A lease lasts for seconds, its renewals and grace too: nobody waits for them."""
    run_in(test, LeapingLoop)


def friend(rig: NodeRig) -> Node:
    return connect("127.0.0.1", rig.port, identity=rig.friend, node_id=rig.identity.node_id)


@pytest.mark.parametrize("mode", list(DpAuth))
def test_what_is_written_is_read_back(mode: DpAuth) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            seen: list[int] = []
            async with node.lease_memory(1 << 18, ttl=60, dp_auth=mode) as lease:
                assert (lease.size, lease.dp_auth) == (1 << 18, mode)
                await lease.write(33, DATA, progress=lambda done, total: seen.append(done))
                assert seen == sorted(seen)
                assert seen[-1] == len(DATA)
                assert await lease.read(33, len(DATA)) == DATA
                assert await lease.read(0, 33) == bytes(33)
                assert await lease.read(5, 0) == b""
                await lease.ping()
                held = rig.memory.leases[lease.lease_id]
                assert held.bytes[33 : 33 + len(DATA)] == DATA
            assert rig.memory.counts == {}
            assert not rig.plane.held

    run(body)


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_blocks_too(binding: Binding) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_block(1 << 18, ttl=60, binding=binding) as lease:
            blocks = DATA[: 512 * 110]
            await lease.write(512, blocks)
            assert await lease.read(512, len(blocks)) == blocks
            for offset, length in ((1, 512), (0, 100), (1 << 18, 512)):
                with pytest.raises(LocalMisuse):
                    await lease.read(offset, length)

    run(body)


def test_memory_over_quic() -> None:
    async def body() -> None:
        memory = 1 << 20
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(memory, 60, binding=Binding.QUIC) as lease:
            large = DATA * 8
            await lease.write(7, large)
            rig.memory.busy = 3
            assert await lease.read(7, len(large)) == large
            await lease.ping()
            rig.memory.leases[lease.lease_id].status = DpStatus.FENCED
            with pytest.raises(Fenced):
                await lease.read(0, 10)

    run(body)


@pytest.mark.parametrize("seed", range(2))
def test_a_bad_network_costs_time_and_nothing_else(seed: int) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 18, ttl=60) as lease:
            rig.memory._rng = random.Random(seed)
            rig.memory.loss = rig.memory.twice = rig.memory.late = 0.1
            rig.memory.forge = bytes(16)
            await lease.write(0, DATA)
            assert bytes(rig.memory.leases[lease.lease_id].bytes[: len(DATA)]) == DATA
            assert await lease.read(0, len(DATA)) == DATA
            counts = rig.memory.counts
            assert counts["lost"] > 10
            assert counts["replayed"] > 0
            assert counts["stale"] > 0
            assert counts["unauthentic"] == counts["malformed"] == counts["amplified"] == 0

    run(body)


def test_overlapping_writes_end_as_the_last_one_said() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 16, ttl=60) as lease:
            rig.memory.late, rig.memory.loss = 0.3, 0.05
            rounds = [bytes([n]) * 10_000 for n in range(1, 5)]
            await asyncio.gather(*(lease.write(n * 100, data) for n, data in enumerate(rounds)))
            rig.memory.late = rig.memory.loss = 0.0
            await asyncio.sleep(0.05)
            expected = bytearray(1 << 16)
            for n, data in enumerate(rounds):
                expected[n * 100 : n * 100 + len(data)] = data
            assert await lease.read(0, 1 << 16) == bytes(expected)

    run(body)


def test_a_transfer_that_is_over_lets_go_of_its_callers_memory() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 16, ttl=60) as lease:
            target = bytearray(40_000)
            rig.memory.loss = 1.0
            with pytest.raises(TimedOut):
                await lease.read_into(0, target, timeout=0.5)
            gc.collect()  # the failure's traceback, which has seen it
            target.clear()  # BufferError while a view of it is held
            rig.memory.loss = 0.3
            target = bytearray(40_000)
            await lease.read_into(0, target)
            target.clear()

    run(body)


def test_silence_times_out_and_the_lease_can_be_used_again() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 16, ttl=60) as lease:
            rig.memory.loss = 1.0
            with pytest.raises(Silent, match=rf"port {rig.memory.port} \(UDP\).*the node holds the lease"):
                await lease.write(0, DATA[:5000], timeout=0.3)
            with pytest.raises(TimedOut):
                await lease.ping(timeout=0.3)
            rig.memory.loss = 0.0
            await lease.write(0, b"again")
            assert await lease.read(0, 5) == b"again"

    run(body)


def test_a_lease_over_quic_goes_on_over_the_next_connection() -> None:
    async def body() -> None:
        async with (
            node_rig() as rig,
            friend(rig) as node,
            node.lease_memory(1 << 18, ttl=60, binding=Binding.QUIC) as lease,
        ):
            await lease.write(0, DATA)
            lost = await node.link()
            rig.server.disconnect(next(iter(rig.server._sessions)))
            await until(lambda: lost.closed)
            assert await lease.read(0, len(DATA)) == DATA

    run(body)


def test_a_cancelled_write_stops_and_harms_nothing() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 18, ttl=60) as lease:
            rig.memory.loss = 1.0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await lease.write(0, DATA)
            await asyncio.sleep(0.05)  # what was sent before the end came is lost too
            rig.memory.loss = 0.0
            await lease.write(0, b"new")
            await asyncio.sleep(0.1)
            assert await lease.read(0, 5) == b"new\0\0"

    run(body)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (DpStatus.EXPIRED, LeaseExpired),
        (DpStatus.FENCED, Fenced),
        (DpStatus.INVALID_LEASE, NotFound),
        (DpStatus.OUT_OF_RANGE, Refused),
        (DpStatus.INTERNAL, Refused),
    ],
)
def test_a_status_becomes_its_exception(status: DpStatus, error: type[Exception]) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 16, ttl=60) as lease:
            rig.memory.leases[lease.lease_id].status = status
            with pytest.raises(error):
                await lease.read(0, 4000)
            with pytest.raises(error):
                await lease.write(0, DATA[:4000])

    run(body)


def test_busy_is_waited_for() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(1 << 16, ttl=60) as lease:
            rig.memory.busy = 10
            await lease.write(0, DATA[:3000])
            assert await lease.read(0, 3000) == DATA[:3000]

    run(body)


def test_a_lease_renews_itself_and_is_freed() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            async with node.lease_memory(4096, ttl=6) as lease:
                first = lease.expires_at
                await until(lambda: client_rig.now().unix > first)
                assert lease.expires_at > first
                await lease.write(0, b"still mine")
            assert rig.plane.held == {}
            with pytest.raises(LeaseExpired):
                await lease.read(0, 1)

    run(body)


def test_a_lease_is_kept_although_a_renewal_could_not_be_recorded() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(4096, ttl=6) as lease:
            held = rig.core.lease(lease.lease_id)
            assert held is not None
            rig.journal.fail_next = 1
            await until(lambda: held.spec.generation >= 3 or held.ending or lease.over is not None)
            assert rig.journal.fail_next == 0
            assert not held.ending
            assert lease.over is None

    run(body)


@pytest.mark.parametrize("jump", [86_400, -86_400])
def test_a_lease_is_kept_while_somebody_sets_the_nodes_clock(jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = client_rig.now

    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(4096, ttl=4) as lease:
            ahead = jump * 1000
            monkeypatch.setattr(client_rig, "now", lambda: real()._replace(unix_ms=real().unix_ms + ahead))
            held = rig.core.lease(lease.lease_id)
            assert held is not None
            await until(lambda: held.spec.generation >= 4 or held.ending)
            assert not held.ending
            assert lease.over is None
            await lease.write(0, b"still mine")
            assert abs(lease.expires_at - client_rig.now().unix) <= 5

    run(body)


def test_a_lease_is_kept_though_its_client_had_no_descriptors_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0

    def none_left(*_: object) -> socket.socket:
        nonlocal refused
        refused += 1
        raise OSError(errno.EMFILE, "Too many open files")

    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(4096, ttl=6) as lease:
            held = rig.core.lease(lease.lease_id)
            assert held is not None
            with monkeypatch.context() as short:
                short.setattr(link.socket, "socket", none_left)
                (await node.link()).close()
                await until(lambda: refused > 0)
            await until(lambda: held.spec.generation >= 2 or held.ending)
            assert not held.ending

    run(body)


def test_a_lease_is_kept_though_somebody_else_answered_in_its_nodes_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node, node.lease_memory(4096, ttl=6) as lease:
            held = rig.core.lease(lease.lease_id)
            assert held is not None
            met: list[PeerKey] = []

            def refuse(key: PeerKey) -> None:
                met.append(key)
                raise Untrusted("another key")

            with monkeypatch.context() as impostor:
                impostor.setattr(node._control, "_accept", refuse)
                (await node.link()).close()
                await until(lambda: bool(met))
            await until(lambda: held.spec.generation >= 2 or held.ending)
            assert not held.ending

    run(body)


def test_a_revoked_lease_says_so_and_stops_renewing() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            heard: list[int] = []

            async def listen() -> None:
                async for event in node.events():
                    heard.append(event.event)

            listening = asyncio.create_task(listen())
            async with node.lease_memory(4096, ttl=60) as lease:
                await node.revoke(lease.lease_id, grace=3)
                await asyncio.wait_for(lease.warned.wait(), 60)
                assert await lease.read(0, 1) == b"\0"
                await until(lambda: lease.over is not None)
                with pytest.raises(Revoked):
                    await lease.read(0, 1)
            assert heard == [LeaseEventKind.REVOKE_WARNING, LeaseEventKind.REVOKED]
            listening.cancel()

    run(body)


def test_a_lease_is_taken_up_again_after_a_crash() -> None:
    async def body() -> None:
        async with node_rig() as rig:
            async with friend(rig) as crashed:
                lost = await crashed.lease_memory(4096, ttl=60).open()
                await lost.write(0, b"kept")
                crashed.leases.clear()
                lost._renewer.cancel()  # type: ignore[union-attr]
            async with friend(rig) as node, node.attach_memory(lost.lease_id, ttl=60) as lease:
                assert await lease.read(0, 4) == b"kept"
                await lease.write(0, b"mine")
            assert rig.plane.held == {}

    run(body)


def test_too_much_is_refused_and_nothing_is_left() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            with pytest.raises(CapacityExceeded):
                await node.lease_memory(1 << 40, ttl=60).open()
            assert not node.leases
            with pytest.raises(LocalMisuse, match="open the lease first"):
                await node.lease_memory(4096, ttl=60).read(0, 0)

    run(body)


def test_closing_the_node_frees_what_is_open_and_ends_io() -> None:
    async def body() -> None:
        async with node_rig() as rig:
            async with friend(rig) as node:
                lease = await node.lease_memory(1 << 18, ttl=60).open()
                rig.memory.loss = 1.0
                writing: Any = asyncio.create_task(lease.write(0, DATA))
                await asyncio.sleep(0.05)
            with pytest.raises(Disconnected):
                await writing
            assert rig.plane.held == {}

    run(body)
