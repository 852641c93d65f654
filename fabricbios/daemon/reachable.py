"""Which of our addresses others reach, for an ANNOUNCE of a node that serves on all of them.

The kernel knows: connecting a UDP socket sends nothing, and chooses the address that a packet would have.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from fabricbios.daemon.udp_port import to_address
from fabricbios.model import MULTICAST_V4
from fabricbios.ports import UdpPeer

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
# Documentation addresses (RFC 5737, RFC 3849): where the default routes lead, if there are any.
_ANYWHERE = (UdpPeer("192.0.2.1", 9), UdpPeer("2001:db8::1", 9))


def reachable_address(towards: Sequence[UdpPeer]) -> str:
    """Return our address as seen by the first of these that we have a route to, else by the world, else by ourselves.

    Loopback is the last choice even where a relay is on it: who asks that relay may be anywhere.
    Link-local IPv6 is none: in an ANNOUNCE there is no room for its scope. OSError where the kernel could not be asked
    (no descriptors, no memory): what was found before holds then.
    """
    loopback = ""
    for address in _sources([*towards, *_ANYWHERE]):
        parsed = ipaddress.ip_address(address)
        if parsed.is_loopback:
            loopback = loopback or address
        elif not (parsed.is_link_local or parsed.is_unspecified):
            return address
    return loopback or "127.0.0.1"


def _sources(peers: Iterable[UdpPeer]) -> Iterable[str]:
    for peer in peers:
        group, _, iface = peer.host.partition("%")
        if group == MULTICAST_V4:
            yield from _source(UdpPeer(group, peer.port), iface)
        elif not group.startswith("ff"):
            yield from _source(peer)


def _source(peer: UdpPeer, iface: str = "") -> Iterable[str]:
    family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            if iface:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, iface.encode())
            sock.connect(to_address(peer, family))
            yield sock.getsockname()[0]
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return  # no route, no such family here, an interface without an address
