"""FBMU and FBBU as an outsider speaks them (D10, D11): datagrams built by hand, tags in all four modes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import select
import socket
import struct
import time
from typing import NamedTuple

from blackbox.siphash import siphash128

HELLO, HELLO_ACK, READ, READ_RESP, WRITE, WRITE_RESP, PING, PONG, ERROR = 1, 2, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31, 0x7F
OK, INVALID_LEASE, EXPIRED, FENCED, OUT_OF_RANGE, BAD_LENGTH, BUSY, INTERNAL, BAD_AUTH, STALE_WRITE = range(10)
HMAC_HEADER, HMAC_FULL, BLAKE2S, SIPHASH = range(4)
HEADER = struct.Struct(">4sBBHII16sQ16s")
PARAMS = {READ: 12, WRITE: 12}
PATIENCE = 60.0


def tag(mode: int, key: bytes, header: bytes, payload: bytes, *, covered: int) -> bytes:
    """Return auth_tag over header bytes 0-39 and the `covered` first payload bytes."""
    m = header[:40] + payload[:covered]
    if mode in (HMAC_HEADER, HMAC_FULL):
        return hmac.digest(key, m, "sha256")[:16]
    if mode == BLAKE2S:
        return hashlib.blake2s(m, key=key, digest_size=16).digest()
    return siphash128(key[:16], m)


def covered_question(mode: int, op: int, payload: bytes) -> int:
    """Return how much of a question's payload its tag covers: padding never."""
    if mode == HMAC_HEADER:
        return min(PARAMS.get(op, 0), len(payload))
    return {HELLO: 16, READ: 12, PING: 0}.get(op, len(payload))


class Reply(NamedTuple):
    magic: bytes
    op: int
    request_id: int
    lease_id: int
    nonce: int
    auth_tag: bytes
    payload: bytes
    raw: bytes

    @property
    def status(self) -> int:
        return self.payload[0]


def read_reply(raw: bytes) -> Reply:
    magic, version, op, flags, length, request_id, lease_id, nonce, auth_tag = HEADER.unpack(raw[:56])
    assert (version, flags, length) == (1, 0, len(raw) - 56)
    return Reply(magic, op, request_id, int.from_bytes(lease_id, "big"), nonce, auth_tag, raw[56:], raw)


class Line:
    """One lease's data plane over UDP, with knobs to send what no proper client would."""

    def __init__(self, port: int, lease_id: int, key: bytes, mode: int, magic: bytes = b"FBMU") -> None:
        self.lease_id, self.key, self.mode, self.magic = lease_id, key, mode, magic
        self.nonce = self.request_id = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def question(
        self, op: int, payload: bytes = b"", *, padding: int = 0, nonce: int | None = None, key: bytes | None = None,
        lease_id: int | None = None, magic: bytes | None = None, version: int = 1, flags: int = 0,
        length: int | None = None, mode: int | None = None, request_id: int | None = None, covered: int | None = None,
    ) -> bytes:  # fmt: skip
        """Build a datagram; the nonce counts up unless given."""
        if nonce is None:
            self.nonce += 1
            nonce = self.nonce
        else:
            self.nonce = max(self.nonce, nonce)
        if request_id is None:
            self.request_id += 1
            request_id = self.request_id
        whole = payload + bytes(padding)
        lease = (self.lease_id if lease_id is None else lease_id).to_bytes(16, "big")
        size = len(whole) if length is None else length
        head = HEADER.pack(magic or self.magic, version, op, flags, size, request_id, lease, nonce, bytes(16))
        mode = self.mode if mode is None else mode
        if covered is None:
            covered = covered_question(mode, op, payload)
        return head[:40] + tag(mode, self.key if key is None else key, head, whole, covered=covered) + whole

    def send(self, datagram: bytes) -> bytes:
        with contextlib.suppress(ConnectionRefusedError):
            self.socket.send(datagram)
        return datagram

    def receive(self, seconds: float = PATIENCE) -> Reply | None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                with contextlib.suppress(ConnectionRefusedError):
                    return read_reply(self.socket.recv(65536))
        return None

    def ask(self, op: int, payload: bytes = b"", **knobs) -> Reply:
        """Send a question, return its checked answer."""
        question = self.send(self.question(op, payload, **knobs))
        reply = self.receive()
        assert reply is not None, f"no answer to op {op:#x}"
        self.check(question, reply)
        return reply

    def check(self, question: bytes, reply: Reply) -> None:
        """Hold what every answer owes its question: ids, nonce, and the tag of its mode."""
        asked = read_reply(question)
        assert (reply.magic, reply.request_id, reply.lease_id, reply.nonce) == (
            self.magic, asked.request_id, asked.lease_id, asked.nonce,
        )  # fmt: skip
        if self.mode == HMAC_HEADER:
            assert reply.auth_tag == asked.auth_tag, "mode 0 repeats the question's tag"
        else:
            expected = tag(self.mode, self.key, reply.raw, reply.payload, covered=len(reply.payload))
            assert reply.auth_tag == expected, "an answer's own tag over its own bytes"

    def dropped(self, datagram: bytes) -> bool:
        """Send it, and an authentic PING behind it: only the PONG may come back."""
        self.send(datagram)
        ping = self.send(self.question(PING))
        first = self.receive()
        assert first is not None, "not even the PING was answered"
        return first.op == PONG and first.nonce == read_reply(ping).nonce and self.receive(0.02) is None

    def read(self, offset: int, length: int, **knobs) -> Reply:
        knobs.setdefault("padding", max(0, 8 + length - 12))
        return self.ask(READ, struct.pack(">QI", offset, length), **knobs)

    def write(self, offset: int, data: bytes, **knobs) -> Reply:
        return self.ask(WRITE, struct.pack(">QI", offset, len(data)) + data, **knobs)

    def hello(self, **knobs) -> Reply:
        knobs.setdefault("padding", 8)
        return self.ask(HELLO, self.lease_id.to_bytes(16, "big"), **knobs)


def message(
    magic: bytes, op: int, lease_id: int, payload: bytes = b"", *, nonce: int = 1, request_id: int = 1
) -> bytes:
    """D11: the same header before each QUIC message, auth_tag zero."""
    return (
        HEADER.pack(magic, 1, op, 0, len(payload), request_id, lease_id.to_bytes(16, "big"), nonce, bytes(16)) + payload
    )
