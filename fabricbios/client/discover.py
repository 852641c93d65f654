"""Which nodes are there? The blocking face of `solicit`, for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fabricbios.transport.node_entry import NodeEntry
from fabricbios.transport.solicit import solicit
from fabricbios.wire.discovery import Filter

__all__ = ["NodeEntry", "discover", "solicit"]


def discover(
    relays: Sequence[tuple[str, int]], *, filters: Sequence[Filter] = (), timeout: float = 3.0
) -> list[NodeEntry]:
    """Return the nodes that these relays, or nodes, tell of; see `solicit` for the errors.

    Trust `entry.verified`, not the relay: it says that the node's own signature over the entry holds.
    """
    return asyncio.run(solicit(relays, filters=filters, timeout=timeout))
