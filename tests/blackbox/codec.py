"""The probe's own codec, written from the wire encoding and the wire decisions. Big-endian throughout; plain tuples."""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

from blackbox.keys import Key, holds

ANNOUNCE, SOLICIT, WITHDRAW, SOLICIT_RETRY = 1, 2, 3, 4
REQUEST, RESPONSE, REVOKE_BROADCAST, LEASE_EVENT, ERROR = 0x10, 0x11, 0x12, 0x13, 0x7F
SIGNED, CONTINUED, FINAL, FRAG_V2, COMPRESSED = 1, 2, 4, 8, 16
FRAME_PREFIX = b"fabricbios-frame-v0\0"
CERTIFICATE_PREFIX = b"fabricbios-cert-v0\0"

PING, GET_INVENTORY, GET_IDENTITY, ENROLL_REQUEST, GET_BUILD_INFO, GET_THERMAL, TIME_SYNC = 1, 2, 3, 4, 5, 6, 7
FENCE_SET, FENCE_GET = 9, 10
CAP_REQUEST, CAP_REFRESH, CAP_REVOKE = 0x100, 0x101, 0x102
ALLOC, FREE, RENEW, QUERY, LIST_ACTIVE, REVOKE, FENCE_CLEAR, ATTACH = (
    0x200, 0x201, 0x202, 0x203, 0x208, 0x20A, 0x20B, 0x20C,
)  # fmt: skip

OK, INVALID_TOKEN, INSUFFICIENT_PERM, NOT_FOUND, BUSY, CAPACITY, EXPIRED, RATE_LIMITED, FENCED = range(9)
STALE_EPOCH, FENCE_REQUIRED, INVALID_OP, BAD_REQUEST, INVALID_INTENT, INVALID_ARGS = 9, 10, 11, 12, 13, 14
INTERNAL = 0xFF

T_ENDPOINT, T_DP_KEY, T_LIMITS, T_GENERATION, T_GEOMETRY, T_DP_AUTH, T_BINDING, T_REASON = (
    0x101, 0x102, 0x104, 0x105, 0x106, 0x107, 0x108, 0x10F,
)  # fmt: skip
P_READ, P_WRITE, P_ALLOC, P_RENEW, P_REVOKE, P_DELEGATE, P_EXEC, P_ADMIN = (1 << n for n in range(8))
CPU, MEM, BLOCK, NET, GPU = range(1, 6)


def u8(n: int) -> bytes:
    return n.to_bytes(1, "big")


def u16(n: int) -> bytes:
    return n.to_bytes(2, "big")


def u32(n: int) -> bytes:
    return n.to_bytes(4, "big")


def u64(n: int) -> bytes:
    return n.to_bytes(8, "big")


def u128(n: int) -> bytes:
    return n.to_bytes(16, "big")


def lp(data: bytes) -> bytes:
    """Return `bytes`: u32 length, then the bytes."""
    return u32(len(data)) + data


def tlv16(tag: int, value: bytes) -> bytes:
    return u16(tag) + u16(len(value)) + value


def tlv8(kind: int, value: bytes) -> bytes:
    return u8(kind) + u16(len(value)) + value


class Reader:
    """Takes fields off the front; `end()` says that nothing was left over."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        piece = self.data[self.at : self.at + n]
        assert len(piece) == n, f"{n} bytes wanted at {self.at} of {len(self.data)}"
        self.at += n
        return piece

    def uint(self, n: int) -> int:
        return int.from_bytes(self.take(n), "big")

    def lp(self) -> bytes:
        return self.take(self.uint(4))

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        assert self.at == len(self.data), f"{len(self.data) - self.at} bytes left over"


def tlvs(data: bytes) -> list[tuple[int, bytes]]:
    """Split a tlv16 sequence that runs to the end of its buffer."""
    r, found = Reader(data), []
    while r.at < len(data):
        tag = r.uint(2)
        found.append((tag, r.take(r.uint(2))))
    return found


class Frame(NamedTuple):
    msg_type: int
    flags: int
    request_id: int
    nonce: int
    sender: int
    payload: bytes
    signature: bytes | None
    signed: bytes
    """What the signature is over, the prefix left out."""

    def verify(self, public_key: bytes) -> None:
        assert self.signature is not None, "not signed"
        holds(public_key, self.signature, FRAME_PREFIX + self.signed)


_last_nonce = 0


def fresh_nonce() -> int:
    """D2: Unix time in milliseconds, made unique by counting up."""
    global _last_nonce
    _last_nonce = max(_last_nonce + 1, time.time_ns() // 1_000_000)
    return _last_nonce


def frame(
    msg_type: int, payload: bytes, *, sender: int = 0, request_id: int = 7, nonce: int | None = None, flags: int = 0,
    magic: bytes = b"FBIO", version: int = 0, length: int | None = None, sign: Key | None = None, middle: bytes = b"",
) -> bytes:  # fmt: skip
    flags |= SIGNED if sign else 0
    head = magic + struct.pack(">BBHQQ", version, msg_type, flags, request_id, nonce or fresh_nonce()) + u128(sender)
    whole = head + u32(len(payload) if length is None else length) + middle + payload
    return whole + sign.private.sign(FRAME_PREFIX + whole) if sign else whole


def read_frame(data: bytes) -> Frame:
    r = Reader(data)
    assert r.take(4) == b"FBIO"
    version, msg_type, flags = r.uint(1), r.uint(1), r.uint(2)
    assert version == 0
    assert flags & ~0x1F == 0
    request_id, nonce, sender, length = r.uint(8), r.uint(8), r.uint(16), r.uint(4)
    if flags & FRAG_V2:
        offset, total = r.uint(4), r.uint(4)
        assert (offset, total) == (0, length), "a fragment: this probe asks for none"
    payload = r.take(length)
    signed = data[: r.at]
    signature = r.take(64) if flags & SIGNED else None
    r.end()
    return Frame(msg_type, flags, request_id, nonce, sender, payload, signature, signed)


def request(op: int, params: bytes = b"", token: bytes = b"", resource: int = 0, presenter: bytes = b"\0") -> bytes:
    return u16(op) + u128(resource) + lp(token) + lp(params) + presenter


class Answer(NamedTuple):
    status: int
    op: int
    result: bytes

    @property
    def reason(self) -> str:
        """REASON of a refusal; it must be there (D6)."""
        found = dict(tlvs(self.result))
        assert T_REASON in found, f"status {self.status:#x} without REASON"
        return found[T_REASON].decode()


def read_response(payload: bytes) -> Answer:
    r = Reader(payload)
    answer = Answer(r.uint(2), r.uint(2), r.lp())
    r.end()
    if answer.status:
        assert answer.reason
        assert "Traceback" not in answer.reason
    return answer


class Token(NamedTuple):
    """D7, caveats as (type, data)."""

    token_id: int
    issuer: int
    audience: int
    resource_id: int
    lease_id: int
    generation: int
    perms: int
    issued_at: int
    expires_at: int
    epoch: int
    caveats: tuple[tuple[int, bytes], ...]
    mac: bytes

    def pack(self) -> bytes:
        head = struct.pack(">IIQQQ", self.generation, self.perms, self.issued_at, self.expires_at, self.epoch)
        ids = b"".join(map(u128, (self.token_id, self.issuer, self.audience, self.resource_id, self.lease_id)))
        return b"\1" + ids + head + u16(len(self.caveats)) + b"".join(tlv8(*c) for c in self.caveats) + self.mac

    def narrowed(self, kind: int, data: bytes) -> Token:
        """Append a caveat as a holder does: mac = HMAC-SHA256(mac, its tlv8 bytes)."""
        import hmac

        mac = hmac.digest(self.mac, tlv8(kind, data), "sha256")
        return self._replace(caveats=(*self.caveats, (kind, data)), mac=mac)


def read_token(data: bytes) -> Token:
    r = Reader(data)
    assert r.uint(1) == 1
    ids = [r.uint(16) for _ in range(5)]
    generation, perms, issued, expires, epoch = r.uint(4), r.uint(4), r.uint(8), r.uint(8), r.uint(8)
    caveats = []
    for _ in range(r.uint(2)):
        kind = r.uint(1)
        caveats.append((kind, r.take(r.uint(2))))
    token = Token(*ids, generation, perms, issued, expires, epoch, tuple(caveats), r.take(32))
    r.end()
    return token


def time_bound(start: int, end: int) -> tuple[int, bytes]:
    return 1, u64(start) + u64(end)


def range_caveat(offset: int, length: int) -> tuple[int, bytes]:
    return 3, u64(offset) + u64(length)


def rate_limit(per_second: int) -> tuple[int, bytes]:
    return 4, u32(per_second)


def depth(edges: int) -> tuple[int, bytes]:
    return 5, u8(edges)


def audience(who: int) -> tuple[int, bytes]:
    return 6, u128(who)


def certificate(subject: Key, issuer: Key, *, starts: int = -60, ends: int = 3600, signer: Key | None = None) -> bytes:
    """Return a fabricBIOS Certificate (wire encoding); dates are seconds from now."""
    now = int(time.time())
    body = u128(subject.id) + u128(issuer.id) + u64(now + starts) + u64(now + ends) + subject.public + u16(0)
    return body + (signer or issuer).private.sign(CERTIFICATE_PREFIX + body)


class Summary(NamedTuple):
    resource_id: int
    resource_type: int
    flags: int
    capacity: int
    available: int


def read_summaries(r: Reader) -> list[Summary]:
    return [Summary(r.uint(16), r.uint(2), r.uint(2), r.uint(8), r.uint(8)) for _ in range(r.uint(2))]


class Announce(NamedTuple):
    node_id: int
    sequence: int
    timestamp: int
    ttl_secs: int
    health: int
    control_addr: bytes
    control_port: int
    public_key: bytes
    resources: list[Summary]
    extensions: list[tuple[int, bytes]]


def read_announce(data: bytes) -> Announce:
    r = Reader(data)
    head = [r.uint(16), r.uint(8), r.uint(8), r.uint(4), r.uint(2)]
    r.take(12 + 32)  # site, row, rack, custom
    addr, port, key = r.take(16), r.uint(2), r.take(32)
    resources = read_summaries(r)
    extensions = tlvs(r.lp())
    r.end()
    return Announce(*head, addr, port, key, resources, extensions)


class Endpoint(NamedTuple):
    transport: int
    addr: bytes
    port: int
    limits: tuple[int, int, int] | None
    geometry: tuple[int, int, int] | None


class Grant(NamedTuple):
    """The result of LEASE_ALLOC and LEASE_ATTACH."""

    lease_id: int
    expires_at: int
    tags: list[tuple[int, bytes]]

    def one(self, tag: int) -> bytes:
        (value,) = [v for t, v in self.tags if t == tag]
        return value

    @property
    def dp_key(self) -> bytes:
        return self.one(T_DP_KEY)

    @property
    def dp_auth(self) -> int:
        return self.one(T_DP_AUTH)[0]

    @property
    def generation(self) -> int:
        return int.from_bytes(self.one(T_GENERATION), "big")

    @property
    def endpoints(self) -> list[Endpoint]:
        """Each ENDPOINT with the LIMITS and BLOCK_GEOMETRY that follow it, up to the next ENDPOINT (D10)."""
        found: list[Endpoint] = []
        for tag, value in self.tags:
            if tag == T_ENDPOINT:
                found.append(Endpoint(value[0], value[1:17], int.from_bytes(value[17:19], "big"), None, None))
            elif tag == T_LIMITS and found:
                found[-1] = found[-1]._replace(limits=struct.unpack(">QII", value))
            elif tag == T_GEOMETRY and found:
                found[-1] = found[-1]._replace(geometry=struct.unpack(">IQI", value))
        return found

    def endpoint(self, transport: int) -> Endpoint:
        (found,) = [e for e in self.endpoints if e.transport == transport]
        return found


def read_grant(result: bytes) -> Grant:
    return Grant(int.from_bytes(result[:16], "big"), int.from_bytes(result[16:24], "big"), tlvs(result[24:]))


def alloc(duration: int, grace: int = 0, kind: int | None = MEM, size: int | None = 1 << 16, *wishes: bytes) -> bytes:
    """Return LEASE_ALLOC's params; None ends them before that field."""
    params = u32(duration) + u32(grace)
    if kind is None:
        return params
    params += u16(kind)
    return params if size is None else params + u64(size) + b"".join(wishes)
