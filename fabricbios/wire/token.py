"""Capability tokens (D7): who may do what, narrowed by caveats that anybody may append and nobody remove.

The MAC is a chain: mac0 is keyed with the node's token key, and each caveat's MAC with the one
before, so that only the node can verify and every holder can narrow.
"""

from __future__ import annotations

import hmac

from fabricbios.errors import LocalMisuse
from fabricbios.model import Perm
from fabricbios.wire.description import Message
from fabricbios.wire.fields import fixed, rest, tlv_list, u8, u32, u64, u128
from fabricbios.wire.rules import ANY, LIST_LIMIT, Rules
from fabricbios.wire.tlv import Tlv, TlvTable, TlvValue

SOURCE = 'D7; wire encoding, "Capability token caveats"'

MAC_TAG = b"fabricbios-token-v1\0"
FIXED_SIZE = 113  # every field before `caveats`
ISSUED_LEEWAY = 30  # seconds a node's clock may be behind the issuer's


class TimeBound(Tlv, tag=1, name="TIME_BOUND"):
    """Holds while start <= now < end."""

    start: int = u64("Unix seconds")
    end: int = u64("Unix seconds")


class SourceIp(Tlv, tag=2, name="SOURCE_IP"):
    """Only from this address."""

    source_ip: bytes = rest("4 or 16 bytes")

    def complaint(self, rules: Rules) -> str:
        return "" if len(self.source_ip) in (4, 16) else "SOURCE_IP is 4 or 16 bytes"


class Range(Tlv, tag=3, name="RANGE"):
    """The part of the resource that may be granted or exported with the token."""

    offset: int = u64()
    len: int = u64()


class RateLimit(Tlv, tag=4, name="RATE_LIMIT"):
    """Enforced by the node, a token bucket by token_id."""

    max_per_sec: int = u32()


class Depth(Tlv, tag=5, name="DEPTH"):
    """At most this many caveats may follow."""

    max_delegation_edges: int = u8()


class Audience(Tlv, tag=6, name="AUDIENCE"):
    """Only for this TLS peer, besides the token's own audience."""

    audience: int = u128()


CAVEATS = TlvTable("caveats", (TimeBound, SourceIp, Range, RateLimit, Depth, Audience), narrow=True, strict=True)


class Token(Message):
    """A capability, verified by the node that issued it and by no one else."""

    version: int = u8("1", default=1, only=(1,), kw_only=True)
    token_id: int = u128("random")
    issuer: int = u128("the node")
    audience: int = u128("the TLS peer; zero: any trusted peer", default=0)
    resource_id: int = u128("zero: any", default=0)
    lease_id: int = u128("zero: any", default=0)
    generation: int = u32("of the lease it is bound to", default=0)
    perms: int = u32("Perm bits", default=0)
    issued_at: int = u64("Unix seconds", default=0)
    expires_at: int = u64("Unix seconds", default=0)
    epoch: int = u64("scheduler epoch, 0 for none", default=0)
    caveats: tuple[TlvValue, ...] = tlv_list(CAVEATS, "in the order they were appended", default=())
    mac: bytes = fixed(32, "end of the chain", default=bytes(32))

    def complaint(self, rules: Rules) -> str:
        if not self.caveats:
            return ""
        if not self.perms & Perm.DELEGATE:
            return "a token with caveats must have DELEGATE"
        last = len(self.caveats) - 1
        deep = any(type(c) is Depth and last - i > c.max_delegation_edges for i, c in enumerate(self.caveats))
        return "more caveats follow than DEPTH allows" if deep else ""


def mint(token: Token, token_key: bytes) -> Token:
    """Return `token` with the MAC of the node whose `token_key` this is."""
    return token.replace(mac=_chain(token, token_key))


def mac_holds(token: Token, token_key: bytes) -> bool:
    """True if the node with `token_key` minted what this token was narrowed from. Constant time."""
    return hmac.compare_digest(token.mac, _chain(token, token_key))


def attenuate(token: Token, caveat: TlvValue) -> Token:
    """Return `token` narrowed by one more caveat; no key is needed.

    Raise LocalMisuse where the token cannot be delegated (no DELEGATE, DEPTH used up).
    """
    if len(token.caveats) >= LIST_LIMIT:
        raise LocalMisuse("the token has no room for another caveat")
    mac = hmac.digest(token.mac, CAVEATS.pack_one(caveat), "sha256")
    narrowed = token.replace(caveats=(*token.caveats, caveat), mac=mac)
    why = narrowed.complaint(ANY)
    if why:
        raise LocalMisuse(why)
    return narrowed


def objection(token: Token, *, now: int | None = None, peer: int | None = None) -> str:
    """Return why the token does not hold now or for this peer, "" if it does; None skips a check.

    `now` is Unix seconds, `peer` the TLS peer's id. MAC, generation, perms and revocation are others' work.
    """
    if now is not None and not token.issued_at - ISSUED_LEEWAY <= now < token.expires_at:
        return "the token has expired or is not yet valid"
    if peer is not None and token.audience not in (0, peer):
        return "the token is for another audience"
    for caveat in token.caveats:
        if now is not None and isinstance(caveat, TimeBound) and not caveat.start <= now < caveat.end:
            return "outside TIME_BOUND"
        if peer is not None and isinstance(caveat, Audience) and caveat.audience != peer:
            return "outside AUDIENCE"
    return ""


def _chain(token: Token, token_key: bytes) -> bytes:
    """Return the MAC that the token should have."""
    head = token.pack()[:FIXED_SIZE]
    mac = hmac.digest(token_key, MAC_TAG + head, "sha256")
    for caveat in token.caveats:
        mac = hmac.digest(mac, CAVEATS.pack_one(caveat), "sha256")
    return mac
