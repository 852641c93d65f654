"""UDP 5700 as an outsider speaks it (D2, D4, D5): an asker with cookies, an announcer with a key."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time

from blackbox import codec
from blackbox.codec import Frame, Reader, u8, u16, u32, u64, u128
from blackbox.keys import Key

PATIENCE = 60.0


def solicit(
    filters: list[tuple[int, int, bytes]] | None = None, cookie: bytes = b"", query_type: int | None = None
) -> bytes:
    """Return a SOLICIT payload; filters are (field, op, start of value)."""
    listed = b"".join(u8(f) + u8(op) + value.ljust(32, b"\0") for f, op, value in filters or [])
    kind = (1 if filters else 0) if query_type is None else query_type
    return u8(kind) + u16(len(filters or [])) + listed + codec.lp(cookie)


def framed(payload: bytes, size: int, **fields) -> bytes:
    """Frame a SOLICIT, padded until the frame has `size` bytes (0: no padding)."""
    bare = len(codec.frame(codec.SOLICIT, payload, **fields))
    return codec.frame(codec.SOLICIT, payload + bytes(max(0, size - bare)), **fields)


def announce_payload(key: Key, *, sequence: int | None = None, ttl: int = 90, health: int = 0,
resources: bytes = u16(0),
                     extensions: bytes = b"", site: int = 0) -> bytes:  # fmt: skip
    """Return an ANNOUNCE payload of a node of our own."""
    now = time.time_ns()
    sequence = now // 1_000_000 if sequence is None else sequence
    mapped = bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1])
    return (
        u128(key.id) + u64(sequence) + u64(now // 10**9) + u32(ttl) + u16(health) + struct.pack(">III", site, 2, 3)
        + bytes(32) + mapped + u16(5701) + key.public + resources + codec.lp(extensions)
    )  # fmt: skip


def summary(resource_type: int = 2, flags: int = 0, resource_id: int = 1, capacity: int = 100) -> bytes:
    return u128(resource_id) + u16(resource_type) + u16(flags) + u64(capacity) + u64(capacity)


def listed(payload: bytes) -> list[bytes]:
    """Split the relay profile's RESPONSE: list(bytes)."""
    r = Reader(payload)
    found = [r.lp() for _ in range(r.uint(2))]
    r.end()
    return found


def rejoined(pieces: list[bytes], *, v2: bool) -> bytes:
    """Put a RESPONSE's fragments together by hand, holding the rules of fragmentation."""
    assert all(len(p) <= 1400 for p in pieces)
    whole, shared = b"", set()
    for n, piece in enumerate(pieces):
        msg_type, flags, length = piece[5], int.from_bytes(piece[6:8], "big"), int.from_bytes(piece[40:44], "big")
        assert msg_type == codec.RESPONSE
        assert bool(flags & codec.FRAG_V2) is v2
        last = codec.FINAL if len(pieces) > 1 else 0
        marks = flags & (codec.CONTINUED | codec.FINAL)
        assert marks == (last if n == len(pieces) - 1 else codec.CONTINUED)
        if v2:
            assert int.from_bytes(piece[44:48], "big") == len(whole)
        start = 52 if v2 else 44
        whole += piece[start : start + length]
        shared.add((piece[8:40], piece[48:52] if v2 else b""))
    assert len(shared) == 1, "fragments of one message share request_id, nonce, sender and total"
    if v2:
        assert int.from_bytes(pieces[0][48:52], "big") == len(whole)
    return whole


class Asker:
    """A UDP socket that keeps its source address, from `source` on loopback."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> bytes:
        self.socket.send(data)
        return data

    def receive_raw(self, seconds: float = PATIENCE) -> bytes | None:
        with contextlib.suppress(ConnectionRefusedError):
            if select.select([self.socket], [], [], seconds)[0]:
                return self.socket.recv(65536)
        return None

    def receive_pieces(self) -> list[bytes]:
        """Receive the frames of one answer, up to its last."""
        pieces: list[bytes] = []
        while not pieces or int.from_bytes(pieces[-1][6:8], "big") & codec.CONTINUED:
            raw = self.receive_raw()
            assert raw is not None, f"no answer, or no end after {len(pieces)} fragments"
            pieces.append(raw)
        return pieces

    def ask(self, data: bytes, seconds: float = PATIENCE) -> tuple[Frame, bytes]:
        """Send, return the answering frame and its bytes."""
        self.send(data)
        raw = self.receive_raw(seconds)
        assert raw is not None, "no answer"
        return codec.read_frame(raw), raw

    def silent(self, data: bytes, seconds: float = 0.15) -> bool:
        self.send(data)
        return self.receive_raw(seconds) is None

    def entries(self, filters: list[tuple[int, int, bytes]] | None = None) -> list[bytes]:
        """Ask as a proper client does: padded, and again with the cookie where one is wanted."""
        found, raw = self.ask(framed(solicit(filters), 1200))
        if found.msg_type == codec.SOLICIT_RETRY:
            self.send(framed(solicit(filters, Reader(found.payload).lp()), 0))
            return listed(rejoined(self.receive_pieces(), v2=False))
        return listed(rejoined([raw], v2=False))
