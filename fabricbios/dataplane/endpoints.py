"""Where a data plane is reached and how much fits there: ENDPOINT with its LIMITS (D9, D10, D11)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from fabricbios.dataplane.batch import DATAGRAM_LIMIT
from fabricbios.model import Transport
from fabricbios.wire import Endpoint

Address = IPv4Address | IPv6Address
_IP_UDP_HEADERS = {4: 28, 6: 48}
_QUIC_MESSAGE = 1 << 20  # D11


class Listener(NamedTuple):
    """A socket as it was bound: `host` may be a wildcard."""

    transport: Transport
    host: str
    port: int


class Place(NamedTuple):
    """A listener as one asker reaches it; `message` is the longest datagram or QUIC message, in bytes."""

    endpoint: Endpoint
    message: int


def address_of(host: str) -> Address:
    """Return an address without its zone, an IPv4-mapped one as IPv4; ValueError if it is none."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def sixteen(address: Address) -> bytes:
    """Return the wire form: IPv6, or IPv4-mapped."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def places(listeners: Sequence[Listener], reached: str, mtu_of: Callable[[str], int]) -> list[Place]:
    """Return what an asker who reached the address `reached` ("" if unknown) may use.

    A wildcard is told as the reached address, where the family is the same. `mtu_of` tells the MTU of the
    interface that has an address.
    """
    asked = address_of(reached) if reached else None
    found = ((listener, _address(listener, asked)) for listener in listeners)
    return [_place(listener, address, mtu_of) for listener, address in found if address]


def _address(listener: Listener, asked: Address | None) -> Address | None:
    bound = address_of(listener.host)
    if not bound.is_unspecified:
        return bound
    return asked if asked and asked.version == bound.version else None


def _place(listener: Listener, address: Address, mtu_of: Callable[[str], int]) -> Place:
    endpoint = Endpoint(listener.transport, sixteen(address), listener.port)
    if listener.transport in (Transport.FBMU_QUIC, Transport.FBBU_QUIC, Transport.FBMK_QUIC):
        return Place(endpoint, _QUIC_MESSAGE)
    limit = DATAGRAM_LIMIT[socket.AF_INET if address.version == 4 else socket.AF_INET6]
    return Place(endpoint, min(limit, mtu_of(str(address)) - _IP_UDP_HEADERS[address.version]))
