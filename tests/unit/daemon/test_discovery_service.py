"""Real sockets on loopback: a node announces to a relay, somebody asks, the node leaves. No multicast here."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from discovery_rig import announcing, facts, key, memory, node_id, store

from fabricbios.core.discovery import Discovery
from fabricbios.core.relay import Relay
from fabricbios.daemon.clock import now
from fabricbios.daemon.discovery import DiscoveryService, load_sequence, store_sequence
from fabricbios.daemon.statedir import AlreadyRunning, StateDir
from fabricbios.errors import ConfigError, Disconnected, TimedOut
from fabricbios.transport.solicit import solicit


def relay_service(bind: str = "127.0.0.1", max_nodes: int = 4096) -> DiscoveryService:
    return DiscoveryService(Relay(1, store(), max_nodes=max_nodes, rng=os.urandom), bind=(bind,), port=0)


def node_service(seed: int, relay: DiscoveryService, **options: object) -> DiscoveryService:
    core = Discovery(key(seed), facts(), rng=os.urandom, interval_secs=30)
    host, port = relay.address
    given = {"bind": (host,), "port": 0, "relays": ((host, port),), **options}
    return DiscoveryService(core, **given)  # type: ignore[arg-type]


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not ready():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1"])
def test_announce_solicit_withdraw(bind: str) -> None:
    async def scenario() -> None:
        relay = relay_service(bind)
        await relay.start()
        node = node_service(1, relay)
        await node.start()
        await until(lambda: relay.counts["announce", "accepted"] == 1)
        for asked in (relay, node):
            (entry,) = await solicit([asked.address], timeout=60)
            assert entry.verified, entry.flaw
            assert entry.node_id == node_id(key(1))
        await node.stop()
        await until(lambda: relay.counts["withdraw", "accepted"] == 1)
        assert await solicit([relay.address], timeout=60) == []
        await relay.stop()

    asyncio.run(scenario())


def test_a_started_node_answers_its_first_question() -> None:
    """Ready means ready: what it answers with is made once the first sequence is on the disk."""
    stored = threading.Event()

    def slow_disk(sequence: int) -> None:
        assert stored.wait(60)

    async def scenario() -> None:
        relay = relay_service()
        await relay.start()
        node = node_service(1, relay, store=slow_disk)
        asyncio.get_running_loop().call_later(0.05, stored.set)
        await node.start()
        assert [entry.node_id for entry in await solicit([node.address], timeout=60)] == [node_id(key(1))]
        assert node.counts["solicit", "no_match"] == 0
        await node.stop()
        await relay.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("resources", [1, 200])  # whose answer comes after a cookie, and in fragments
def test_who_finds_no_room_is_asked_back_and_takes_that_of_somebody_who_does_not_answer(resources: int) -> None:
    async def scenario() -> None:
        relay = relay_service(max_nodes=2)
        await relay.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            for seed in (1, 2):
                silent.sendto(announcing(key(seed), now())[1][0], relay.address)
            await until(lambda: relay.counts["announce", "accepted"] == 2)
            many = facts(resources=tuple(memory().replace(resource_id=i * 7919**9) for i in range(resources)))
            core = Discovery(key(3), many, rng=os.urandom)
            node = DiscoveryService(core, bind=("127.0.0.1",), port=0, relays=(relay.address,))
            await node.start()
            await until(lambda: relay.counts["response", "accepted"] == 1)
            assert relay.counts["announce", "source_full"] == 1  # all of it is loopback's
            found = await solicit([relay.address], timeout=60)
            assert node_id(key(3)) in {entry.node_id for entry in found if entry.verified}
            assert len(found) == 2
            await node.stop()
        await relay.stop()

    asyncio.run(scenario())


def test_a_list_of_many_fragments_arrives_whole() -> None:
    async def scenario() -> None:
        relay = relay_service()
        await relay.start()
        nodes = [node_service(seed, relay) for seed in range(40)]
        for node in nodes:
            await node.start()
        await until(lambda: relay.counts["announce", "accepted"] == 40)
        found = await solicit([relay.address], timeout=60)
        assert len(found) == 40
        assert all(e.verified for e in found)
        assert relay.counts["solicit", "retry"] == 1
        for service in (*nodes, relay):
            await service.stop()

    asyncio.run(scenario())


def test_wildcard_v6_serves_both_families() -> None:
    async def scenario() -> None:
        relay = relay_service("::")
        await relay.start()
        port = relay.address[1]
        for host in ("127.0.0.1", "::1", "localhost"):
            assert await solicit([(host, port)], timeout=60) == []
        await relay.stop()

    asyncio.run(scenario())


def test_a_port_serves_one_daemon() -> None:
    async def scenario() -> None:
        first = relay_service()
        await first.start()
        second = DiscoveryService(Relay(2, store(), rng=os.urandom), bind=("127.0.0.1",), port=first.address[1])
        with pytest.raises(AlreadyRunning, match="in use"):
            await second.start()
        await second.stop()
        await first.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("options", "names"),
    [({"bind": ("192.0.2.77",)}, "192.0.2.77"), ({"bind": ("127.0.0.1",), "ifaces": ("nosuch0",)}, "nosuch0")],
)
def test_what_is_not_here_is_named(options: dict[str, tuple[str, ...]], names: str) -> None:
    service = DiscoveryService(Relay(1, store(), rng=os.urandom), port=0, **options)
    with pytest.raises(ConfigError, match=names):
        asyncio.run(service.start())


def test_nobody_there_is_a_time_out_and_no_such_name_a_disconnect() -> None:
    with pytest.raises(TimedOut, match=r"127\.0\.0\.1:9"):
        asyncio.run(solicit([("127.0.0.1", 9)], timeout=0.3))
    with pytest.raises(Disconnected, match="nosuchhost"):
        asyncio.run(solicit([("nosuchhost.invalid", 9)], timeout=0.3))


def test_the_sequence_outlives_the_process(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert load_sequence(state) == 0

    async def scenario() -> None:
        relay = relay_service()
        await relay.start()
        node = node_service(1, relay, store=store_sequence(state))
        await node.start()
        await until(lambda: relay.counts["announce", "accepted"] == 1)
        (entry,) = await solicit([relay.address], timeout=60)
        assert load_sequence(state) == entry.sequence
        await node.stop()
        assert load_sequence(state) > entry.sequence
        await relay.stop()

    asyncio.run(scenario())
    (tmp_path / "announce.sequence").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"announce\.sequence"):
        load_sequence(state)


def test_a_disk_that_fails_stops_announcing_but_not_serving(caplog: pytest.LogCaptureFixture) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        relay = relay_service()
        await relay.start()
        node = node_service(1, relay, store=full)
        await node.start()
        await until(lambda: node.counts["announce", "not_stored"] == 1)
        assert relay.counts["announce", "accepted"] == 0
        await node.stop()  # the goodbye is said all the same
        await until(lambda: sum(relay.counts.values()) > 0)
        await relay.stop()

    asyncio.run(scenario())
    assert "No space left" in caplog.text
