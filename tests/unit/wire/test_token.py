"""Tokens (D7): narrowing without the key, and nothing else."""

import pytest

from fabricbios.errors import LocalMisuse
from fabricbios.model import Perm
from fabricbios.wire import Audience, Depth, RateLimit, TimeBound, Token, attenuate, mac_holds, mint, objection

KEY = bytes(range(32))
TOKEN = mint(
    Token(token_id=1, issuer=2, audience=9, perms=Perm.READ | Perm.DELEGATE, issued_at=1000, expires_at=1300), KEY
)


def test_a_minted_token_holds_under_its_key_alone():
    assert mac_holds(TOKEN, KEY)
    assert not mac_holds(TOKEN, bytes(32))


@pytest.mark.parametrize("name", sorted(set(Token.FIELDS) - {"version", "caveats", "mac"}))
def test_every_field_is_under_the_mac(name):
    assert not mac_holds(TOKEN.replace(**{name: getattr(TOKEN, name) ^ 64}), KEY)


def test_a_holder_narrows_and_cannot_widen():
    one = attenuate(TOKEN, TimeBound(1000, 1100))
    two = attenuate(one, RateLimit(5))
    assert mac_holds(two, KEY)
    assert attenuate(attenuate(TOKEN, TimeBound(1000, 1100)), RateLimit(5)) == two
    assert not mac_holds(two.replace(caveats=one.caveats), KEY)
    assert not mac_holds(two.replace(caveats=two.caveats[::-1]), KEY)
    assert not mac_holds(two.replace(caveats=()), KEY)
    assert not mac_holds(one.replace(caveats=(TimeBound(1000, 1101),)), KEY)


def test_depth_bounds_what_follows():
    ended = attenuate(attenuate(TOKEN, Depth(1)), RateLimit(5))
    with pytest.raises(LocalMisuse, match="DEPTH"):
        attenuate(ended, RateLimit(4))
    with pytest.raises(LocalMisuse, match="DEPTH"):
        attenuate(attenuate(TOKEN, Depth(0)), Depth(9))


def test_only_delegable_tokens_are_narrowed():
    with pytest.raises(LocalMisuse, match="DELEGATE"):
        attenuate(mint(TOKEN.replace(perms=Perm.READ), KEY), RateLimit(5))
    with pytest.raises(LocalMisuse):
        attenuate(TOKEN, Depth(256))


def test_a_token_has_room_for_4096_caveats():
    crowded = TOKEN.replace(caveats=(RateLimit(1),) * 4095)
    full = attenuate(crowded, RateLimit(1))
    assert len(full.caveats) == 4096
    with pytest.raises(LocalMisuse, match="no room"):
        attenuate(full, RateLimit(1))


@pytest.mark.parametrize(
    ("caveat", "now", "peer", "why"),
    [
        (None, 970, 9, ""),
        (None, 969, 9, "not yet"),
        (None, 1299, 9, ""),
        (None, 1300, 9, "expired"),
        (None, 1000, 8, "audience"),
        (TimeBound(1000, 1100), 999, 9, "TIME_BOUND"),
        (TimeBound(1000, 1100), 1000, 9, ""),
        (TimeBound(1000, 1100), 1100, 9, "TIME_BOUND"),
        (Audience(9), 1000, 9, ""),
        (Audience(8), 1000, 9, "AUDIENCE"),
        (TimeBound(0, 1), None, None, ""),
    ],
)
def test_when_and_for_whom_it_holds(caveat, now, peer, why):
    token = TOKEN if caveat is None else attenuate(TOKEN, caveat)
    found = objection(token, now=now, peer=peer)
    assert (why in found) if why else found == ""


def test_a_token_without_audience_is_anybody_s():
    assert objection(mint(TOKEN.replace(audience=0), KEY), now=1000, peer=77) == ""
