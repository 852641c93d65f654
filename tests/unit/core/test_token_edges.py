"""Tokens at their edges: the last thing that a bound lets through, and the first that it does not."""

import pytest

from fabricbios.core import token as module
from fabricbios.core.fence import SchedulerFence
from fabricbios.core.token import Scope, Tokens
from fabricbios.errors import CapacityExceeded, InsufficientPermission, InvalidToken, Refused
from fabricbios.model import NS, Instant, Perm, Status
from fabricbios.testing import peer_of
from fabricbios.wire import Range, RateLimit, SourceIp, Token
from fabricbios.wire.tlv import Tlv
from fabricbios.wire.token import attenuate, mint

KEY, PEER = b"k" * 32, peer_of(5, host="192.0.2.7")
NOW = Instant(50 * NS, 1_000_000_000)
ALLOC = Scope(Perm.ALLOC)


def tokens() -> Tokens:
    return Tokens(1, KEY, SchedulerFence())


def token(*caveats: Tlv, token_id: int = 7) -> bytes:
    made = mint(Token(token_id, 1, perms=255, issued_at=NOW.unix, expires_at=NOW.unix + 600), KEY)
    for caveat in caveats:
        made = attenuate(made, caveat)
    return made.pack()


@pytest.mark.parametrize(
    ("ranges", "most"),
    [
        ([Range(0, 10)], 10),
        ([Range(5, 10)], 10),
        ([Range(0, 10), Range(4, 10)], 6),
        ([Range(4, 10), Range(0, 10)], 6),
        ([Range(0, 10), Range(2, 3), RateLimit(100)], 3),
        ([Range(0, 4), Range(4, 4)], 0),
        ([Range(0, 4), Range(9, 4)], 0),
        ([], 1 << 64),
    ],
)
def test_ranges_leave_their_overlap(ranges: list[Tlv], most: int) -> None:
    raw = token(*ranges)
    assert tokens().verify(raw, Scope(Perm.ALLOC, size=most), PEER, NOW).token_id == 7
    with pytest.raises(InvalidToken, match="RANGE"):
        tokens().verify(raw, Scope(Perm.ALLOC, size=most + 1), PEER, NOW)


def test_every_permission_of_the_scope_is_wanted() -> None:
    narrow = mint(Token(7, 1, perms=int(Perm.ALLOC), issued_at=NOW.unix, expires_at=NOW.unix + 600), KEY).pack()
    assert tokens().verify(narrow, ALLOC, PEER, NOW).perms == Perm.ALLOC
    with pytest.raises(InsufficientPermission, match="lacks"):
        tokens().verify(narrow, Scope(Perm.ALLOC | Perm.WRITE), PEER, NOW)


def test_a_scope_means_nothing_that_it_does_not_name() -> None:
    assert Scope(Perm.ALLOC) == (Perm.ALLOC, 0, None, 0)


def test_a_revocation_ends_with_its_second() -> None:
    book = tokens()
    book.revoke(7, NOW.unix, NOW, by=1)
    assert book.verify(token(), ALLOC, PEER, NOW).token_id == 7
    book.revoke(7, NOW.unix + 1, NOW, by=1)
    with pytest.raises(InvalidToken, match="revoked"):
        book.verify(token(), ALLOC, PEER, NOW)


def test_a_full_table_of_revocations_loses_only_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REVOKED", 2)
    book = tokens()
    book.revoke(1, NOW.unix, NOW, by=1)
    book.revoke(2, NOW.unix + 1, NOW, by=1)
    book.revoke(2, NOW.unix + 9, NOW, by=1)  # already there: no room is needed
    assert book.revoked == {1: NOW.unix, 2: NOW.unix + 9}
    book.revoke(3, NOW.unix + 1, NOW, by=1)
    assert book.revoked == {2: NOW.unix + 9, 3: NOW.unix + 1}
    with pytest.raises(CapacityExceeded, match="revoked"):
        book.revoke(4, NOW.unix + 1, NOW, by=1)
    assert 4 not in book.revoked
    book.revoke(3, NOW.unix, NOW, by=1)
    assert book.revoked[3] == NOW.unix + 1  # never shortened


def rated(book: Tokens, raw: bytes, at_ns: int) -> bool:
    try:
        book.verify(raw, ALLOC, PEER, Instant(at_ns, NOW.unix_ms))
    except Refused as refusal:
        return refusal.status is not Status.RATE_LIMITED
    return True


def test_a_bucket_refills_by_the_nanosecond() -> None:
    book, raw, start = tokens(), token(RateLimit(4)), NOW.boot_ns
    assert [rated(book, raw, start) for _ in range(5)] == [True, True, True, True, False]
    assert not rated(book, raw, start + NS // 4 - 1)
    assert rated(book, raw, start + NS // 4)
    assert not rated(book, raw, start + NS // 4)
    assert [rated(book, raw, start + 9 * NS) for _ in range(5)] == [True, True, True, True, False]


def test_buckets_are_by_token_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 2)
    book = tokens()
    one, two, three = (token(RateLimit(1), token_id=i) for i in (1, 2, 3))
    assert rated(book, one, 0)
    assert rated(book, two, 0)
    assert not rated(book, one, 1)  # and is now the one used last
    assert rated(book, three, 1)
    assert not rated(book, one, 2)
    assert rated(book, two, 2)  # forgotten: its bucket is new


def test_a_token_without_a_rate_has_no_bucket() -> None:
    book = tokens()
    assert all(rated(book, token(), 0) for _ in range(9))
    assert rated(book, token(RateLimit(1)), 0)


def test_nobody_is_where_no_address_is() -> None:
    with pytest.raises(InvalidToken, match="SOURCE_IP"):
        tokens().verify(token(SourceIp(bytes(4))), ALLOC, peer_of(5, host="somewhere"), NOW)


def test_what_it_mints_it_takes() -> None:
    book = tokens()
    made = book.mint(Token(9, 1, perms=255, issued_at=NOW.unix, expires_at=NOW.unix + 1))
    assert book.verify(made.pack(), ALLOC, PEER, NOW) == made
