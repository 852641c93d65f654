"""Tokens in the issuer's eyes (D7): everything that must not pass, and that narrowing only narrows."""

import hmac
import random

import pytest

from fabricbios.core import token as token_module
from fabricbios.core.fence import SchedulerFence
from fabricbios.core.token import MAX_GENUINE, MAX_REVOKED, SHORT, Scope, Tokens
from fabricbios.errors import Refused
from fabricbios.model import NS, Binding, DpAuth, Instant, Perm, ResourceType, Status
from fabricbios.ports import LeaseSpec
from fabricbios.testing import peer_of
from fabricbios.wire import Audience, Depth, RateLimit, SourceIp, TimeBound, Token
from fabricbios.wire.tlv import Tlv
from fabricbios.wire.token import attenuate, mint

KEY = b"t" * 32
NOW = Instant(100 * NS, 1_000_000_000)
UNIX = NOW.unix
PEER = peer_of(5, host="192.0.2.7")
LEASE = LeaseSpec(33, 8, ResourceType.MEM, Binding.UDP, 1, 5, 4, DpAuth.HMAC_HEADER, b"", 3, 0)


def tokens(epoch: int = 0) -> Tokens:
    return Tokens(1, KEY, SchedulerFence(epoch))


def token(*caveats: Tlv, key: bytes = KEY, **fields: int) -> bytes:
    base = {"issuer": 1, "perms": 255, "issued_at": UNIX, "expires_at": UNIX + 60, **fields}
    made = mint(Token(token_id=7, **base), key)
    for caveat in caveats:
        made = attenuate(made, caveat)
    return made.pack()


def status(raw: bytes, scope: Scope | None = None, peer=PEER, now: Instant = NOW, of: Tokens | None = None) -> Status:
    try:
        (of or tokens()).verify(raw, scope or Scope(Perm.ALLOC), peer, now)
    except Refused as refusal:
        return refusal.status
    return Status.OK


@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        token()[:-1],
        token() + b"\0",
        token(key=b"x" * 32),
        token(issuer=2),
        token(audience=6),
        token(expires_at=UNIX),
        token(issued_at=UNIX + 31),
        token(TimeBound(UNIX + 1, UNIX + 9)),
        token(TimeBound(0, UNIX)),
        token(SourceIp(bytes((192, 0, 2, 8)))),
        token(Audience(6)),
        token(Audience(5), Audience(6)),
    ],
)
def test_what_is_not_a_valid_token(raw: bytes) -> None:
    assert status(raw) is Status.INVALID_TOKEN


@pytest.mark.parametrize(
    "raw",
    [
        token(),
        token(audience=5),
        token(issued_at=UNIX + 30),
        token(TimeBound(UNIX, UNIX + 1)),
        token(SourceIp(bytes((192, 0, 2, 7)))),
        token(SourceIp(bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 7)))),
        token(Audience(5), Depth(1), Audience(5)),
    ],
)
def test_what_is(raw: bytes) -> None:
    assert status(raw) is Status.OK


def test_an_ipv6_source_with_a_zone() -> None:
    raw = token(SourceIp(bytes.fromhex("fe80000000000000" + "00000000000000aa")))
    assert status(raw, peer=peer_of(5, host="fe80::aa%eth0")) is Status.OK
    assert status(raw, peer=peer_of(5, host="nonsense")) is Status.INVALID_TOKEN


def test_no_token_and_too_little_of_one() -> None:
    assert status(b"") is Status.INSUFFICIENT_PERM
    assert status(token(perms=int(Perm.RENEW))) is Status.INSUFFICIENT_PERM
    assert status(token(resource_id=9), Scope(Perm.ALLOC, 8)) is Status.INSUFFICIENT_PERM
    assert status(token(resource_id=8), Scope(Perm.ALLOC, 8)) is Status.OK
    assert status(token(lease_id=34), Scope(Perm.RENEW, 8, LEASE)) is Status.INSUFFICIENT_PERM
    assert status(token(lease_id=33), Scope(Perm.ALLOC, 8)) is Status.INSUFFICIENT_PERM


def test_a_token_of_an_older_generation() -> None:
    assert status(token(lease_id=33, generation=4), Scope(Perm.RENEW, 8, LEASE)) is Status.OK
    for generation in (3, 5):
        raw = token(lease_id=33, generation=generation)
        assert status(raw, Scope(Perm.RENEW, 8, LEASE)) is Status.INVALID_TOKEN


def test_a_caveat_cannot_be_taken_off_or_loosened() -> None:
    narrow = Token.unpack(token(RateLimit(1), Audience(6)))
    assert status(narrow.replace(caveats=narrow.caveats[:1]).pack()) is Status.INVALID_TOKEN
    assert status(narrow.replace(caveats=()).pack()) is Status.INVALID_TOKEN
    assert status(narrow.replace(caveats=(RateLimit(1), Audience(5))).pack()) is Status.INVALID_TOKEN


@pytest.mark.parametrize(
    ("field", "value"),
    [("perms", 511), ("expires_at", UNIX + 99), ("audience", 5), ("resource_id", 1), ("epoch", 9), ("token_id", 8)],
)
def test_a_field_cannot_be_changed(field: str, value: int) -> None:
    changed = Token.unpack(token(resource_id=3)).replace(**{field: value})
    assert status(changed.pack()) is Status.INVALID_TOKEN


def test_flipping_any_bit_breaks_it() -> None:
    raw, rng = token(RateLimit(9)), random.Random(1)
    for _ in range(200):
        broken = bytearray(raw)
        broken[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        assert status(bytes(broken)) is Status.INVALID_TOKEN


def by_hand(raw: bytes, *caveats: str) -> bytes:
    """Append caveats as a holder with a debugger would: the chain is right, the sense is not."""
    head, mac = raw[:113], raw[-32:]
    for caveat in caveats:
        mac = hmac.digest(mac, bytes.fromhex(caveat), "sha256")
    return head + len(caveats).to_bytes(2, "big") + bytes.fromhex("".join(caveats)) + mac


RATE, DEPTH_0, DEPTH_1, UNKNOWN = "04000400000003", "05000100", "05000101", "09000100"


def test_depth_delegate_and_unknown_caveats_are_judged_on_arrival() -> None:
    assert status(by_hand(token(), RATE)) is Status.OK
    assert status(by_hand(token(), DEPTH_1, RATE)) is Status.OK
    assert status(by_hand(token(), DEPTH_0, RATE)) is Status.INVALID_TOKEN
    assert status(by_hand(token(), DEPTH_1, RATE, RATE)) is Status.INVALID_TOKEN
    assert status(by_hand(token(), UNKNOWN)) is Status.INVALID_TOKEN
    assert status(by_hand(token(perms=255 - int(Perm.DELEGATE)), RATE)) is Status.INVALID_TOKEN


def test_rate_limit_is_a_bucket_by_token() -> None:
    book, raw = tokens(), token(RateLimit(5), RateLimit(2))
    assert [status(raw, of=book) for _ in range(3)] == [Status.OK, Status.OK, Status.RATE_LIMITED]
    later = Instant(NOW.boot_ns + NS // 2, NOW.unix_ms)
    assert [status(raw, of=book, now=later) for _ in range(2)] == [Status.OK, Status.RATE_LIMITED]
    assert status(token(RateLimit(0)), of=tokens()) is Status.RATE_LIMITED


def test_stale_epochs() -> None:
    assert status(token(epoch=3), of=tokens(epoch=4)) is Status.STALE_EPOCH
    assert status(token(epoch=4), of=tokens(epoch=4)) is Status.OK
    assert status(token(epoch=0), of=tokens(epoch=4)) is Status.OK


def test_revocations_end_and_are_bounded_but_never_dropped() -> None:
    book = tokens()
    book.revoke(7, UNIX + 10, NOW, by=1)
    book.revoke(7, UNIX + 5, NOW, by=1)
    assert status(token(), of=book) is Status.INVALID_TOKEN
    assert status(token(), of=book, now=Instant(0, (UNIX + 10) * 1000)) is Status.OK
    for token_id in range(100, 100 + MAX_REVOKED - 1):
        book.revoke(token_id, UNIX + 10, NOW, by=token_id)
    with pytest.raises(Refused, match="CAPACITY_EXCEEDED"):
        book.revoke(1, UNIX + 10, NOW, by=1)
    book.revoke(1, UNIX + 99, Instant(0, (UNIX + 20) * 1000), by=1)
    assert len(book.revoked) == 1


def test_a_token_known_by_its_bytes_is_judged_anew_each_time() -> None:
    of, raw, later = tokens(), token(audience=5), Instant(200 * NS, NOW.unix_ms + 61_000)
    assert status(raw, of=of) is Status.OK
    assert status(raw[:-1] + bytes((raw[-1] ^ 1,)), of=of) is Status.INVALID_TOKEN
    assert status(raw, peer=peer_of(6), of=of) is Status.INVALID_TOKEN
    assert status(raw, now=later, of=of) is Status.INVALID_TOKEN
    assert status(raw, of=of) is Status.OK
    of.revoke(7, UNIX + 60, NOW, by=1)
    assert status(raw, of=of) is Status.INVALID_TOKEN


def test_no_more_tokens_are_known_than_there_is_room_for() -> None:
    of = tokens()
    for issued_at in range(MAX_GENUINE + 1):
        assert status(token(issued_at=issued_at), of=of) is Status.OK
    long = token(*(TimeBound(0, UNIX + n) for n in range(1, 40)))
    assert len(long) > SHORT
    assert status(long, of=of) is Status.OK
    assert len(of._genuine) == MAX_GENUINE
    assert long not in of._genuine


def test_who_invents_ids_fills_no_more_than_its_share_of_the_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_module, "MAX_REVOKED_BY", 2)
    book = tokens()
    for token_id in (1, 2):
        book.revoke(token_id, UNIX + 10, NOW, by=9)
    with pytest.raises(Refused, match="too many"):
        book.revoke(3, UNIX + 10, NOW, by=9)
    book.revoke(2, UNIX + 20, NOW, by=9)  # one that is there may be made longer
    book.revoke(3, UNIX + 10, NOW, by=2)
    later = Instant(0, (UNIX + 15) * 1000)
    book.revoke(4, UNIX + 30, later, by=9)
    assert set(book.revoked) == {2, 4}
