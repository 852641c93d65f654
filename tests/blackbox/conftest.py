"""The programs that the probe's tests share: one node that several peers may use, and their keys."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blackbox import codec, programs
from blackbox.codec import Grant
from blackbox.keys import Key, write_keys
from blackbox.programs import Program, listening, serving, told_to
from blackbox.quic import Peer
from cryptography import x509

POLICY = """
trust = "certified"
mem_capacity = "64M"
announce-interval = 1

[policy.peer."{limited:#034x}"]
perms = ["read", "write", "alloc", "renew"]
kinds = ["mem"]
max_bytes = "1M"
max_leases = 2
max_ttl = "30s"
max_grace = "1s"

[policy.peer."{nothing:#034x}"]
perms = []
"""


@dataclass
class World:
    """A node with both planes; `owner` and `friend` may do all, `limited` little, `nothing` nothing at all."""

    directory: Path
    node: Program
    owner: Key
    friend: Key
    limited: Key
    nothing: Key
    controller: Key
    ear: socket.socket
    """Where the node announces to, as if we were its relay."""

    @property
    def control(self) -> int:
        return self.node.port("control")

    def peer(self, key: Key | None) -> Peer:
        return Peer.of(self.control, key)

    def public_key(self) -> bytes:
        with self.peer(None) as peer:
            der = peer.quic.get_peercert().public_bytes()
        return x509.load_der_x509_certificate(der).public_key().public_bytes_raw()

    def announced(self, seconds: float = programs.PATIENCE) -> bytes:
        """Return the next frame that the node sends to its relay; older ones are passed over."""
        while select.select([self.ear], [], [], 0)[0]:
            self.ear.recv(65536)
        assert select.select([self.ear], [], [], seconds)[0], "no ANNOUNCE"
        return self.ear.recv(65536)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("blackbox")
    owner, friend, limited, nothing, controller = (Key.new() for _ in range(5))
    write_keys(directory / "node" / "trust", owner, friend, limited, nothing)
    write_keys(directory / "node" / "trust", controller, folder="controllers")
    config = directory / "node" / "node.toml"
    config.write_text(POLICY.format(limited=limited.id, nothing=nothing.id))
    (directory / "disk").write_bytes(bytes(16 << 20))
    flags = "--config", str(config), "--block", str(directory / "disk")
    with listening() as ear, serving(programs.node(directory / "node", *flags, *told_to(ear))) as node:
        yield World(directory, node, owner, friend, limited, nothing, controller, ear)


@pytest.fixture(scope="module")
def owner(world: World) -> Iterator[Peer]:
    with world.peer(world.owner) as peer:
        yield peer


@pytest.fixture(scope="module")
def friend(world: World) -> Iterator[Peer]:
    with world.peer(world.friend) as peer:
        yield peer


@pytest.fixture(scope="session", autouse=True)
def ended_lease(world: World) -> tuple[Grant, float]:
    """A memory lease freed as the session begins: what becomes of it after 30 s is looked at as late as possible."""
    with world.peer(world.owner) as peer:
        lease = peer.lease(60)
        peer.free(lease.lease_id)
    return lease, time.monotonic()


@pytest.fixture(scope="session", autouse=True)
def half_asked(world: World) -> Iterator[tuple[Peer, int, float]]:
    """A question begun as the session begins, and never ended: looked at when its time is up."""
    with world.peer(world.owner) as peer:
        stream = peer.open(codec.frame(codec.REQUEST, codec.request(codec.PING), sender=peer.sender)[:50], fin=False)
        peer.pump(lambda: False, 0.05)
        yield peer, stream, time.monotonic()
