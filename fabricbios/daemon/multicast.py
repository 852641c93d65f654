"""Link-local multicast on the interfaces that the admin named, and on no other (D5).

Groups are received by sockets of their own, bound to the group's address and joined by interface
index; sent by one socket an interface, with TTL or hop limit 1. ip(7), ipv6(7).
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Sequence

from fabricbios.errors import ConfigError
from fabricbios.model import MULTICAST_V4, MULTICAST_V6

IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = 49, 29  # linux/in.h, linux/in6.h; not in Python's socket
_GROUP = {socket.AF_INET: MULTICAST_V4, socket.AF_INET6: MULTICAST_V6}
_NONBLOCKING_UDP = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_log = logging.getLogger(__name__)


def only_what_is_ours(sock: socket.socket) -> None:
    """Keep groups that other sockets of this machine joined away from this one."""
    sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)


def index_of(iface: str) -> int:
    """Return an interface's index; ConfigError if there is none of that name."""
    try:
        return socket.if_nametoindex(iface)
    except OSError:
        raise ConfigError(f"discovery-iface {iface}: no such interface; `ip link` shows what there is") from None


def receiving(ifaces: Sequence[str], port: int) -> list[socket.socket]:
    """Return a socket a family that hears our group on these interfaces. A family that is off is left out."""
    found = []
    for family in _GROUP:
        try:
            found.append(_joined(family, [index_of(i) for i in ifaces], port))
        except OSError as error:
            _log.warning("no multicast on %s for %s: %s", ", ".join(ifaces), _GROUP[family], error.strerror)
    return found


def _joined(family: socket.AddressFamily, indexes: Sequence[int], port: int) -> socket.socket:
    sock = socket.socket(family, _NONBLOCKING_UDP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        only_what_is_ours(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((MULTICAST_V6, port, 0, indexes[0] if len(indexes) == 1 else 0))
        else:
            sock.bind((MULTICAST_V4, port))
        for index in indexes:
            _join(sock, index)
    except OSError:
        sock.close()
        raise
    return sock


def _join(sock: socket.socket, index: int) -> None:
    if sock.family == socket.AF_INET6:
        request = socket.inet_pton(socket.AF_INET6, MULTICAST_V6) + struct.pack("=I", index)  # struct ipv6_mreq
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    else:
        request = struct.pack("=4s4si", socket.inet_aton(MULTICAST_V4), b"", index)  # struct ip_mreqn
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def sending(iface: str, group: str) -> socket.socket:
    """Return a socket whose multicast leaves by this interface and goes no further than the link."""
    index = index_of(iface)
    if ":" not in group:
        sock = socket.socket(socket.AF_INET, _NONBLOCKING_UDP)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    else:
        sock = socket.socket(socket.AF_INET6, _NONBLOCKING_UDP)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    return sock
