"""How a SOLICIT is answered without ever becoming an amplifier (D5).

An address proves itself by the cookie that only it can have received. Before that the answer is never
longer than the question; where it would be, the answer is SOLICIT_RETRY with the cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from fabricbios.core.gate import Incoming
from fabricbios.model import Instant
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import COOKIE_SIZE, Solicit, SolicitResponse, SolicitRetry
from fabricbios.wire.fragmentation import cut
from fabricbios.wire.frame import HEADER_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.rules import LIST_LIMIT, MESSAGE_LIMIT

_MAPPED_LOOPBACK = bytes(10) + b"\xff\xff\x7f"
MIN_QUESTION = HEADER_SIZE + 4 + COOKIE_SIZE  # 80: what a SOLICIT_RETRY takes
LOOKS = 256  # nodes that are looked at for an address which has not proved itself: it may be anybody's

Datagram = tuple[bytes, UdpPeer]


class Answers:
    """Answers for one port. `rng(n)` returns n unpredictable bytes: the cookie key is made here, at start."""

    def __init__(self, own_id: int, rng: Callable[[int], bytes]) -> None:
        self._own_id = own_id
        self._key = rng(32)
        self._turn = 0  # where a list that is too long for one answer begins next time

    def cookie(self, peer: UdpPeer, minute: int) -> bytes:
        """Return HMAC-SHA256 of `addr [16] | port u16 | minute u64` (D5)."""
        message = address_bytes(peer.host) + peer.port.to_bytes(2, "big") + minute.to_bytes(8, "big")
        return hmac.digest(self._key, message, hashlib.sha256)

    def answer(
        self, question: Incoming, solicit: Solicit, entries: Iterable[bytes | None], now: Instant
    ) -> tuple[str, list[Datagram]]:
        """Return (result for the counter, datagrams): the list, SOLICIT_RETRY, or nothing for a short question.

        `entries` has None for each node that is not wanted, and is gone through no further than necessary.
        """
        if question.length < MIN_QUESTION:
            return "short", []
        if self._is_proven(question.peer, solicit.cookie, now):
            return "answered", self._listed(question, self._within([e for e in entries if e], MESSAGE_LIMIT), now)
        few = _fitting(entries, question.length - HEADER_SIZE)
        listed = self._listed(question, few, now) if few is not None else []
        if few is not None and sum(len(data) for data, _ in listed) <= question.length:
            return "answered", listed
        return "retry", [self._retry(question, now)]

    def _is_proven(self, peer: UdpPeer, cookie: bytes, now: Instant) -> bool:
        minute = now.unix // 60
        return any(hmac.compare_digest(cookie, self.cookie(peer, m)) for m in (minute, minute - 1))

    def _listed(self, question: Incoming, entries: Sequence[bytes], now: Instant) -> list[Datagram]:
        payload = SolicitResponse(tuple(entries)).pack()
        frame = self._frame(MsgType.RESPONSE, question, payload, now)
        pieces = cut(frame, frag_v2=bool(question.flags & FrameFlag.FRAG_V2))
        return [(piece.pack(), question.peer) for piece in pieces]

    def _retry(self, question: Incoming, now: Instant) -> Datagram:
        payload = SolicitRetry(self.cookie(question.peer, now.unix // 60)).pack()
        return self._frame(MsgType.SOLICIT_RETRY, question, payload, now).pack(), question.peer

    def _frame(self, msg_type: MsgType, question: Incoming, payload: bytes, now: Instant) -> Frame:
        return Frame(
            msg_type=msg_type,
            flags=0,
            request_id=question.request_id,
            nonce=now.unix_ms,
            sender=self._own_id,
            payload=payload,
        )

    def _within(self, entries: Sequence[bytes], limit: int) -> Sequence[bytes]:
        """Return as many as one answer holds, another part of the list each time (relay discovery profile)."""
        if len(entries) <= LIST_LIMIT and 2 + sum(4 + len(e) for e in entries) <= limit:
            return entries
        start = self._turn % len(entries)
        chosen: list[bytes] = []
        room = limit - 2
        for entry in (*entries[start:], *entries[:start]):
            room -= 4 + len(entry)
            if room < 0 or len(chosen) == LIST_LIMIT:
                break
            chosen.append(entry)
        self._turn = start + len(chosen)
        return chosen


def _fitting(entries: Iterable[bytes | None], limit: int) -> list[bytes] | None:
    """Return the entries if their list fits in `limit` bytes. Looks no further, nor at more nodes than LOOKS."""
    found, size = [], 2
    for looks, entry in enumerate(entries):
        size += 4 + len(entry) if entry else 0
        if size > limit or looks == LOOKS:
            return None
        if entry:
            found.append(entry)
    return found


def address_bytes(host: str) -> bytes:
    """Return the 16 bytes of an address, IPv4 mapped into IPv6; a scope does not count."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def is_loopback(address: bytes) -> bool:
    """Whether 16 bytes of an address mean "this machine" to whoever reads them."""
    return address == bytes(15) + b"\1" or address.startswith(_MAPPED_LOOPBACK)


def is_here(host: str) -> bool:
    """Whether who is there takes our loopback for its own: a peer on it, or a group on the interface `lo`."""
    return host.endswith("%lo") or is_loopback(address_bytes(host))
