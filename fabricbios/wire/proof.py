"""An entry of a relay's list, provable without trusting the relay (D4: RELAY_SEEN and ANNOUNCE_PROOF).

A relay adds two TLVs to the end of the extensions. Who takes them off and restores the length has the
bytes that the node signed; with the frame header out of the proof the node's signature can be checked.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fabricbios.errors import WireError
from fabricbios.model import id_of_key
from fabricbios.wire.discovery import Announce
from fabricbios.wire.frame import HEADER_SIZE, SIGNATURE_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.inventory import AnnounceProof, RelaySeen, ResourceSummary
from fabricbios.wire.seal import verify_frame

RELAY_SEEN, ANNOUNCE_PROOF = RelaySeen.TAG, AnnounceProof.TAG
_FIXED = 132  # D4: bytes before the list of resources
_RESOURCE = ResourceSummary.least()
_TLV = struct.Struct(">HH")
_U32 = struct.Struct(">I")


class Entry(NamedTuple):
    """One node as an answer told it.

    `seen` is when the relay heard it (Unix s, the relay's word), None if it did not say. `flaw` is ""
    when the node's own signature over `announce` holds, else what is wrong. `signed_ms` is the nonce
    of the node's frame: when it was signed (Unix ms), None without a proof.
    """

    announce: Announce
    seen: int | None
    flaw: str
    signed_ms: int | None

    @property
    def proven(self) -> bool:
        return not self.flaw


def add_proof(payload: bytes, seen: int, header: bytes | None, signature: bytes) -> bytes:
    """Return an ANNOUNCE payload with RELAY_SEEN and, unless `header` is None, ANNOUNCE_PROOF at its end."""
    tlvs = _TLV.pack(RELAY_SEEN, 8) + seen.to_bytes(8, "big")
    if header is not None:
        tlvs += _TLV.pack(ANNOUNCE_PROOF, HEADER_SIZE + SIGNATURE_SIZE) + header + signature
    at = _extensions_at(payload)
    length = len(payload) - at - 4
    return payload[:at] + _U32.pack(length + len(tlvs)) + payload[at + 4 :] + tlvs


def has_relay_tags(payload: bytes) -> bool:
    """Whether an ANNOUNCE, as its node sent it, carries what only relays may add."""
    return any(tag in (RELAY_SEEN, ANNOUNCE_PROOF) for tag, _, _ in _tlvs(payload))


def verify_entry(entry: bytes) -> Entry:
    """Take an entry apart and check the node's signature; WireError if it is no ANNOUNCE payload at all."""
    Announce.unpack(entry)
    payload, values = _as_signed(entry)
    announce = Announce.unpack(payload)
    seen = int.from_bytes(values[RELAY_SEEN], "big") if RELAY_SEEN in values else None
    proof = values.get(ANNOUNCE_PROOF)
    if proof is None:
        return Entry(announce, seen, "the relay has no proof of it", None)
    return Entry(announce, seen, _flaw(announce, payload, proof), int.from_bytes(proof[16:24], "big"))


def announcement_in(entry: bytes) -> Frame:
    """Return the ANNOUNCE frame that an entry's proof is of, as its node signed it; whether it did is yet to be seen.

    WireError for what is no ANNOUNCE payload, or has no proof.
    """
    Announce.unpack(entry)
    payload, added = _as_signed(entry)
    proof = added.get(ANNOUNCE_PROOF)
    if proof is None:
        raise WireError("an entry without a proof")
    frame = Frame.unpack(proof[:HEADER_SIZE] + payload + proof[HEADER_SIZE:])
    if frame.msg_type != MsgType.ANNOUNCE or frame.flags != FrameFlag.SIGNED:
        raise WireError("the proof is not of a signed ANNOUNCE")
    return frame


def _as_signed(entry: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Return an entry's payload without the relay's TLVs, and those by tag."""
    added = _added(entry)
    start = min((at for _, at, _ in added), default=len(entry))
    at = _extensions_at(entry)
    payload = entry[:at] + _U32.pack(start - at - 4) + entry[at + 4 : start]
    return payload, {tag: value for tag, _, value in added}


def _added(entry: bytes) -> list[tuple[int, int, bytes]]:
    """Return the relay's TLVs: at most one of each, at the very end."""
    found: list[tuple[int, int, bytes]] = []
    for tlv in reversed(_tlvs(entry)):
        if tlv[0] not in (RELAY_SEEN, ANNOUNCE_PROOF) or tlv[0] in [t for t, _, _ in found]:
            break
        found.append(tlv)
    return found


def _flaw(announce: Announce, payload: bytes, proof: bytes) -> str:
    try:
        frame = Frame.unpack(proof[:HEADER_SIZE] + payload + proof[HEADER_SIZE:])
    except WireError as error:
        return f"the proof is no frame: {error}"
    if frame.msg_type != MsgType.ANNOUNCE or frame.flags != FrameFlag.SIGNED:
        return "the proof is not of a signed ANNOUNCE"
    if not frame.sender == announce.node_id == id_of_key(announce.public_key):
        return "the id is not that of the key"
    return "" if verify_frame(frame, announce.public_key) else "the node's signature does not hold"


def _extensions_at(payload: bytes) -> int:
    """Return where the length of the extensions stands; the payload has been decoded before."""
    return _FIXED + 2 + _RESOURCE * int.from_bytes(payload[_FIXED : _FIXED + 2], "big")


def _tlvs(payload: bytes) -> list[tuple[int, int, bytes]]:
    """Return (tag, where it starts, value) of each extension."""
    found, at = [], _extensions_at(payload) + 4
    while at < len(payload):
        tag, length = _TLV.unpack_from(payload, at)
        found.append((tag, at, payload[at + 4 : at + 4 + length]))
        at += 4 + length
    return found
