"""Capability tokens as the issuing node sees them (D7): minted, verified, revoked.

Only the issuer verifies, because the MAC is a chain under its own key: caveats can be appended by any
holder and taken off by nobody, so what a token allows only ever shrinks. What anybody can see in a token
(dates, audience, DELEGATE, DEPTH, unknown caveats) `wire.token` judges.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import NamedTuple

from fabricbios.core.fence import SchedulerFence
from fabricbios.errors import Refused, WireError
from fabricbios.model import NS, Instant, Perm, Status
from fabricbios.ports import LeaseSpec, StreamPeer
from fabricbios.wire import Range, RateLimit, SourceIp, Token
from fabricbios.wire.token import mac_holds, mint, objection

MAX_BUCKETS = MAX_REVOKED = 65_536
MAX_REVOKED_BY = 4096  # of them, those that one identity asked for
MAX_GENUINE, SHORT = 1024, 512  # tokens remembered, and the bytes of the longest of them


class Scope(NamedTuple):
    """What one request needs a token for. `lease` None: no lease is meant; `size` 0: none is granted."""

    perm: Perm
    resource_id: int = 0
    lease: LeaseSpec | None = None
    size: int = 0


class Tokens:
    """Verifier and mint. `revoked` maps token_id to the Unix second after which it may be forgotten."""

    def __init__(self, node_id: int, token_key: bytes, fence: SchedulerFence) -> None:
        self._node_id = node_id
        self._key = token_key
        self._fence = fence
        self.revoked: dict[int, int] = {}
        self._revoker: dict[int, int] = {}  # token_id -> who asked, since this daemon's start
        self._shares: Counter[int] = Counter()  # how many each of them
        self._swept = -1  # Unix second
        self._genuine: dict[bytes, Token] = {}  # whole tokens whose MAC holds; nothing about when and for whom
        self._full_at: dict[int, int] = {}  # RATE_LIMIT by token_id: when its bucket is full again, boot ns

    def mint(self, token: Token) -> Token:
        return mint(token, self._key)

    def revoke(self, token_id: int, until: int, now: Instant, by: int) -> None:
        """Refuse `token_id` until then. No revocation is ever dropped: CAPACITY_EXCEEDED when the table is full, or
        `by`, who may invent ids, has its share of it."""
        if token_id not in self.revoked:
            self._make_room(by, now)
            self._revoker[token_id] = by
            self._shares[by] += 1
        self.revoked[token_id] = max(until, self.revoked.get(token_id, 0))

    def _make_room(self, by: int, now: Instant) -> None:
        if self._has_room(by):
            return
        if now.unix != self._swept:  # who is refused may ask again at once, and looking through it all takes time
            self._sweep(now)
        if not self._has_room(by):
            raise Refused.of(Status.CAPACITY_EXCEEDED, "too many revoked tokens")

    def _sweep(self, now: Instant) -> None:
        self._swept = now.unix
        self.revoked = {t: u for t, u in self.revoked.items() if u > now.unix}
        self._revoker = {t: who for t, who in self._revoker.items() if t in self.revoked}
        self._shares = Counter(self._revoker.values())

    def _has_room(self, by: int) -> bool:
        return len(self.revoked) < MAX_REVOKED and self._shares[by] < MAX_REVOKED_BY

    def verify(self, raw: bytes, scope: Scope, peer: StreamPeer, now: Instant) -> Token:
        """Return the token if it is good for `scope` in the hands of `peer`, else raise Refused with D6's status."""
        token = self.authentic(raw, peer, now)
        self.check_scope(token, scope)
        self.take_rate(token, now)
        return token

    def check_scope(self, token: Token, scope: Scope) -> None:
        """Refuse an authentic token for what it does not permit."""
        lease, bound_to = scope.lease, token.lease_id
        here = lease is not None and bound_to == lease.lease_id
        if lease is not None and here and token.generation != lease.generation:
            raise _invalid("the token is of an older generation of the lease")
        perm = int(scope.perm)  # plain ints: flag arithmetic is slow, and this is every request
        if token.perms & perm != perm:
            raise Refused.of(Status.INSUFFICIENT_PERM, f"the token lacks {scope.perm!r}")
        if token.resource_id not in (0, scope.resource_id):
            raise Refused.of(Status.INSUFFICIENT_PERM, "the token is for another resource")
        if bound_to and not here:
            raise Refused.of(Status.INSUFFICIENT_PERM, "the token is for another lease")
        if scope.size > _range_len(token):
            raise _invalid("the token's RANGE allows less")

    def authentic(self, raw: bytes, peer: StreamPeer, now: Instant) -> Token:
        """Return the token if it is ours, unbroken, timely and meant for `peer`; says nothing of what it permits."""
        if not raw:
            raise Refused.of(Status.INSUFFICIENT_PERM, "this takes a token")
        token, unix = self._genuine.get(raw) or self._judge(raw), now.unix
        if self.revoked.get(token.token_id, 0) > unix:
            raise _invalid("the token is revoked")
        if why := objection(token, now=unix, peer=peer.node_id):
            raise _invalid(why)
        for caveat in token.caveats:
            if isinstance(caveat, SourceIp) and not _same_address(caveat.source_ip, peer.remote[0]):
                raise _invalid("not from the token's SOURCE_IP")
        self._fence.check_token(token.epoch)
        return token

    def _judge(self, raw: bytes) -> Token:
        """Return what these bytes say if this node said it: true for good, so what is asked often is remembered."""
        try:
            token = Token.unpack(raw)
        except WireError as e:
            raise _invalid(f"the token cannot be read: {e.reason}") from e
        if token.issuer != self._node_id:
            raise _invalid("another node issued the token")
        if not mac_holds(token, self._key):
            raise _invalid("the token's MAC does not hold")
        if len(raw) <= SHORT:
            if len(self._genuine) >= MAX_GENUINE:
                del self._genuine[next(iter(self._genuine))]
            self._genuine[raw] = token
        return token

    def take_rate(self, token: Token, now: Instant) -> None:
        """RATE_LIMIT: a bucket of one second's worth a token_id, the strictest caveat counting (GCRA)."""
        if not token.caveats:
            return
        rates = [c.max_per_sec for c in token.caveats if isinstance(c, RateLimit)]
        if not rates:
            return
        if min(rates) == 0:
            raise Refused.of(Status.RATE_LIMITED, "the token's RATE_LIMIT is 0")
        full_at = max(self._full_at.pop(token.token_id, 0), now.boot_ns) + NS // min(rates)
        if full_at - now.boot_ns > NS:
            self._full_at[token.token_id] = full_at - NS // min(rates)
            raise Refused.of(Status.RATE_LIMITED, "the token's RATE_LIMIT is used up")
        self._full_at[token.token_id] = full_at
        if len(self._full_at) > MAX_BUCKETS:
            del self._full_at[next(iter(self._full_at))]  # the one used longest ago: its bucket is the fullest


def _invalid(reason: str) -> Refused:
    return Refused.of(Status.INVALID_TOKEN, reason)


def _range_len(token: Token) -> int:
    """Return how much of a resource the RANGE caveats leave together.

    A lease has its own offsets from 0 and its place in the resource is the data plane's secret, so what
    can be bounded is how much is granted: the overlap of all ranges.
    """
    start, stop = 0, 1 << 64
    for caveat in token.caveats:
        if isinstance(caveat, Range):
            start, stop = max(start, caveat.offset), min(stop, caveat.offset + caveat.len)
    return max(0, stop - start)


def _same_address(raw: bytes, host: str) -> bool:
    """Compare a SOURCE_IP with where the peer is; an IPv4-mapped address is its IPv4 address."""
    try:
        return _plain(ipaddress.ip_address(raw)) == _plain(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return False


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
