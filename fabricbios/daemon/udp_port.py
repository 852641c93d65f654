"""The sockets of the discovery port: binding them, and the addresses as core sees them.

IPv4 heard on an IPv6 socket is IPv4 to core, so that a peer is the same whatever socket it came by.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from fabricbios.daemon.multicast import only_what_is_ours
from fabricbios.daemon.statedir import AlreadyRunning
from fabricbios.errors import ConfigError
from fabricbios.ports import UdpPeer

RECEIVE_BUFFER = 1 << 20
_MAPPED = "::ffff:"


def bound(address: str, port: int) -> socket.socket:
    """Return a UDP socket on this address; `::` takes IPv4 too, and is `0.0.0.0` where there is no IPv6.

    AlreadyRunning if the port is taken, ConfigError if the address is not this machine's.
    """
    try:
        return _open(address, port)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT and address == "::":
            return _open("0.0.0.0", port)
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(f"discovery-port {port} on {address} is in use by another process") from None
        raise ConfigError(f"bind {address}: {error.strerror}: name an address of this machine") from None


def _open(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        only_what_is_ours(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        host, _, scope = address.partition("%")
        sock.bind((host, port, 0, scope_id(scope)) if family == socket.AF_INET6 else (host, port))
        # Only now: a second daemon must fail to bind, the sockets of the multicast groups must not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        sock.close()
        raise
    return sock


def scope_id(scope: str) -> int:
    """Return the interface index that a scope names by name or number, 0 for none; OSError if there is none."""
    return int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0


def to_peer(address: tuple[Any, ...], local: str) -> UdpPeer:
    """Return a socket address as core sees it."""
    host = address[0].partition("%")[0].removeprefix(_MAPPED)
    scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
    return UdpPeer(host + scope, address[1], local)


def to_address(peer: UdpPeer, family: int) -> tuple[Any, ...]:
    """Return what a socket of this family sends to."""
    host, _, scope = peer.host.partition("%")
    if family == socket.AF_INET:
        return host, peer.port
    return host if ":" in host else _MAPPED + host, peer.port, 0, scope_id(scope)


def reaches(family: int, local: str, peer: UdpPeer) -> bool:
    """Whether a socket of this family, bound to `local`, can send to this peer."""
    is_v6 = ":" in peer.host
    if family == socket.AF_INET:
        return not is_v6
    return is_v6 or ipaddress.ip_address(local.partition("%")[0]).is_unspecified


class UdpPort(asyncio.DatagramProtocol):
    """Hands what comes to `received(data, peer)`; `failed()` hears of what could not be sent."""

    def __init__(self, local: str, received: Callable[[bytes, UdpPeer], None], failed: Callable[[], None]) -> None:
        self.local = local
        self._received, self._failed = received, failed

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._received(data, to_peer(addr, self.local))

    def error_received(self, exc: Exception) -> None:
        self._failed()
