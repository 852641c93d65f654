"""What a trusted peer may have: `[policy.default]` and `[policy.peer."0x..."]`, as frozen values.

The daemon parses the configuration; this is only what it parses into. Wishes beyond a limit in time are
shortened, beyond a quota refused, beyond permissions cut (D6, "Which status").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fabricbios.model import ALL_PERMS, Perm, ResourceType

LEASABLE = frozenset({ResourceType.CPU, ResourceType.MEM, ResourceType.BLOCK, ResourceType.NET, ResourceType.GPU})
COUNTED_IN_BYTES = frozenset({ResourceType.MEM, ResourceType.BLOCK, ResourceType.GPU})
MAX_TTL_SECS, MAX_GRACE_SECS, MAX_TOKEN_TTL_SECS = 86_400, 300, 300  # D7, D8


class Limits(NamedTuple):
    """One peer's share. Seconds and bytes; `max_bytes` counts memory, block and VRAM leases together.

    Being trusted at all is the admin's decision (D3), so the default grants every permission.
    """

    perms: Perm = ALL_PERMS
    kinds: frozenset[ResourceType] = LEASABLE
    max_bytes: int = 1 << 63
    max_leases: int = 1 << 20
    max_ttl: int = MAX_TTL_SECS
    max_grace: int = MAX_GRACE_SECS


class Policy(NamedTuple):
    default: Limits = Limits()
    peers: Mapping[int, Limits] = {}

    def of(self, node_id: int) -> Limits:
        return self.peers.get(node_id, self.default)
