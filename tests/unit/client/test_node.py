"""The control ops against a real core, the trust in a node, and the blocking face."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from client_rig import NodeRig, node_rig
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from quic_rig import run, until

from fabricbios.client import KnownNodes, Node, connect, control, sync
from fabricbios.client.verify import Verifier
from fabricbios.core.policy import Limits, Policy
from fabricbios.errors import (
    ConfigError,
    Disconnected,
    InsufficientPermission,
    InvalidToken,
    LocalMisuse,
    NotFound,
    Refused,
    TimedOut,
    Untrusted,
)
from fabricbios.model import ALL_PERMS, LeaseStatus, Op, Perm, ResourceType, RevokeOutcome, Status, id_of_key
from fabricbios.transport import Identity, Link, PeerKey
from fabricbios.wire.enrolment import issue


def friend(rig: NodeRig, **wishes: object) -> Node:
    return connect("127.0.0.1", rig.port, identity=rig.friend, **wishes)  # type: ignore[arg-type]


def test_what_a_node_says_about_itself() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            assert node.node_id == rig.identity.node_id
            assert await node.ping() >= 0
            assert (await node.identity()).node_id == rig.identity.node_id
            assert {r.resource_type for r in await node.inventory()} == {ResourceType.MEM, ResourceType.BLOCK}
            assert await node.build_info() == {}
            with pytest.raises(NotFound, match="no thermal sensor"):
                await node.thermal()
            assert abs((await node.time_sync()).node_unix_ms / 1000 - time.time()) < 5
            assert abs((await node.clock()).unix_now() - time.time()) < 5

    run(body)


def test_a_stranger_may_ping_and_no_more() -> None:
    async def body() -> None:
        async with node_rig() as rig:
            for identity in (None, Identity.generate()):
                async with connect("127.0.0.1", rig.port, identity=identity) as node:
                    assert await node.ping() >= 0
                    with pytest.raises(InsufficientPermission):
                        await node.inventory()
                    with pytest.raises(InsufficientPermission):
                        await node.cap_request()

    run(body)


def test_tokens_are_asked_for_once_and_replaced_when_they_no_longer_hold() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            first = await node.tokens.get(Perm.ALLOC)
            assert await node.tokens.get(Perm.ALLOC) == first
            assert await node.tokens.get(Perm.RENEW) != first
            lease = await node.lease_alloc(60, ResourceType.MEM, 4096)
            broken = bytes(len(first))
            node.tokens._held = {k: held._replace(data=broken) for k, held in node.tokens._held.items()}
            assert (await node.renew(lease.lease_id, 120)).expires_at > lease.expires_at
            with pytest.raises(Refused) as refusal:
                await node.renew(lease.lease_id, 120, token=broken)
            assert refusal.value.status in (Status.INVALID_TOKEN, Status.BAD_REQUEST)
            fresh = await node.cap_refresh(await node.cap_request(ALL_PERMS), 60)
            await node.cap_revoke(fresh.token_id)
            with pytest.raises(InvalidToken):
                await node.renew(lease.lease_id, 120, token=fresh.pack())

    run(body)


def test_a_token_is_asked_for_again_before_its_end() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            first = await node.tokens.get(Perm.ALLOC)
            key, held = next(iter(node.tokens._held.items()))
            loop_now = asyncio.get_running_loop().time()
            assert 200 < held.stale_at - loop_now < 300
            node.tokens._held[key] = held._replace(stale_at=loop_now)
            assert await node.tokens.get(Perm.ALLOC) != first

    run(body)


def test_leases_are_listed_queried_revoked_and_freed() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            lease = await node.lease_alloc(60, ResourceType.MEM, 8192)
            assert [x.lease_id for x in await node.list_active()] == [lease.lease_id]
            assert [x.holder for x in await node.list_active(admin=True)] == [rig.friend.node_id]
            assert (await node.query(lease.lease_id)).lease_status == LeaseStatus.ACTIVE
            assert await node.revoke(lease.lease_id) == RevokeOutcome.TORN_DOWN
            assert (await node.query(lease.lease_id)).lease_status == LeaseStatus.REVOKED
            assert await node.revoke(999) == RevokeOutcome.NOT_FOUND
            with pytest.raises(NotFound):
                await node.free(999)
            with pytest.raises(Refused):
                await node.fence_clear(1)

    run(body)


def test_a_scheduler_fence_wants_its_epoch() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            assert await node.scheduler_fence_get() is None
            await node.scheduler_fence_set(7)
            assert await node.scheduler_fence_get() == 7
            assert (await node.cap_request()).epoch == 7
            async with friend(rig) as late:
                with pytest.raises(Refused) as refusal:
                    await late.cap_request()
                assert refusal.value.status == Status.FENCE_REQUIRED
            async with friend(rig, epoch=6) as stale:
                with pytest.raises(Refused) as refusal:
                    await stale.cap_request()
                assert refusal.value.status == Status.STALE_EPOCH

    run(body)


def test_refusals_carry_status_and_reason() -> None:
    async def body() -> None:
        policy = Policy(default=Limits(perms=Perm.READ))
        async with node_rig(policy) as rig, friend(rig) as node:
            with pytest.raises(InsufficientPermission, match=r"INSUFFICIENT_PERM: \w"):
                await node.lease_alloc(60, ResourceType.MEM, 4096)
            with pytest.raises(Refused) as refusal:
                await node.call(Op.TASKLET_STATUS, bytes(8))
            assert refusal.value.status in (Status.INVALID_OP, Status.INVALID_TOKEN)

    run(body)


def test_a_lost_connection_is_dialled_again_and_listeners_are_told() -> None:
    async def body() -> None:
        async with node_rig() as rig, friend(rig) as node:
            told: list[Exception] = []

            async def listen() -> None:
                try:
                    async for _ in node.events():
                        pass
                except Disconnected as error:
                    told.append(error)

            listening = asyncio.create_task(listen())
            await node.ping()
            rig.server.disconnect(next(iter(rig.server._sessions)))
            await until(lambda: bool(told))
            await listening
            assert await node.ping() >= 0

    run(body)


def test_many_first_questions_share_one_connection() -> None:
    async def body() -> None:
        async with node_rig() as rig, connect("127.0.0.1", rig.port, identity=rig.friend) as node:
            lost = await node.link()
            lost.close()
            await asyncio.gather(*(node.ping() for _ in range(8)))
            await until(lambda: len(rig.server._sessions) == 1)
            assert not (await node.link()).closed

    run(body)


def test_who_waits_for_a_dial_that_fails_does_not_dial_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled = 0

    async def dial(*_: object) -> Link:
        nonlocal dialled
        dialled += 1
        await asyncio.sleep(0.01)
        raise TimedOut("does not answer")

    async def body() -> None:
        monkeypatch.setattr(control, "dial", dial)
        node = connect("127.0.0.1", 1)
        for rounds in (1, 2):  # a later question tries again
            results = await asyncio.gather(*(node.ping() for _ in range(8)), return_exceptions=True)
            assert [type(result) for result in results] == [TimedOut] * 8
            assert dialled == rounds

    run(body)


def test_who_waits_for_a_dial_that_is_cancelled_dials() -> None:
    async def body() -> None:
        async with node_rig() as rig:
            node = friend(rig)
            first, second = (asyncio.create_task(node.ping()) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            assert await second >= 0
            await node.close()

    run(body)


def test_a_name_that_no_resolver_takes_is_a_node_that_cannot_be_reached() -> None:
    async def body() -> None:
        with pytest.raises(Disconnected, match="no host name"):
            await connect("a..b", 1).__aenter__()

    run(body)


# -- who is the node?


def test_a_node_by_its_id_or_not_at_all() -> None:
    async def body() -> None:
        async with node_rig() as rig:
            async with friend(rig, node_id=rig.identity.node_id) as node:
                await node.ping()
            with pytest.raises(Untrusted, match="check address and id"):
                await friend(rig, node_id=1).__aenter__()

    run(body)


def test_the_first_key_is_remembered_and_another_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with node_rig() as rig:
            home = tmp_path / "client"
            rig.trust.ids.add(Identity.load_or_create(home).node_id)
            async with connect("127.0.0.1", rig.port, identity=home) as node:
                await node.ping()
            known = KnownNodes(home / "known_nodes")
            assert known.get("127.0.0.1", rig.port) == rig.identity.public_key
            known.pin("127.0.0.1", rig.port, bytes(32))
            with pytest.raises(Untrusted, match=f"fabricbios trust forget 127.0.0.1:{rig.port}"):
                await connect("127.0.0.1", rig.port, identity=home).__aenter__()
            assert KnownNodes(home / "known_nodes").forget("127.0.0.1", rig.port)
            async with connect("127.0.0.1", rig.port, identity=home) as node:
                await node.ping()

    run(body)


def test_first_use_may_be_declined() -> None:
    async def body() -> None:
        async with node_rig() as rig:
            with pytest.raises(Untrusted, match="not accepted"):
                await friend(rig, first_use=lambda host, port, key: False).__aenter__()

    run(body)


def test_a_certificate_vouches_for_its_own_key_alone() -> None:
    controller, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    controller_raw = controller.public_key().public_bytes_raw()
    mine, now = Identity.generate(), int(time.time())
    good = issue(controller, mine.public_key, now - 10, now + 100).pack()
    certified = Verifier("h", 1, controllers=[controller_raw], first_use=lambda host, port, key: False)
    certified(PeerKey(mine.public_key, good))
    refused = {
        "of another key": PeerKey(Identity.generate().public_key, good),
        "over": PeerKey(mine.public_key, issue(controller, mine.public_key, now - 10, now - 1).pack()),
        "by a stranger": PeerKey(mine.public_key, issue(other, mine.public_key, now - 10, now + 100).pack()),
        "changed": PeerKey(mine.public_key, good[:-1] + bytes([good[-1] ^ 1])),
        "junk": PeerKey(mine.public_key, b"junk"),
        "none": PeerKey(mine.public_key, b""),
    }
    for key in refused.values():
        with pytest.raises(Untrusted):
            certified(key)


def test_known_nodes_survive_each_other_and_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    first, second = KnownNodes(path), KnownNodes(path)
    first.pin("::1", 5701, bytes(range(32)))
    second.pin("host", 5701, bytes(32))
    assert dict(KnownNodes(path)) == {"[::1]:5701": bytes(range(32)), "host:5701": bytes(32)}
    assert path.stat().st_mode & 0o777 == 0o600
    assert not second.forget("nobody", 1)
    path.write_text("host:5701 00ff\n")
    with pytest.raises(ConfigError, match="line 1"):
        KnownNodes(path)


def test_a_node_that_cannot_be_reached() -> None:
    async def body() -> None:
        with pytest.raises(Disconnected):
            await connect("127.0.0.1", 1, timeout=1).__aenter__()
        with pytest.raises(Disconnected, match=r"no\.such\.host\.invalid"):
            await connect("no.such.host.invalid", 1, timeout=1).__aenter__()

    run(body)


# -- the blocking face


class InThread:
    """Runs a node rig in a thread, as another process would."""

    def __enter__(self) -> NodeRig:
        ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.stop = asyncio.Event()

        async def body() -> None:
            async with node_rig() as self.rig:
                ready.set()
                await self.stop.wait()

        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(body(),))
        self.thread.start()
        ready.wait(60)
        return self.rig

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()
        self.loop.close()


def test_the_blocking_face_does_the_same() -> None:
    before = set(threading.enumerate())
    with InThread() as rig, sync.connect("127.0.0.1", rig.port, identity=rig.friend) as node:
        assert node.ping() >= 0
        assert node.node_id == id_of_key(rig.identity.public_key)
        with node.lease_memory(1 << 16, 60) as lease:
            lease.write(5, b"blocking")
            assert lease.read(5, 8) == b"blocking"
            assert lease.size == 1 << 16
        with pytest.raises(NotFound):
            node.free(lease.lease_id)
    with pytest.raises(LocalMisuse):
        node.ping()
    assert set(threading.enumerate()) <= before  # those of others may have ended meanwhile


def test_the_blocking_face_raises_and_ends_its_thread() -> None:
    before = set(threading.enumerate())
    with pytest.raises(Disconnected), sync.connect("127.0.0.1", 1, timeout=1):
        pass
    assert set(threading.enumerate()) <= before  # those of others may have ended meanwhile


def test_events_can_be_waited_for_without_asyncio() -> None:
    with InThread() as rig, sync.connect("127.0.0.1", rig.port, identity=rig.friend) as node:
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(next(node.events()).lease_id), daemon=True)
        reader.start()
        while not node.inner._listeners:
            time.sleep(0.01)
        lease = node.lease_alloc(60, ResourceType.MEM, 4096)
        node.revoke(lease.lease_id)
        reader.join(60)
        assert found == [lease.lease_id]
