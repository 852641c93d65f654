"""A node's own word about itself: signed ANNOUNCE again and again, WITHDRAW at the end (D4).

The sequence is Unix milliseconds and never below the last one used, over restarts and clocks that jump:
it is stored (the StoreSequence effect) before it is used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabricbios.core.answers import address_bytes
from fabricbios.core.replay import SKEW_MS
from fabricbios.errors import LocalMisuse
from fabricbios.model import Binding, Health, Instant, id_of_key
from fabricbios.wire.discovery import Announce, Withdraw, WithdrawReason
from fabricbios.wire.fragmentation import cut
from fabricbios.wire.frame import HEADER_SIZE, SIGNATURE_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.inventory import NodeCertificate, ResourceSummary, Transports
from fabricbios.wire.proof import add_proof
from fabricbios.wire.rules import UDP_FRAME_LIMIT
from fabricbios.wire.seal import sign_frame

_ROOM = UDP_FRAME_LIMIT - HEADER_SIZE - SIGNATURE_SIZE


class NodeFacts(NamedTuple):
    """What an ANNOUNCE tells beside identity and time. `extensions` are TLV values 0x0801-0x0805."""

    control_addr: str
    control_port: int
    resources: tuple[ResourceSummary, ...] = ()
    transports: tuple[Binding, ...] = ()
    health: Health = Health(0)
    certificate: bytes = b""  # fabricBIOS Certificate, wire bytes
    site_id: int = 0
    row_id: int = 0
    rack_id: int = 0
    custom: bytes = bytes(32)
    extensions: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class StoreSequence:
    """Effect: make `sequence` durable; the next start hands it in as `last_sequence`."""

    sequence: int


class Announcer:
    """Makes and signs the frames; when, and to whom, is `Discovery`'s business."""

    def __init__(
        self, private_key: Ed25519PrivateKey, *, last_sequence: int, ttl_secs: int, rng: Callable[[int], bytes]
    ) -> None:
        self.public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.node_id = id_of_key(self.public_key)
        self._private_key = private_key
        self._sequence = last_sequence
        self._nonce = 0
        self._ttl_secs = ttl_secs
        self._rng = rng
        self.announced: Announce | None = None  # what others may hold of us now
        self._whole: Frame | None = None  # the same, signed as one frame however long

    def next_sequence(self, now: Instant) -> int:
        """Return the sequence to use next; it counts as used."""
        self._sequence = max(now.unix_ms, self._sequence + 1)
        return self._sequence

    def announce(self, facts: NodeFacts, sequence: int, now: Instant) -> list[bytes]:
        """Return the datagrams of an ANNOUNCE, deflated or cut only where it is too long for one frame.

        A relay can prove only what came in one plain frame, so plain is what we prefer.
        """
        self.announced = self._payload(facts, sequence, now)
        payload = self.announced.pack()
        plain = self._frame(MsgType.ANNOUNCE, payload, now)
        self._whole = sign_frame(plain, self._private_key)
        if len(payload) <= _ROOM:
            return [self._whole.pack()]
        deflated = plain.replace(flags=plain.flags | FrameFlag.COMPRESSED, payload=zlib.compress(payload))
        smaller = min(plain, deflated, key=lambda frame: len(frame.payload))
        return [f.pack() for f in cut(smaller, frag_v2=True, private_key=self._private_key)]

    def withdraw(self, reason: WithdrawReason, sequence: int, now: Instant) -> bytes:
        """Return the datagram of a WITHDRAW."""
        payload = Withdraw(self.node_id, sequence, reason).pack()
        self.announced = self._whole = None
        return sign_frame(self._frame(MsgType.WITHDRAW, payload, now), self._private_key).pack()

    def entry(self, now: Instant) -> bytes:
        """Return what we last announced, with the proof of it, for our own answer to SOLICIT."""
        whole = self._whole
        if whole is None:
            raise LocalMisuse("nothing is announced")
        return add_proof(whole.payload, now.unix, whole.pack()[:HEADER_SIZE], whole.signature or b"")

    def _payload(self, facts: NodeFacts, sequence: int, now: Instant) -> Announce:
        extensions = facts.extensions
        if facts.transports:
            extensions += (Transports(tuple(facts.transports)),)
        if facts.certificate:
            extensions += (NodeCertificate.unpack(facts.certificate),)
        return Announce(
            node_id=self.node_id,
            sequence=sequence,
            timestamp=now.unix,
            ttl_secs=self._ttl_secs,
            health=facts.health,
            site_id=facts.site_id,
            row_id=facts.row_id,
            rack_id=facts.rack_id,
            custom=facts.custom,
            control_addr=address_bytes(facts.control_addr),
            control_port=facts.control_port,
            public_key=self.public_key,
            resources=facts.resources,
            extensions=extensions,
        )

    def _frame(self, msg_type: MsgType, payload: bytes, now: Instant) -> Frame:
        request_id = int.from_bytes(self._rng(8), "big")
        nonce = self._next_nonce(now)
        return Frame(
            msg_type=msg_type,
            flags=FrameFlag.SIGNED,
            request_id=request_id,
            nonce=nonce,
            sender=self.node_id,
            payload=payload,
            signature=bytes(SIGNATURE_SIZE),
        )

    def _next_nonce(self, now: Instant) -> int:
        """Count up within a millisecond, but follow a clock that was set back: others judge by theirs."""
        ahead = self._nonce - now.unix_ms
        self._nonce = self._nonce + 1 if 0 <= ahead < SKEW_MS // 2 else now.unix_ms
        return self._nonce
