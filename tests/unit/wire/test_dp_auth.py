"""auth_tag (D10): what each mode covers, and that nothing else is; the tags themselves are golden vectors."""

import hashlib
import hmac

import pytest

from fabricbios.errors import LocalMisuse
from fabricbios.model import DpAuth
from fabricbios.wire import (
    FbmuHello,
    FbmuPing,
    FbmuRead,
    FbmuReadResp,
    FbmuWrite,
    Hello,
    Ping,
    Read,
    ReadResp,
    Tagger,
    Write,
)
from fabricbios.wire.dp_auth import question_message, tag_in, with_tag

KEY = bytes(range(32))
WRITE = FbmuWrite(1, 2, 3, Write(7, 4, b"data")).pack()
READ = FbmuRead(1, 2, 3, Read(7, 4, padding=20)).pack()
FULL = [DpAuth.HMAC_FULL, DpAuth.BLAKE2S_FULL, DpAuth.SIPHASH_FULL]


def covered(datagram: bytes, mode: DpAuth) -> set[int]:
    """Return the places whose change changes M."""
    m = question_message(datagram, mode)
    changed = (bytes([*datagram[:i], datagram[i] ^ 1, *datagram[i + 1 :]]) for i in range(len(datagram)))
    return {i for i, other in enumerate(changed) if i != 5 and question_message(other, mode) != m}


HEAD = set(range(40)) - {5}  # byte 5, the op, says how much is covered: it is covered too


def test_hmac_header_covers_header_and_parameters():
    assert covered(WRITE, DpAuth.HMAC_HEADER) == HEAD | set(range(56, 68))
    assert covered(READ, DpAuth.HMAC_HEADER) == HEAD | set(range(56, 68))
    assert covered(FbmuHello(1, 2, 3, Hello(2)).pack(), DpAuth.HMAC_HEADER) == HEAD


@pytest.mark.parametrize("mode", FULL)
def test_the_others_cover_all_but_padding(mode):
    assert covered(WRITE, mode) == HEAD | set(range(56, 72))
    assert covered(READ, mode) == HEAD | set(range(56, 68))
    assert covered(FbmuHello(1, 2, 3, Hello(2, padding=9)).pack(), mode) == HEAD | set(range(56, 72))
    assert covered(FbmuPing(1, 2, 3, Ping(9)).pack(), mode) == HEAD
    answer = FbmuReadResp(1, 2, 3, ReadResp(0, 3, b"abc")).pack()
    assert covered(answer, mode) == HEAD | set(range(56, len(answer)))


@pytest.mark.parametrize("mode", list(DpAuth))
def test_the_op_is_covered(mode):
    assert question_message(WRITE, mode)[5] == 0x20


@pytest.mark.parametrize("mode", list(DpAuth))
def test_tags_are_16_bytes_and_keyed(mode):
    tagger = Tagger(mode, KEY)
    assert len(tagger.tag(b"m")) == 16
    assert tagger.tag(b"m") == tagger.tag(memoryview(b"m")) == Tagger(mode, KEY).tag(b"m")
    assert tagger.tag(b"m") != Tagger(mode, bytes(32)).tag(b"m")
    assert tagger.tag_of(WRITE) == tagger.tag(question_message(WRITE, mode))


@pytest.mark.parametrize("mode", DpAuth)
def test_what_is_prepared_after_a_head_is_the_tag_of_the_whole(mode):
    tagger = Tagger(mode, KEY)
    for length in (*range(100), 5, 6):  # more heads than are kept
        head = bytes(range(length))
        assert tagger.tag_after(head, b"rest") == tagger.tag(head + b"rest")
        assert tagger.tag_after(head, memoryview(b"")) == tagger.tag(head)
        assert tagger.tags_after(head, iter([b"rest", b"", b"rest"])) == [
            tagger.tag(head + m) for m in (b"rest", b"", b"rest")
        ]
    assert tagger.tags_after(b"head", []) == []
    assert tagger.mode is mode


def test_against_the_standard_library():
    m = question_message(WRITE, DpAuth.HMAC_FULL)
    assert Tagger(DpAuth.HMAC_FULL, KEY).tag(m) == hmac.digest(KEY, m, "sha256")[:16]
    assert Tagger(DpAuth.BLAKE2S_FULL, KEY).tag(m) == hashlib.blake2s(m, key=KEY, digest_size=16).digest()


def test_siphash_against_its_reference_vector():
    """SipHash-2-4-128 of the empty string under key 00..0f, from the reference implementation."""
    assert Tagger(DpAuth.SIPHASH_FULL, KEY).tag(b"").hex() == "a3817f04ba25a8e66df67214c7550293"


def test_a_key_is_32_bytes():
    with pytest.raises(LocalMisuse):
        Tagger(DpAuth.BLAKE2S_FULL, bytes(16))


def test_tags_go_in_and_out_of_a_datagram():
    assert tag_in(with_tag(WRITE, b"t" * 16)) == b"t" * 16
    assert with_tag(WRITE, bytes(16)) == WRITE
