"""Where a data plane is reached and how much fits there: ENDPOINT with its LIMITS (D9, D10, D11)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from fabricbios.dataplane.batch import DATAGRAM_LIMIT
from fabricbios.model import NS, Transport
from fabricbios.wire import Endpoint

Address = IPv4Address | IPv6Address
_IP_UDP_HEADERS = {4: 28, 6: 48}
_QUIC_MESSAGE = 1 << 20  # D11
_KEPT_NS, _KEPT = 2 * NS, 64  # how long an answer is repeated, and how many of them


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


class Places:
    """`places` for a plane that is asked for every lease: an answer is repeated for _KEPT_NS.

    Finding the interface of an address takes the kernel longer than all the rest of a binding, and an MTU
    that changed just now is only a datagram too long. `clock` is CLOCK_BOOTTIME in ns.
    """

    def __init__(self, listeners: Sequence[Listener], mtu_of: Callable[[str], int], clock: Callable[[], int]) -> None:
        self._listeners, self._mtu_of, self._clock = listeners, mtu_of, clock
        self._kept: dict[tuple[Transport | None, str], tuple[int, list[Place]]] = {}  # when it is too old, and it

    def of(self, transport: Transport | None, reached: str) -> list[Place]:
        """Return `places` of the listeners that speak `transport`, for an asker who reached that address."""
        now_ns = self._clock()
        until_ns, found = self._kept.get((transport, reached), (now_ns, []))
        if now_ns < until_ns:
            return found
        found = places([one for one in self._listeners if one.transport == transport], reached, self._mtu_of)
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[transport, reached] = now_ns + _KEPT_NS, found
        return found


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
