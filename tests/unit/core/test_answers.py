"""No unauthenticated question draws a longer answer (D5), measured over many shapes."""

import zlib

import pytest
from discovery_rig import ASKER, announcing, at, frame, key, question, rng, store

from fabricbios.core.answers import LOOKS
from fabricbios.core.discovery import Discovery
from fabricbios.core.heard import Standing
from fabricbios.core.relay import Relay
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import Announce, Filter, FilterField, FilterOp, SolicitRetry
from fabricbios.wire.fragmentation import cut
from fabricbios.wire.frame import Frame, FrameFlag, MsgType


def relay(nodes: int = 5) -> Relay:
    it = Relay(999, store(), rng=rng())
    for i in range(nodes):
        for data in announcing(key(i), at())[1]:
            it.receive(data, UdpPeer(f"192.0.2.{i}", 5700), at())
    return it


def node() -> Discovery:
    return announcing(key(1), at())[0]


def drawn(it: Relay | Discovery, *datagrams: bytes, peer: UdpPeer = ASKER, moment=None) -> list[bytes]:
    for data in datagrams:
        it.receive(data, peer, moment or at())
    return [data for data, to in it.datagrams_to_send(moment or at()) if to == peer]


def kind(data: bytes) -> MsgType:
    return MsgType(Frame.unpack(data, transport="udp").msg_type)


@pytest.mark.parametrize("make", [lambda: relay(0), lambda: relay(1), lambda: relay(5), lambda: relay(40), node])
@pytest.mark.parametrize("v2", [True, False])
def test_no_answer_is_longer_than_its_question(make, v2: bool) -> None:
    it = make()
    some = Filter(1, 1, b"\0\2" + bytes(30))
    for n, size in enumerate(range(51, 1401, 19)):
        for filters in ((), (some,)):
            for cookie in (b"", bytes(32), bytes(200)):
                peer = UdpPeer(f"198.51.{n % 250}.{n // 250 + len(cookie) + len(filters)}", 1000 + n)
                data = question(size, cookie=cookie, filters=filters, v2=v2)
                if len(data) <= 1400:
                    assert sum(map(len, drawn(it, data, peer=peer))) <= len(data)


def test_a_question_in_fragments_draws_no_longer_answer_either() -> None:
    it = relay(40)
    whole = Frame.unpack(question(9000, v2=False))
    pieces = [f.pack("udp") for f in cut(whole, frag_v2=True)]
    answer = drawn(it, *pieces)
    assert 0 < sum(map(len, answer)) <= sum(map(len, pieces))


def test_a_question_counts_as_long_as_it_came_not_as_it_inflates() -> None:
    noise = rng(2)(300)
    whole = Frame.unpack(question(9000, v2=False))
    payload = zlib.compress(whole.payload + noise)  # padding is ignored, whatever it is
    data = whole.replace(flags=FrameFlag.COMPRESSED, payload=payload).pack("udp")
    (answer,) = drawn(relay(2), data)
    assert kind(answer) == MsgType.SOLICIT_RETRY
    assert len(answer) <= len(data) < 600


def test_a_short_question_draws_nothing() -> None:
    it = relay(0)
    assert drawn(it, question(79, v2=False)) == []
    assert len(drawn(it, question(80, v2=False))) == 1
    assert it.counts["solicit", "short"] == 1


def test_a_small_answer_comes_at_once_and_a_long_one_for_a_cookie() -> None:
    assert kind(*drawn(relay(1), question(1200))) == MsgType.RESPONSE
    it = relay(40)
    (retry,) = drawn(it, question(1200))
    cookie = SolicitRetry.unpack(Frame.unpack(retry).payload).cookie
    assert len(retry) == 80
    assert len(drawn(it, question(1200, cookie=cookie))) > 5


def test_an_address_that_has_not_proved_itself_has_a_few_nodes_looked_at_whatever_it_asks_for() -> None:
    it = relay(0)
    a = Announce.unpack(Frame.unpack(announcing(key(1), at())[1][0]).payload)
    looked = []
    for i in range(3 * LOOKS):
        it._nodes.put(a.replace(node_id=i), b"entry", Standing.VOUCHED, "192.0.2.1", at())
    live = it._nodes.live
    it._nodes.live = lambda *given: (looked.append(h) or h for h in live(*given))  # type: ignore[method-assign]
    nobody = Filter(FilterField.SITE_ID, FilterOp.EQ, bytes([9] * 4).ljust(32, b"\0"))
    (retry,) = drawn(it, question(1200, filters=(nobody,)))
    assert kind(retry) == MsgType.SOLICIT_RETRY
    assert len(looked) == LOOKS + 1
    cookie = SolicitRetry.unpack(Frame.unpack(retry).payload).cookie
    assert kind(*drawn(it, question(1200, cookie=cookie, filters=(nobody,)))) == MsgType.RESPONSE
    looked.clear()
    one = Filter(FilterField.NODE_ID, FilterOp.EQ, (700).to_bytes(16, "big").ljust(32, b"\0"))
    assert kind(*drawn(it, question(1200, filters=(one,)))) == MsgType.RESPONSE
    assert [h.announce.node_id for h in looked] == [700]
    looked.clear()
    drawn(it, question(1200, filters=(nobody, nobody.replace(value=bytes(32)))))  # what contradicts itself is nobody
    assert looked == []


@pytest.mark.parametrize("minute", [0, 59, 60, 119])
def test_a_cookie_holds_this_minute_and_the_next(minute: int) -> None:
    it = relay(40)
    start = at(-(at().unix % 60))
    (retry,) = drawn(it, question(1200), moment=start)
    cookie = SolicitRetry.unpack(Frame.unpack(retry).payload).cookie
    later = at(-(at().unix % 60) + minute)
    it._nodes.live = lambda *_: list(it._nodes._nodes.values())  # type: ignore[method-assign]  # not about expiry
    assert kind(drawn(it, question(1200, cookie=cookie), moment=later)[0]) == MsgType.RESPONSE
    too_late = at(-(at().unix % 60) + 120)
    assert kind(*drawn(it, question(1200, cookie=cookie), moment=too_late)) == MsgType.SOLICIT_RETRY


@pytest.mark.parametrize(
    "other", [ASKER._replace(host="192.0.2.8"), ASKER._replace(port=1), ASKER._replace(host="::ffff:192.0.2.8")]
)
def test_a_cookie_is_for_one_address(other: UdpPeer) -> None:
    it = relay(40)
    (retry,) = drawn(it, question(1200))
    cookie = SolicitRetry.unpack(Frame.unpack(retry).payload).cookie
    assert kind(*drawn(it, question(1200, cookie=cookie), peer=other)) == MsgType.SOLICIT_RETRY


def test_unsigned_questions_are_limited_by_address() -> None:
    it = relay(1)
    assert sum(len(drawn(it, question(1200))) for _ in range(50)) == 20
    assert it.counts["solicit", "rate_limited"] == 30
    assert len(drawn(it, question(1200), peer=ASKER._replace(host="192.0.2.250"))) == 1


@pytest.mark.parametrize(
    "payload", [b"\2" + bytes(6), b"\0\0\1" + bytes(38), b"\1\0\1\1\2" + bytes(36), b"\1\0\1\0\1" + bytes(36), b""]
)
def test_a_bad_question_draws_silence(payload: bytes) -> None:
    it = relay(1)
    assert drawn(it, frame(MsgType.SOLICIT, payload.ljust(600, b"\0") if payload else b"").pack()) == []
    assert it.counts["solicit", "malformed"] == 1
