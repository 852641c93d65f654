"""From a dp_key to what one question costs: the hash states after the key, computed once a lease.

HMAC-SHA256 starts with a block of key ^ ipad and ends with one of key ^ opad (RFC 2104), keyed BLAKE2s
with a block that holds the key (RFC 7693, 2.9). The states after those blocks are all that a BPF
program needs, so it hashes the message alone. hashlib cannot export them: hence SHA-256 (FIPS 180-4)
and BLAKE2s (RFC 7693) compression of one block here. It is never on the path of a datagram.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import count, islice
from math import isqrt
from typing import NamedTuple

from fabricbios.model import DpAuth

_MASK = 0xFFFFFFFF
_TWICE = (1 << 32) + 1
"""A word times this is the word written twice: shifted right by n, its low half is the word rotated right by n."""
State = tuple[int, ...]


class KeySchedule(NamedTuple):
    """Eight u32 words each, as numbers; `sip` is k0, k1 as u64. Field names are those of `lease_slot`."""

    ipad: State
    opad: State
    blake2s: State
    sip: State

    @staticmethod
    def of(dp_key: bytes, auth: DpAuth) -> KeySchedule:
        """Return what `auth` needs, zeros for the rest. `dp_key` has 32 bytes (D9), else ValueError."""
        if len(dp_key) != 32:
            raise ValueError(f"a dp_key has 32 bytes, not {len(dp_key)}")
        block = dp_key.ljust(64, b"\0")
        nothing = KeySchedule((0,) * 8, (0,) * 8, (0,) * 8, (0, 0))
        if auth is DpAuth.SIPHASH_FULL:
            return nothing._replace(sip=struct.unpack_from("<2Q", dp_key))
        if auth is DpAuth.BLAKE2S_FULL:
            return nothing._replace(blake2s=blake2s_block(_blake2s_keyed(16, 32), block, 64, last=False))
        return nothing._replace(
            ipad=sha256_block(SHA256_INITIAL, bytes(b ^ 0x36 for b in block)),
            opad=sha256_block(SHA256_INITIAL, bytes(b ^ 0x5C for b in block)),
        )


def _primes() -> Iterator[int]:
    return (n for n in count(2) if all(n % d for d in range(2, isqrt(n) + 1)))


def _root_fraction(n: int, root: int) -> int:
    """Return the first 32 bits of the fraction of the square (2) or cube (3) root of n."""
    scaled, low, high = n << 32 * root, 0, n << 32
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**root <= scaled else (low, middle)
    return low & _MASK


SHA256_K: State = tuple(_root_fraction(p, 3) for p in islice(_primes(), 64))
SHA256_INITIAL: State = tuple(_root_fraction(p, 2) for p in islice(_primes(), 8))


def _sha256_words(block: bytes) -> list[int]:
    """Return the message schedule: 64 words (FIPS 180-4, 6.2.2 step 1)."""
    w = list(struct.unpack(">16I", block))
    for t in range(16, 64):
        x, y = w[t - 15] * _TWICE, w[t - 2] * _TWICE
        s0 = x >> 7 ^ x >> 18 ^ w[t - 15] >> 3
        s1 = y >> 17 ^ y >> 19 ^ w[t - 2] >> 10
        w.append((s1 + w[t - 7] + s0 + w[t - 16]) & _MASK)
    return w


def sha256_block(state: State, block: bytes) -> State:
    """Compress one 64-byte block into `state` (FIPS 180-4, 6.2.2). What sums have beyond 32 bits is cut off once."""
    a, b, c, d, e, f, g, h = state
    for k, w in zip(SHA256_K, _sha256_words(block), strict=True):
        x, y = e * _TWICE, a * _TWICE
        t1 = h + (x >> 6 ^ x >> 11 ^ x >> 25) + (g ^ e & (f ^ g)) + k + w
        t2 = (y >> 2 ^ y >> 13 ^ y >> 22) + (a & b | c & (a | b))
        a, b, c, d, e, f, g, h = (t1 + t2) & _MASK, a, b, c, (d + t1) & _MASK, e, f, g
    return tuple((s + x) & _MASK for s, x in zip(state, (a, b, c, d, e, f, g, h), strict=True))


BLAKE2S_SIGMA = tuple(
    tuple(int(digit, 16) for digit in row)
    for row in (
        "0123456789abcdef",
        "ea489fd61c02b753",
        "b8c052fdae367194",
        "7931dcbe265a40f8",
        "905724afe1bc683d",
        "2c6a0b834d75fe19",
        "c51fed4a0763928b",
        "db7ec13950f4862a",
        "6fe9b308c2d714a5",
        "a2847615fb9e3cd0",
    )
)
BLAKE2S_LANES = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def _blake2s_keyed(digest: int, key: int) -> State:
    """Return the state before the key block: the IV is SHA-256's, with the parameter block of RFC 7693, 2.8."""
    return (SHA256_INITIAL[0] ^ (digest | key << 8 | 1 << 16 | 1 << 24), *SHA256_INITIAL[1:])


def _mix(a: int, b: int, c: int, d: int, x: int, y: int) -> State:
    """RFC 7693, 3.1."""
    a = a + b + x & _MASK
    d = (d ^ a) * _TWICE >> 16 & _MASK
    c = c + d & _MASK
    b = (b ^ c) * _TWICE >> 12 & _MASK
    a = a + b + y & _MASK
    d = (d ^ a) * _TWICE >> 8 & _MASK
    c = c + d & _MASK
    return a, (b ^ c) * _TWICE >> 7 & _MASK, c, d


def blake2s_block(state: State, block: bytes, hashed: int, *, last: bool) -> State:
    """Compress one 64-byte block into `state`; `hashed` counts the bytes including it (RFC 7693, 3.2)."""
    m = struct.unpack("<16I", block)
    v = [*state, *SHA256_INITIAL]
    v[12] ^= hashed & _MASK
    v[13] ^= hashed >> 32
    v[14] ^= _MASK if last else 0
    for row in BLAKE2S_SIGMA:
        for (a, b, c, d), x, y in zip(BLAKE2S_LANES, row[::2], row[1::2], strict=True):
            v[a], v[b], v[c], v[d] = _mix(v[a], v[b], v[c], v[d], m[x], m[y])
    return tuple(h ^ v[i] ^ v[i + 8] for i, h in enumerate(state))
