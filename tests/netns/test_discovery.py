"""Discovery on a real link between two namespaces of our own; nothing of this machine's is touched."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from discovery_rig import facts, key, node_id, pins, store
from netns_rig import Inside, VethPair

from fabricbios.core.discovery import Discovery
from fabricbios.core.relay import Relay
from fabricbios.daemon.discovery import DiscoveryService
from fabricbios.model import hex128
from fabricbios.transport.node_entry import NodeEntry
from fabricbios.transport.solicit import solicit

pytestmark = pytest.mark.netns
PORT = 5700  # inside the namespaces, where it is free
RELAY = {"4": (f"{VethPair.V4}1", PORT), "6": (f"{VethPair.V6}1", PORT)}


@pytest.fixture
def link(request: pytest.FixtureRequest) -> Iterator[VethPair]:
    made = VethPair(getattr(request, "param", "46"))
    try:
        made.make()
        yield made
    finally:
        made.unmake()


class Party:
    """A relay there, nodes here, and whoever asks them."""

    def __init__(self, link: VethPair) -> None:
        self.link = link
        self.there, self.here = link.inside(link.there), link.inside(link.here)
        self._running: list[tuple[Inside, DiscoveryService]] = []

    def relay(self, mode: str = "tofu", peers: dict[int, bytes] | None = None, **options: object) -> DiscoveryService:
        core = Relay(1, store(mode, peers=peers or {}), rng=os.urandom)
        return self._start(self.there, DiscoveryService(core, port=PORT, **options))  # type: ignore[arg-type]

    def node(self, seed: int = 1, **options: object) -> DiscoveryService:
        core = Discovery(key(seed), facts(), rng=os.urandom, interval_secs=0.2)
        return self.run(DiscoveryService(core, port=PORT, **options))  # type: ignore[arg-type]

    def run(self, node: DiscoveryService) -> DiscoveryService:
        return self._start(self.here, node)

    def ask(self, family: str) -> list[NodeEntry]:
        return self.here.do(solicit([RELAY[family]], timeout=60))

    def until(self, ready: Callable[[], object]) -> None:
        async def wait() -> None:
            async with asyncio.timeout(60):
                while not ready():
                    await asyncio.sleep(0.01)

        self.here.do(wait())

    def stop(self, service: DiscoveryService) -> None:
        where = next(inside for inside, s in self._running if s is service)
        where.do(service.stop())

    def stop_all(self) -> None:
        for where, service in self._running:
            where.do(service.stop())

    def _start(self, where: Inside, service: DiscoveryService) -> DiscoveryService:
        where.do(service.start())
        self._running.append((where, service))
        return service


@pytest.fixture
def party(link: VethPair) -> Iterator[Party]:
    made = Party(link)
    yield made
    made.stop_all()


@pytest.mark.parametrize("family", ["4", "6"])
def test_unicast_to_a_relay_and_goodbye(party: Party, family: str) -> None:
    relay = party.relay()
    node = party.node(relays=[RELAY[family]])
    party.until(lambda: relay.counts["announce", "accepted"] >= 2)
    (found,) = party.ask(family)
    assert found.node_id == node_id(key(1))
    assert found.verified, found.flaw
    party.stop(node)
    party.until(lambda: relay.counts["withdraw", "accepted"])
    assert party.ask(family) == []


@pytest.mark.parametrize("family", ["4", "6"])
def test_who_asks_shows_a_node_without_relay_and_route_which_address_it_has(party: Party, family: str) -> None:
    core = Discovery(key(1), facts(control_addr="::"), rng=os.urandom)
    party._start(party.there, DiscoveryService(core, port=PORT))
    (found,) = party.ask(family)
    assert found.endpoint == (f"{RELAY['4'][0]}:5701" if family == "4" else f"[{RELAY['6'][0]}]:5701")


@pytest.mark.parametrize("link", ["4", "6"], indirect=True, ids=["IPv4", "IPv6"])
def test_multicast_on_the_link_named(party: Party) -> None:
    iface, family = party.link.iface, party.link.families
    relay = party.relay(ifaces=[iface])
    node = party.node(ifaces=[iface])
    party.until(lambda: relay.counts["announce", "accepted"])
    (found,) = party.ask(family)
    assert found.verified, found.flaw
    (there,) = party.there.do(solicit(ifaces=[iface], port=PORT, timeout=3))  # the node itself hears it across the link
    assert there.node_id == node_id(key(1))
    party.stop(node)
    party.until(lambda: relay.counts["withdraw", "accepted"])
    assert party.ask(family) == []


def test_both_groups_carry_one_word_and_it_counts_once(party: Party) -> None:
    relay = party.relay(ifaces=[party.link.iface])
    party.node(ifaces=[party.link.iface])
    party.until(lambda: relay.counts["announce", "accepted"] >= 3)
    party.until(lambda: relay.counts["announce", "replayed"] == relay.counts["announce", "accepted"])


def test_without_a_named_interface_nothing_is_heard(party: Party) -> None:
    """Neither by a relay that named none, nor by one that named another while somebody here joined the group."""
    deaf = party.relay()
    node = party.node(ifaces=[party.link.iface])
    party.until(lambda: node.counts["announce", "sent"] >= 6)
    assert not +deaf.counts
    party.stop(deaf)
    other = party.relay(ifaces=["lo"])
    sent = node.counts["announce", "sent"]
    party.until(lambda: node.counts["announce", "sent"] >= sent + 6)
    assert not +other.counts


def test_the_address_announced_is_the_one_that_is_reached(party: Party) -> None:
    for family, address in (("4", "10.57.0.2"), ("6", "fd57::2")):
        relay = party.relay()
        core = Discovery(key(1), facts(control_addr="::"), rng=os.urandom)
        node = party.run(DiscoveryService(core, port=PORT, relays=[RELAY[family]]))
        party.until(lambda: relay.counts["announce", "accepted"])  # noqa: B023  # called before the next round
        assert party.ask(family)[0].address == address
        party.stop(node)
        party.stop(relay)


def test_a_pinned_relay_lists_whom_it_knows(party: Party) -> None:
    relay = party.relay("pinned", pins(key(2)))
    stranger = party.node(1, relays=[RELAY["4"]])
    party.until(lambda: relay.counts["announce", "untrusted"])
    party.stop(stranger)
    party.node(2, relays=[RELAY["4"]])
    party.until(lambda: relay.counts["announce", "accepted"])
    (found,) = party.ask("4")
    assert found.node_id == node_id(key(2))


def test_the_programs_find_each_other(party: Party, tmp_path: Path) -> None:
    """`fabricbiosd relay` there and `fabricbios nodes` here, as processes."""
    link = party.link
    where = ["--state-dir", str(tmp_path / "state"), "--trust-dir", str(tmp_path / "trust.d")]
    command = ["ip", "netns", "exec", link.there, sys.executable, "-m", "fabricbios.daemon", "relay", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
        try:
            assert relay.stdout is not None
            assert json.loads(relay.stdout.readline().removeprefix("ready "))["discovery"]["port"] == PORT
            party.node(relays=[RELAY["6"]])
            while not party.ask("6"):
                time.sleep(0.05)
            asked = ["fabricbios.cli", "nodes", "--json", "--relay", "[{}]:{}".format(*RELAY["6"])]
            shown = subprocess.check_output(["ip", "netns", "exec", link.here, sys.executable, "-m", *asked], text=True)
            assert json.loads(shown)["nodes"][0]["node_id"] == hex128(node_id(key(1)))
            relay.terminate()
            assert relay.wait(60) == 0
        finally:
            relay.kill()
