"""Where a lease can be reached: the binding TLVs of an allocation, read in order (D9, D10)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, NamedTuple

from fabricbios.errors import Unsupported
from fabricbios.model import BLOCK_SIZE, Binding, DpAuth, ResourceType, Transport
from fabricbios.wire import BlockGeometry, DpAuthTlv, DpKey, Endpoint, Generation, Limits

_WANTED = {
    (ResourceType.MEM, Binding.UDP): Transport.FBMU_UDP,
    (ResourceType.MEM, Binding.QUIC): Transport.FBMU_QUIC,
    (ResourceType.BLOCK, Binding.UDP): Transport.FBBU_UDP,
    (ResourceType.BLOCK, Binding.QUIC): Transport.FBBU_QUIC,
}
STREAMS = frozenset({Transport.FBMU_QUIC, Transport.FBBU_QUIC})


class Reach(NamedTuple):
    """One ENDPOINT with its LIMITS; sizes in bytes."""

    transport: int
    host: str
    port: int
    length: int = 0
    max_read: int = 0
    max_write: int = 0


class Bindings(NamedTuple):
    """All that an allocation says about how to use it."""

    reaches: tuple[Reach, ...]
    dp_key: bytes
    dp_auth: DpAuth
    generation: int

    def pick(self, kind: ResourceType, binding: Binding | None) -> Reach:
        """Return the first endpoint for this kind and binding (None: any). Unsupported if the node named none."""
        wanted = {transport for (of, over), transport in _WANTED.items() if of == kind and binding in (over, None)}
        for reach in self.reaches:
            if reach.transport in wanted and reach.max_read and reach.max_write:
                return reach
        over_what = f" over {binding.name}" if binding is not None else ""
        raise Unsupported(f"{kind.name}{over_what}", "the node's answer has no such ENDPOINT")


def read_bindings(tlvs: Iterable[Any], fallback_host: str) -> Bindings:
    """Gather the TLVs. An endpoint without an address is where the control connection goes."""
    reaches: list[Reach] = []
    dp_key, dp_auth, generation = b"", DpAuth.HMAC_HEADER, 0
    for tlv in tlvs:
        if isinstance(tlv, Endpoint):
            reaches.append(Reach(tlv.transport, _host(tlv.addr) or fallback_host, tlv.port))
        elif isinstance(tlv, Limits) and reaches:
            reaches[-1] = reaches[-1]._replace(length=tlv.len, max_read=tlv.max_read, max_write=tlv.max_write)
        elif isinstance(tlv, BlockGeometry) and reaches:
            most = tlv.max_blocks_per_io * BLOCK_SIZE
            reaches[-1] = reaches[-1]._replace(length=tlv.block_count * BLOCK_SIZE, max_read=most, max_write=most)
        elif isinstance(tlv, DpKey):
            dp_key = tlv.dp_key
        elif isinstance(tlv, DpAuthTlv):
            dp_auth = DpAuth(tlv.dp_auth)
        elif isinstance(tlv, Generation):
            generation = tlv.generation
    return Bindings(tuple(reaches), dp_key, dp_auth, generation)


def _host(addr: bytes) -> str:
    address = ipaddress.IPv6Address(addr)
    if address.ipv4_mapped is not None:
        return "" if address.ipv4_mapped.is_unspecified else str(address.ipv4_mapped)
    return "" if address.is_unspecified else str(address)
