"""The hash states a slot carries, against hashlib, which cannot export them."""

import hashlib
import hmac
import random
import struct

import pytest

from fabricbios.dataplane.keys import KeySchedule, State, blake2s_block, sha256_block
from fabricbios.model import DpAuth

RNG = random.Random(10)


def sha256_from(state: State, message: bytes, before: int) -> bytes:
    """Finish SHA-256 from a midstate that has taken `before` bytes."""
    padded = message + b"\x80" + bytes(-(len(message) + 9) % 64) + struct.pack(">Q", 8 * (before + len(message)))
    for at in range(0, len(padded), 64):
        state = sha256_block(state, padded[at : at + 64])
    return struct.pack(">8I", *state)


def blake2s_from(state: State, message: bytes) -> bytes:
    """Finish keyed BLAKE2s-128 from the state after its key block."""
    blocks = max(1, -(-len(message) // 64))
    for i in range(blocks):
        last = i == blocks - 1
        taken = 64 + (len(message) if last else 64 * (i + 1))
        state = blake2s_block(state, message[64 * i : 64 * i + 64].ljust(64, b"\0"), taken, last=last)
    return struct.pack("<8I", *state)[:16]


@pytest.mark.parametrize("length", [1, 40, 52, 55, 56, 63, 64, 65, 128, 1416])
def test_midstates_give_the_macs_of_hashlib(length: int) -> None:
    key, message = RNG.randbytes(32), RNG.randbytes(length)
    keys = KeySchedule.of(key, DpAuth.HMAC_FULL)
    inner = sha256_from(keys.ipad, message, 64)
    assert sha256_from(keys.opad, inner, 64) == hmac.digest(key, message, "sha256")
    keyed = KeySchedule.of(key, DpAuth.BLAKE2S_FULL).blake2s
    assert blake2s_from(keyed, message) == hashlib.blake2s(message, key=key, digest_size=16).digest()


def test_siphash_takes_the_first_sixteen_bytes_as_little_endian_words() -> None:
    assert KeySchedule.of(bytes(range(32)), DpAuth.SIPHASH_FULL).sip == (0x0706050403020100, 0x0F0E0D0C0B0A0908)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeySchedule.of(bytes(length), DpAuth.HMAC_FULL)
