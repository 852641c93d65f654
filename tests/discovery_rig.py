"""Parties for the tests of discovery and trust: keys, clocks, frames, and a wire without a network."""

from __future__ import annotations

import random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabricbios.core.discovery import Discovery, NodeFacts
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.model import NS, Instant, ResourceType, id_of_key
from fabricbios.ports import StreamPeer, TrustedKeys, UdpPeer
from fabricbios.wire.discovery import Solicit
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.inventory import ResourceSummary

START_MS = 1_800_000_000_000
ASKER = UdpPeer("192.0.2.7", 40_000)


def at(seconds: float = 0.0, clock_error: float = 0.0) -> Instant:
    """Return the instant so many seconds into the test; `clock_error` moves Unix time alone."""
    return Instant(int((1000 + seconds) * NS), START_MS + int((seconds + clock_error) * 1000))


def rng(seed: int = 1) -> Any:
    return random.Random(seed).randbytes


def key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.Random(seed).randbytes(32))


def raw(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def node_id(private: Ed25519PrivateKey) -> int:
    return id_of_key(raw(private))


def store(mode: str = "tofu", **keys: Any) -> TrustStore:
    return TrustStore(TrustMode(mode), TrustedKeys(**keys))


def pins(*privates: Ed25519PrivateKey) -> dict[int, bytes]:
    return {node_id(p): raw(p) for p in privates}


def stream_peer(private: Ed25519PrivateKey | None, certificate: bytes = b"") -> StreamPeer:
    public = raw(private) if private else b""
    who = id_of_key(public) if public else 0
    return StreamPeer(1, 0, who, public, certificate, ("192.0.2.7", 5000), ("192.0.2.1", 5701))


def memory(size: int = 1 << 30, flags: int = 0) -> ResourceSummary:
    return ResourceSummary(7, ResourceType.MEM, flags, size, size)


def facts(**changes: Any) -> NodeFacts:
    return NodeFacts(control_addr="192.0.2.1", control_port=5701, resources=(memory(),))._replace(**changes)


def frame(msg_type: MsgType, payload: bytes = b"", **fields: Any) -> Frame:
    given = {"flags": 0, "request_id": 1, "nonce": START_MS, "sender": 0, **fields}
    return Frame(msg_type=msg_type, payload=payload, **given)


def question(size: int = 1200, request_id: int = 9, cookie: bytes = b"", v2: bool = True, **solicit: Any) -> bytes:
    """Return a SOLICIT datagram padded to `size`, or as long as it must be."""
    header = 52 if v2 else 44
    message = Solicit(1 if solicit.get("filters") else 0, cookie=cookie, **solicit)
    payload = message.replace(padding=max(0, size - header - len(message.pack()))).pack()
    offsets = {"flags": FrameFlag.FRAG_V2, "frag_offset": 0, "frag_total_len": len(payload)} if v2 else {}
    return frame(MsgType.SOLICIT, payload, request_id=request_id, **offsets).pack()


def announcing(private: Ed25519PrivateKey, moment: Instant, **settings: Any) -> tuple[Discovery, list[bytes]]:
    """Return a node that has just announced itself, and its datagrams."""
    own = settings.pop("facts", facts())
    node = Discovery(private, own, targets=[UdpPeer("192.0.2.9", 5700)], rng=rng(3), **settings)
    return node, announced(node, moment)


def announced(node: Discovery, moment: Instant) -> list[bytes]:
    """Let a node's timer fire and store what it wants stored; return what it sends."""
    node.handle_timer(moment)
    while (effect := node.next_effect()) is not None:
        node.effect_succeeded(effect, moment)
    return [data for data, _ in node.datagrams_to_send(moment)]
