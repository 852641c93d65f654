"""auth_tag of FBMU and FBBU datagrams (D10): what is covered, and the four ways to make it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from fabricbios.errors import LocalMisuse, Unsupported
from fabricbios.model import DpAuth, DpOp
from fabricbios.wire.dataplane import DP_HEADER_SIZE, TAGGED_SIZE

Buffer = bytes | bytearray | memoryview
TagAfter = Callable[[bytes, Buffer], bytes]
TagsAfter = Callable[[bytes, Iterable[bytes]], list[bytes]]
TAG_SIZE = 16
KEY_SIZE = 32
_OP_AT = 5
_MOST_HEADS = 16
_TAG_AT = 40

# Parameter bytes after the header: counted to the header by HMAC_HEADER, and before padding by the others.
_RANGE_SIZE = 12
_PADDED: dict[int, int] = {DpOp.HELLO: 16, DpOp.READ: _RANGE_SIZE, DpOp.PING: 0}
_RANGED = frozenset((DpOp.READ, DpOp.WRITE))
ANSWERS = frozenset((DpOp.HELLO_ACK, DpOp.READ_RESP, DpOp.WRITE_RESP, DpOp.PONG, DpOp.ERROR))


def question_message(datagram: Buffer, mode: DpAuth) -> bytes:
    """Return M of D10 for a whole datagram, question or answer, of at least a header; shorter if it is cut."""
    op = datagram[_OP_AT]
    with_header = _RANGE_SIZE if op in _RANGED else 0
    covered = with_header if mode == DpAuth.HMAC_HEADER else _PADDED.get(op, len(datagram))
    return bytes(datagram[:TAGGED_SIZE]) + bytes(datagram[DP_HEADER_SIZE : DP_HEADER_SIZE + covered])


class Tagger:
    """Makes tags with one lease's key. Key schedules are prepared once; each tag copies them.

    `tag_after(head, rest)` is the tag over head + rest, where `head` is one of a few: what is hashed by its end is
    prepared too, which spares BLAKE2s the block of the key. `tags_after(head, rests)` are those of many, for less.

    A tagger belongs to one thread. Raise LocalMisuse for a key that is not 32 bytes, Unsupported for a mode whose
    hash function is missing.
    """

    __slots__ = ("mode", "tag_after", "tags_after")

    def __init__(self, mode: DpAuth, dp_key: bytes) -> None:
        if len(dp_key) != KEY_SIZE:
            raise LocalMisuse(f"a dp_key is {KEY_SIZE} bytes")
        self.mode = DpAuth(mode)
        self.tag_after: TagAfter
        self.tags_after: TagsAfter
        self.tag_after, self.tags_after = _MAKERS[self.mode](bytes(dp_key))

    def tag(self, m: Buffer) -> bytes:
        """Return the 16-byte tag over M."""
        return self.tag_after(b"", m)

    def tag_of(self, datagram: Buffer) -> bytes:
        """Return the tag that a whole datagram of ours must carry (mode 0's answers repeat the question's instead)."""
        return self.tag(question_message(datagram, self.mode))


def with_tag(datagram: bytes, tag: bytes) -> bytes:
    """Return the datagram with `tag` in its place."""
    return datagram[:_TAG_AT] + tag + datagram[DP_HEADER_SIZE:]


def tag_in(datagram: Buffer) -> bytes:
    """Return the auth_tag that a datagram carries."""
    return bytes(datagram[_TAG_AT:DP_HEADER_SIZE])


_Makers = tuple[TagAfter, TagsAfter]


def _hmac(dp_key: bytes) -> _Makers:
    from cryptography.hazmat.primitives import hashes, hmac  # 33 ms to import: only who needs it

    begun = _Begun(hmac.HMAC(dp_key, hashes.SHA256()))

    def make(head: bytes, rest: Buffer) -> bytes:
        h = begun[head].copy()
        h.update(rest)
        tag: bytes = h.finalize()[:TAG_SIZE]
        return tag

    def make_all(head: bytes, rests: Iterable[bytes]) -> list[bytes]:
        copy, tags = begun[head].copy, []
        for rest in rests:
            h = copy()
            h.update(rest)
            tags.append(h.finalize()[:TAG_SIZE])
        return tags

    return make, make_all


def _blake2s(dp_key: bytes) -> _Makers:
    begun = _Begun(hashlib.blake2s(digest_size=TAG_SIZE, key=dp_key))

    def make(head: bytes, rest: Buffer) -> bytes:
        h = begun[head].copy()
        h.update(rest)
        tag: bytes = h.digest()
        return tag

    def make_all(head: bytes, rests: Iterable[bytes]) -> list[bytes]:
        copy, tags = begun[head].copy, []
        for rest in rests:
            h = copy()
            h.update(rest)
            tags.append(h.digest())
        return tags

    return make, make_all


def _siphash(dp_key: bytes) -> _Makers:
    # PyNaCl's own crypto_shorthash_siphashx24 checks and allocates for longer than the hash takes.
    from nacl._sodium import ffi, lib  # 40 ms to import: only who needs it

    if not lib.PYNACL_HAS_CRYPTO_SHORTHASH_SIPHASHX24:
        raise Unsupported("SipHash-2-4 with 128 bits", "libsodium was built without it")
    hash_into = lib.crypto_shorthash_siphashx24
    key, out = ffi.new("unsigned char[16]", dp_key[:16]), ffi.new("unsigned char[16]")
    made = ffi.buffer(out)

    def make(head: bytes, rest: Buffer) -> bytes:
        m = head + rest  # bytes, which cffi takes without a buffer object around them
        hash_into(out, m, len(m), key)
        tag: bytes = made[:]
        return tag

    def make_all(head: bytes, rests: Iterable[bytes]) -> list[bytes]:
        return [make(head, rest) for rest in rests]

    return make, make_all


class _Begun(dict[bytes, Any]):
    """Hash states after the first bytes of a message, made of the one after the key. The oldest is made again when
    there are too many."""

    def __init__(self, after_key: Any) -> None:
        super().__init__({b"": after_key})
        self._after_key = after_key

    def __missing__(self, head: bytes) -> Any:
        if len(self) == _MOST_HEADS:
            del self[next(iter(self))]
        begun = self._after_key.copy()
        begun.update(head)
        self[head] = begun
        return begun


_MAKERS: dict[DpAuth, Callable[[bytes], _Makers]] = {
    DpAuth.HMAC_HEADER: _hmac,
    DpAuth.HMAC_FULL: _hmac,
    DpAuth.BLAKE2S_FULL: _blake2s,
    DpAuth.SIPHASH_FULL: _siphash,
}
