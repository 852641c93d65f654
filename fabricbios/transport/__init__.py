"""QUIC with strict mutual TLS, and the identity behind it: between the wire and the daemon or client (D3, D6, D11)."""

from fabricbios.transport.certificate import PeerKey
from fabricbios.transport.connection import TOO_SLOW, UNREADABLE, Handler
from fabricbios.transport.identity import Identity
from fabricbios.transport.limits import DEFAULTS, Limits
from fabricbios.transport.link import Link, accept_anyone, dial
from fabricbios.transport.server import QuicServer

__all__ = [
    "DEFAULTS",
    "TOO_SLOW",
    "UNREADABLE",
    "Handler",
    "Identity",
    "Limits",
    "Link",
    "PeerKey",
    "QuicServer",
    "accept_anyone",
    "dial",
]
