"""Sizes and bounds that others count on, as D1, D2, D7, D10 and D11 have them."""

from fabricbios.wire import (
    GENERATION_MASK,
    OP_SHIFT,
    OfiOp,
    OfiRequest,
    circumstances,
    dataplane,
    dp_auth,
    fragmentation,
    frame,
    rules,
    token,
)
from fabricbios.wire.discovery import COOKIE_SIZE, FIRST_EXTENSION_FIELD
from fabricbios.wire.intents import ANTI_AFFINITY
from fabricbios.wire.pages import PROFILE_FBMKV_PAGE_V0
from fabricbios.wire.thermal import COLDEST, HOTTEST


def test_limits_by_transport():
    assert rules.UDP == ("udp", 65_536, 1400, 1472, 512)
    assert rules.UDP6 == ("udp", 65_536, 1400, 1452, 512)
    assert rules.QUIC[:2] == ("quic", 1 << 24)
    assert rules.QUIC[3:] == (1 << 20, 512)
    assert rules.ANY[:2] == (None, 1 << 24)
    assert min(rules.QUIC.frame, rules.ANY.frame, rules.ANY.datagram) > 1 << 32
    assert rules.BY_NAME == {None: rules.ANY, "udp": rules.UDP, "quic": rules.QUIC}
    assert (rules.LIST_LIMIT, rules.INFLATE_LIMIT, rules.MESSAGE_LIMIT) == (4096, 262_144, 1 << 20)
    assert fragmentation.MAX_FRAGMENTS == 1024


def test_sizes():
    assert (frame.HEADER_SIZE, frame.FRAG_SIZE, frame.SIGNATURE_SIZE) == (44, 8, 64)
    assert (dataplane.DP_HEADER_SIZE, dataplane.TAGGED_SIZE) == (56, 40)
    assert (dp_auth.TAG_SIZE, dp_auth.KEY_SIZE) == (16, 32)
    assert (token.FIXED_SIZE, token.ISSUED_LEEWAY, COOKIE_SIZE) == (113, 30, 32)
    assert circumstances.SKEW_MS == 30_000
    assert PROFILE_FBMKV_PAGE_V0 == 0x0A01
    assert (COLDEST, HOTTEST) == (-40_000, 150_000)


def test_bits():
    assert (FIRST_EXTENSION_FIELD, ANTI_AFFINITY) == (0x40, 0x80)
    request = OfiRequest(1, OfiOp.WRITE << OP_SHIFT | 7, 0, 3, b"abc")
    assert (request.op, request.generation & GENERATION_MASK) == (OfiOp.WRITE, 7)
    assert GENERATION_MASK == 0x00FF_FFFF_FFFF_FFFF
