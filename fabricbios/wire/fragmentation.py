"""One message in several frames (D2 and the wire encoding, "Fragmentation"): cutting, putting together, inflating.

The rules of one message stand here, for the node and for who asks it. How many messages may be under
way, and for how long, is the business of whoever holds the `Assembly` objects.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabricbios.errors import WireError
from fabricbios.wire.frame import FRAG_SIZE, HEADER_SIZE, SIGNATURE_SIZE, Frame, FrameFlag
from fabricbios.wire.rules import INFLATE_LIMIT, MESSAGE_LIMIT, UDP_FRAME_LIMIT
from fabricbios.wire.seal import sign_frame

MAX_FRAGMENTS = 1024  # our bound: a fragment of one byte must not cost a hundred

_PIECE = FrameFlag.CONTINUED | FrameFlag.FINAL


def cleared(flags: int) -> int:
    """Return the flags on which all fragments of a message agree (D2)."""
    return flags & ~_PIECE


def cut(frame: Frame, *, frag_v2: bool, private_key: Ed25519PrivateKey | None = None) -> list[Frame]:
    """Return `frame` as frames of at most 1400 bytes, each signed for itself if there is a key.

    One that fits stays whole. Without `frag_v2` the pieces are legacy ones, for a receiver that did
    not say it takes offsets (wire encoding, "Capability negotiation").
    """
    room = UDP_FRAME_LIMIT - HEADER_SIZE - (SIGNATURE_SIZE if private_key else 0)
    if len(frame.payload) <= room:
        return [_sealed(frame, private_key)]
    step = room - (FRAG_SIZE if frag_v2 else 0)
    return [_sealed(_piece(frame, at, step, frag_v2), private_key) for at in range(0, len(frame.payload), step)]


def _piece(frame: Frame, at: int, step: int, frag_v2: bool) -> Frame:
    total = len(frame.payload)
    flags = frame.flags | (FrameFlag.FINAL if at + step >= total else FrameFlag.CONTINUED)
    payload = frame.payload[at : at + step]
    if not frag_v2:
        return frame.replace(flags=flags, payload=payload)
    return frame.replace(flags=flags | FrameFlag.FRAG_V2, frag_offset=at, frag_total_len=total, payload=payload)


def _sealed(frame: Frame, private_key: Ed25519PrivateKey | None) -> Frame:
    return sign_frame(frame, private_key) if private_key else frame


def inflate(data: bytes) -> bytes:
    """Return the one zlib stream in `data`; WireError past 256 KiB, cut short, or with bytes after it (D2)."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, INFLATE_LIMIT + 1)
    except zlib.error as error:
        raise WireError(f"not a zlib stream ({error})") from None
    if len(out) > INFLATE_LIMIT:
        raise WireError(f"inflates past {INFLATE_LIMIT} bytes")
    if not stream.eof:
        raise WireError("the zlib stream ends early", len(data))
    if stream.unused_data:
        raise WireError("bytes after the zlib stream", len(data) - len(stream.unused_data))
    return out


def peek(frame_payload: bytes, length: int, compressed: bool) -> bytes:
    """Return at most the first `length` bytes of a payload, inflating no more than that; b"" if it cannot be."""
    if not compressed:
        return frame_payload[:length]
    try:
        return zlib.decompressobj().decompress(frame_payload, length)
    except zlib.error:
        return b""


class Assembly:
    """The fragments of one message, held until they are all there. Every broken rule raises WireError."""

    def __init__(self, first: Frame) -> None:
        self.size = 0  # payload bytes held
        self._first = first
        self._frames: list[Frame] = []  # by offset; in order of arrival for legacy ones

    @property
    def frames(self) -> tuple[Frame, ...]:
        return tuple(self._frames)

    def add(self, frame: Frame) -> bool:
        """Take one fragment in; True when the message is complete. After a WireError it must be dropped."""
        self._check_agreement(frame)
        if self.size + len(frame.payload) > MESSAGE_LIMIT or len(self._frames) >= MAX_FRAGMENTS:
            raise WireError(f"a message of more than {MESSAGE_LIMIT} bytes or {MAX_FRAGMENTS} fragments")
        if frame.flags & FrameFlag.FRAG_V2:
            self._insert(frame)
            complete = self.size == frame.frag_total_len
        else:
            complete = self._append(frame)
        return complete

    def payload(self) -> bytes:
        """Return the message's payload, still deflated if COMPRESSED. Only once it is complete."""
        return b"".join(f.payload for f in self._frames)

    def _check_agreement(self, frame: Frame) -> None:
        ours = self._first
        for name, one, other in (
            ("msg_type", frame.msg_type, ours.msg_type),
            ("nonce", frame.nonce, ours.nonce),
            ("cleared flags", cleared(frame.flags), cleared(ours.flags)),
            ("frag_total_len", frame.frag_total_len, ours.frag_total_len),
        ):
            if one != other:
                raise WireError(f"fragments disagree on {name}")

    def _insert(self, frame: Frame) -> None:
        start, total = _offset(frame), frame.frag_total_len or 0
        end = start + len(frame.payload)
        if not frame.payload or total > MESSAGE_LIMIT:
            raise WireError("an empty fragment, or one of too long a message")
        if end > total or (end == total) != bool(frame.flags & FrameFlag.FINAL):
            raise WireError("a fragment past the end, or FINAL in the wrong place")
        at = bisect_left(self._frames, start, key=_offset)
        before, after = self._frames[at - 1 : at], self._frames[at : at + 1]
        if (before and _offset(before[0]) + len(before[0].payload) > start) or (after and _offset(after[0]) < end):
            raise WireError("overlapping fragments")
        self._frames.insert(at, frame)
        self.size += len(frame.payload)

    def _append(self, frame: Frame) -> bool:
        final = bool(frame.flags & FrameFlag.FINAL)
        if final and not self._frames:
            raise WireError("FINAL without a beginning")  # its beginning was lost: what it says is not the message
        if not frame.payload and not final:
            raise WireError("an empty fragment")
        self._frames.append(frame)
        self.size += len(frame.payload)
        return final


def _offset(frame: Frame) -> int:
    return frame.frag_offset or 0
