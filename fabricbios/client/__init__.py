"""Lease hardware of other machines and use it: the library below every tool (async; `client.sync` blocks).

    async with connect("node.example", identity="~/.config/fabricbios") as node:
        async with node.lease_memory(64 << 20, ttl=300) as lease:
            await lease.write(0, b"hello")
            assert await lease.read(0, 5) == b"hello"

Failures are those of `fabricbios.errors`.
"""

from fabricbios.client.known_nodes import KnownNodes
from fabricbios.client.leases import BlockLease, Lease, MemoryLease, Wish
from fabricbios.client.node import Node, connect
from fabricbios.transport import Identity

__all__ = ["BlockLease", "Identity", "KnownNodes", "Lease", "MemoryLease", "Node", "Wish", "connect"]
