"""From a datagram of the discovery port to a message worth reading, in the order of work that D2 fixes:
header, lengths -> signature -> replay -> inflate. Whatever falls by the way is counted, and answered with silence.

A frame signed by a sender whose key is known is verified as it comes. An ANNOUNCE of a sender not yet
known carries its key; if it comes in fragments, they are verified once they are together. A request_id
is 64 random bits, so who does not see the traffic cannot spoil such a message by slipping a fragment in,
nor crowd out the pieces of who is known: strangers have half of the reassembly to themselves.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from fabricbios.core.asking import AskingBack
from fabricbios.core.checks import Checks
from fabricbios.core.ratelimit import TokenBuckets
from fabricbios.core.reassembly import MAX_HELD, MAX_MESSAGES, Reassembler
from fabricbios.core.replay import Freshness, ReplayWindow, is_skewed
from fabricbios.errors import WireError
from fabricbios.model import Instant, id_of_key
from fabricbios.ports import UdpPeer
from fabricbios.wire.fragmentation import inflate, peek
from fabricbios.wire.frame import FRAG_SIZE, HEADER_SIZE, SIGNATURE_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.seal import verify_frame

RATE_LIMITED = "rate_limited"
INFLATED_AT_A_TIME = 1024  # bytes of a payload beyond those that came
_KEY_AT, _KEY_END = 100, 132  # D4: where an ANNOUNCE has its public_key


class Incoming(NamedTuple):
    """A whole message. `signed` means that `key` made its signature; `length` is its bytes on the wire."""

    msg_type: MsgType
    request_id: int
    nonce: int
    sender: int
    flags: int
    payload: bytes
    frames: tuple[Frame, ...]
    length: int
    signed: bool
    peer: UdpPeer


class Dropped(Exception):
    """Why a frame goes no further; never leaves core."""

    def __init__(self, result: str) -> None:
        super().__init__(result)
        self.result = result


class Gate:
    """The admission of one port. `counts` maps (message type, result) to how often, for the metric.

    `asking` asks those whose announcements there was no room to look at; None for who hears none.
    """

    def __init__(self, own_id: int, takes: frozenset[MsgType], asking: AskingBack | None = None) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._own_id = own_id
        self._takes = takes
        self._unsigned = TokenBuckets()
        self._asking = asking
        self._checks = Checks()
        self._replay = ReplayWindow()
        self._known, self._strangers = (Reassembler(MAX_MESSAGES // 2, held=MAX_HELD // 2) for _ in range(2))

    def count(self, msg_type: MsgType, result: str) -> None:
        self.counts[msg_type.name.lower(), result] += 1

    def open(self, data: bytes, peer: UdpPeer, now: Instant) -> Frame | None:
        """Decode the frame of one datagram; None, counted, for what this port does not take."""
        try:
            frame = Frame.unpack(data, transport="udp")
        except WireError:
            self.counts["unknown", "malformed" if self._unsigned.take(peer.host, now) else RATE_LIMITED] += 1
            return None
        result = self._unwanted(frame, peer, now)
        if result:
            self.count(MsgType(frame.msg_type), result)
            return None
        return frame

    def admit(self, frame: Frame, key: bytes | None, peer: UdpPeer, now: Instant) -> Incoming | None:
        """Return the message that this frame completes. `key` is the sender's as far as known."""
        try:
            return self._admit(frame, key, peer, now)
        except Dropped as dropped:
            self.count(MsgType(frame.msg_type), dropped.result)
            if dropped.result == RATE_LIMITED and frame.msg_type == MsgType.ANNOUNCE and self._asking is not None:
                self._asking.ask(peer, _length(frame), self._checks.is_proven(frame.sender, peer), now)
        except WireError:
            self.count(MsgType(frame.msg_type), "malformed")
        return None

    def gather(self, frame: Frame, peer: UdpPeer, now: Instant) -> Incoming | None:
        """Return the answer, which we await, that this frame completes. Whom its entry is of its entry has to prove.

        Raises WireError for one that cannot be read.
        """
        frames = self._known.add(frame, peer, now) if frame.fragmented else (frame,)
        return None if frames is None else _incoming(frames, b"".join(f.payload for f in frames), False, peer)

    def own_word(self, announcement: Frame, peer: UdpPeer, now: Instant) -> Incoming:
        """Return the ANNOUNCE that an answer brought us, as if it had come by itself; Dropped if it is not its node's.

        It takes no allowance, because we asked, and no nonce: the question was new, and an old sequence is no news.
        """
        key = announcement.payload[_KEY_AT:_KEY_END]
        if id_of_key(key) != announcement.sender or not verify_frame(announcement, key):
            raise Dropped("forged")
        if is_skewed(announcement.nonce, now):
            raise Dropped(Freshness.SKEWED.value)
        self._checks.proved(announcement.sender, peer)
        return _incoming((announcement,), announcement.payload, True, peer)

    def handle_timer(self, now: Instant) -> None:
        late = self._known.handle_timer(now) + self._strangers.handle_timer(now)
        self.counts["fragments", "timed_out"] += late

    def next_deadline(self) -> int | None:
        deadlines = (self._known.next_deadline(), self._strangers.next_deadline())
        return min((d for d in deadlines if d is not None), default=None)

    def _unwanted(self, frame: Frame, peer: UdpPeer, now: Instant) -> str:
        if frame.sender == self._own_id:
            return "own"  # our multicast, come back
        if self._asking is not None and self._asking.awaits(frame, peer, now):
            return ""
        if frame.msg_type not in self._takes:
            return "ignored"
        signed = frame.flags & FrameFlag.SIGNED
        return "" if signed or self._unsigned.take(peer.host, now) else RATE_LIMITED

    def _admit(self, frame: Frame, key: bytes | None, peer: UdpPeer, now: Instant) -> Incoming | None:
        known = key is not None and bool(frame.flags & FrameFlag.SIGNED)
        if known:
            self._verify((frame,), key, peer, now)
        if known and frame.fragmented:
            self._fresh(self._replay.reserve(frame.sender, frame.request_id, frame.nonce, now))
        pieces = self._known if known else self._strangers
        frames = pieces.add(frame, peer, now) if frame.fragmented else (frame,)
        if frames is None:
            return None
        payload = b"".join(f.payload for f in frames)
        signed = known or self._introduced(frames, payload, peer, now)
        if known and frame.fragmented:
            self._replay.spend(frame.sender, frame.nonce)
        elif signed:
            self._fresh(self._replay.admit(frame.sender, frame.nonce, now))
        message = _incoming(frames, payload, signed, peer)
        self._charge(message, len(message.payload) - len(payload), now)
        if signed:
            self._checks.proved(frame.sender, peer)
        return message

    def _charge(self, message: Incoming, inflated: int, now: Instant) -> None:
        """Reading a KiB costs us about as much as a signature, and deflated it costs its sender nothing."""
        for _ in range(inflated // INFLATED_AT_A_TIME):
            sender, peer = message.sender, message.peer
            paid = self._checks.take(sender, peer, now) if message.signed else self._unsigned.take(peer.host, now)
            if not paid:
                raise Dropped(RATE_LIMITED)

    def _introduced(self, frames: tuple[Frame, ...], payload: bytes, peer: UdpPeer, now: Instant) -> bool:
        """Whether a sender whose key we did not know signed this, by the key that its ANNOUNCE carries."""
        frame = frames[0]
        if not frame.flags & FrameFlag.SIGNED:
            return False
        if frame.msg_type == MsgType.SOLICIT:  # needs no signature, and gains nothing by one that nobody can check
            if not self._unsigned.take(peer.host, now):
                raise Dropped(RATE_LIMITED)
            return False
        key = peek(payload, _KEY_END, bool(frame.flags & FrameFlag.COMPRESSED))[_KEY_AT:]
        if frame.msg_type != MsgType.ANNOUNCE or id_of_key(key) != frame.sender:
            raise Dropped("unknown_key")
        self._verify(frames, key, peer, now)
        return True

    def _verify(self, frames: tuple[Frame, ...], key: bytes | None, peer: UdpPeer, now: Instant) -> None:
        for frame in frames:
            if not self._checks.take(frame.sender, peer, now):
                raise Dropped(RATE_LIMITED)
            if key is None or not verify_frame(frame, key):
                self._checks.failed(frame.sender, peer, now)
                raise Dropped("forged")

    def _fresh(self, freshness: Freshness) -> None:
        if freshness is not Freshness.FRESH:
            raise Dropped(freshness.value)


def _incoming(frames: tuple[Frame, ...], payload: bytes, signed: bool, peer: UdpPeer) -> Incoming:
    first = frames[0]
    return Incoming(
        msg_type=MsgType(first.msg_type),
        request_id=first.request_id,
        nonce=first.nonce,
        sender=first.sender,
        flags=first.flags,
        payload=inflate(payload) if first.flags & FrameFlag.COMPRESSED else payload,
        frames=frames,
        length=sum(_length(f) for f in frames),
        signed=signed,
        peer=peer,
    )


def _length(frame: Frame) -> int:
    offsets = FRAG_SIZE if frame.flags & FrameFlag.FRAG_V2 else 0
    return HEADER_SIZE + offsets + len(frame.payload) + (SIGNATURE_SIZE if frame.flags & FrameFlag.SIGNED else 0)
