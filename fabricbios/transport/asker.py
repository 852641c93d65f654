"""The asking side of discovery (D5): SOLICIT, the cookie, the pieces of the answer, the proofs. Sans-IO.

One `Question` goes to one address. The first SOLICIT is padded to 1200 bytes, so that a small answer
may come at once; SOLICIT_RETRY makes it ask again with the cookie. Silence makes it ask again anyway.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from fabricbios.errors import WireError
from fabricbios.model import NS, Binding, Health, Instant, ResourceFlags, ResourceType, hex128
from fabricbios.wire.discovery import Filter, Solicit, SolicitResponse, SolicitRetry
from fabricbios.wire.fragmentation import Assembly, inflate
from fabricbios.wire.frame import FRAG_SIZE, HEADER_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.inventory import ResourceSummary, Transports
from fabricbios.wire.proof import Entry, verify_entry

QUESTION_SIZE = 1200  # D5: bytes of the first SOLICIT frame
MAX_ANSWERS = 256  # to one question: many nodes answer a multicast
ASK_AGAIN_NS = NS // 2
MAX_ASKED = 6
_SKEW_SECS = 30


class NodeEntry(NamedTuple):
    """One node as it was found. `flaw` is "" when its own signature proves all of this, and is recent."""

    node_id: int
    public_key: bytes
    address: str
    port: int
    health: Health
    site_id: int
    row_id: int
    rack_id: int
    resources: tuple[ResourceSummary, ...]
    transports: tuple[int, ...]
    sequence: int
    timestamp: int  # Unix s, by the node's clock
    ttl_secs: int
    age_secs: int  # since the relay heard it, or since it was signed
    flaw: str
    source: str  # who told us

    @property
    def verified(self) -> bool:
        return not self.flaw

    @property
    def endpoint(self) -> str:
        """HOST:PORT of the control plane, as -H takes it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def to_json(self) -> dict[str, Any]:
        """Return it as docs/schema/nodes.json has it."""
        return {
            "node_id": hex128(self.node_id),
            "public_key": self.public_key.hex(),
            "address": self.address,
            "port": self.port,
            "health": _names(self.health),
            "site_id": self.site_id,
            "row_id": self.row_id,
            "rack_id": self.rack_id,
            "resources": [_resource(r) for r in self.resources],
            "transports": [_name(Binding, t) for t in self.transports],
            "sequence": self.sequence,
            "timestamp": self.timestamp,
            "ttl_secs": self.ttl_secs,
            "age_secs": self.age_secs,
            "verified": self.verified,
            "flaw": self.flaw,
            "source": self.source,
        }


def _resource(summary: ResourceSummary) -> dict[str, Any]:
    return {
        "resource_id": hex128(summary.resource_id),
        "type": _name(ResourceType, summary.resource_type),
        "flags": _names(ResourceFlags(summary.flags)),
        "capacity": summary.capacity,
        "available": summary.available,
    }


def _names(flags: IntFlag) -> list[str]:
    return [flag.name.lower() for flag in type(flags) if flag in flags and flag.name]


def _name(enum: type[IntEnum], value: int) -> str:
    """Return the name of a value, or the number that has none here (D1: unknown ones are skipped, not refused)."""
    try:
        return enum(value).name.lower()
    except ValueError:
        return f"0x{value:04x}"


class Question:
    """One SOLICIT and what comes of it. `rng(n)` gives n random bytes; `peer` is only a name here."""

    def __init__(
        self, *, sender: int, filters: Sequence[Filter] = (), rng: Callable[[int], bytes], many: bool = False
    ) -> None:
        """`many` waits for more answers after the first: a multicast has many answerers."""
        self._sender = sender
        self._filters = tuple(filters)
        self._request_id = int.from_bytes(rng(8), "big")
        self._many = many
        self._asked = 0
        self._ask_ns = 0
        self._cookies: dict[str, bytes] = {}  # peer -> cookie, each shown once
        self._pieces: dict[tuple[str, int], Assembly] = {}
        self._entries: dict[int, NodeEntry] = {}
        self._heard: set[str] = set()
        self.done = False

    @property
    def answered(self) -> bool:
        """Whether anybody answered at all; no nodes is an answer too."""
        return bool(self._heard)

    @property
    def entries(self) -> list[NodeEntry]:
        return sorted(self._entries.values(), key=lambda entry: entry.node_id)

    def next_deadline(self) -> int | None:
        """Return when to ask again, CLOCK_BOOTTIME in ns; None once there is nothing left to try."""
        return None if self.done or self._asked >= MAX_ASKED else self._ask_ns

    def questions_to_send(self, now: Instant) -> list[bytes]:
        """Return the SOLICIT to send to the address asked, if it is time."""
        deadline = self.next_deadline()
        if deadline is None or now.boot_ns < deadline:
            return []
        self._ask_ns = now.boot_ns + (ASK_AGAIN_NS << self._asked)
        self._asked += 1
        self._cookies.clear()  # the answer to the last one may be lost
        return [self._solicit(b"", now)]

    def receive(self, data: bytes, peer: str, now: Instant) -> bytes | None:
        """Take a datagram; return what to send back to this very peer: the question with its cookie.

        What is not an answer to this question, or breaks a rule, changes nothing.
        """
        try:
            frame = Frame.unpack(data, transport="udp")
            if frame.request_id != self._request_id:
                return None
            if frame.msg_type == MsgType.SOLICIT_RETRY and not frame.flags & ~FrameFlag.SIGNED:
                return self._with_cookie(SolicitRetry.unpack(frame.payload).cookie, peer, now)
            if frame.msg_type == MsgType.RESPONSE:
                self._answer(frame, peer, now)
        except WireError:
            return None
        return None

    def _with_cookie(self, cookie: bytes, peer: str, now: Instant) -> bytes | None:
        """One question for one cookie: a host that sends the same one again cannot make us a flood."""
        if self._cookies.get(peer) == cookie or len(self._cookies) >= MAX_ANSWERS:
            return None
        self._cookies[peer] = cookie
        self._ask_ns = now.boot_ns + ASK_AGAIN_NS
        return self._solicit(cookie, now)

    def _solicit(self, cookie: bytes, now: Instant) -> bytes:
        solicit = Solicit(1 if self._filters else 0, self._filters, cookie)
        room = QUESTION_SIZE - HEADER_SIZE - FRAG_SIZE - len(solicit.pack())
        payload = solicit.replace(padding=max(0, room)).pack()
        return Frame(
            msg_type=MsgType.SOLICIT,
            flags=FrameFlag.FRAG_V2,  # says that we take fragments with offsets
            request_id=self._request_id,
            nonce=now.unix_ms,
            sender=self._sender,
            frag_offset=0,
            frag_total_len=len(payload),
            payload=payload,
        ).pack("udp")

    def _answer(self, frame: Frame, peer: str, now: Instant) -> None:
        payload = self._whole(frame, peer)
        if payload is None:
            return
        if frame.flags & FrameFlag.COMPRESSED:
            payload = inflate(payload)
        response = SolicitResponse.unpack(payload, transport="udp")
        self._heard.add(peer)
        self.done = not self._many
        for listed in response.announce_payload_bytes:
            self._keep(listed, peer, now)

    def _whole(self, frame: Frame, peer: str) -> bytes | None:
        """Return the payload this frame completes. A new answer of a peer takes the place of its last one."""
        if not frame.fragmented:
            return frame.payload
        key = (peer, frame.sender)
        held = self._pieces.get(key)
        if held is None or held.frames[0].nonce != frame.nonce:
            if len(self._pieces) >= MAX_ANSWERS:
                return None
            held = self._pieces[key] = Assembly(frame)
        try:
            if not held.add(frame):
                return None
        except WireError:
            del self._pieces[key]
            raise
        del self._pieces[key]
        return held.payload()

    def _keep(self, listed: bytes, peer: str, now: Instant) -> None:
        try:
            found = node_entry(verify_entry(listed), peer, now)
        except WireError:
            return
        known = self._entries.get(found.node_id)
        if known is None or (found.verified, found.sequence) > (known.verified, known.sequence):
            self._entries[found.node_id] = found


def node_entry(entry: Entry, source: str, now: Instant) -> NodeEntry:
    """Return what people are shown; an old word told again, however well signed, is no proof of today."""
    announce = entry.announce
    flaw = entry.flaw
    signed = entry.signed_ms // 1000 if entry.signed_ms is not None else announce.timestamp
    if not flaw and not -_SKEW_SECS <= now.unix - signed <= announce.ttl_secs + _SKEW_SECS:
        flaw = "signed too long ago, or in the future"
    transports = next((tuple(t.transports) for t in announce.extensions if isinstance(t, Transports)), ())
    return NodeEntry(
        node_id=announce.node_id,
        public_key=announce.public_key,
        address=address_text(announce.control_addr),
        port=announce.control_port,
        health=Health(announce.health),
        site_id=announce.site_id,
        row_id=announce.row_id,
        rack_id=announce.rack_id,
        resources=announce.resources,
        transports=transports,
        sequence=announce.sequence,
        timestamp=announce.timestamp,
        ttl_secs=announce.ttl_secs,
        age_secs=max(0, now.unix - (entry.seen if entry.seen is not None else signed)),
        flaw=flaw,
        source=source,
    )


def address_text(packed: bytes) -> str:
    """Return 16 bytes as people write them; IPv4-mapped ones as IPv4."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
