"""The asking side, without a network: one Question against core's own relay, and against liars."""

import zlib

from discovery_rig import ASKER, announcing, at, facts, frame, key, memory, node_id, raw, rng, store

from fabricbios.core.relay import Relay
from fabricbios.model import Binding, Health
from fabricbios.ports import UdpPeer
from fabricbios.transport.asker import Question
from fabricbios.transport.node_entry import NodeEntry
from fabricbios.wire.discovery import SolicitResponse, SolicitRetry
from fabricbios.wire.fragmentation import cut
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.proof import add_proof

RELAY = "192.0.2.9:5700"


def question(**options: object) -> Question:
    return Question(sender=0, rng=rng(4), **options)


def relay(count: int) -> Relay:
    it = Relay(999, store(), rng=rng())
    for i in range(count):
        for data in announcing(key(i), at(), facts=facts(transports=(Binding.UDP,), health=Health.DRAINING))[1]:
            it.receive(data, UdpPeer(f"192.0.2.{i}", 5700), at())
    return it


def ask(it: Relay, asked: Question, moment=None) -> list[NodeEntry]:
    moment = moment or at()
    waiting = asked.questions_to_send(moment)
    while waiting:
        it.receive(waiting.pop(), ASKER, moment)
        for data, _ in it.datagrams_to_send(moment):
            again = asked.receive(data, RELAY, moment)
            waiting += [again] if again else []
    return asked.entries


def request_id(asked: Question) -> int:
    return Frame.unpack(asked.questions_to_send(at())[0]).request_id


def test_the_first_question_is_padded_and_takes_fragments() -> None:
    (data,) = question().questions_to_send(at())
    assert len(data) == 1200
    assert Frame.unpack(data, transport="udp").flags == FrameFlag.FRAG_V2


def test_one_node_comes_at_once_and_many_by_cookie_and_fragments() -> None:
    (one,) = ask(relay(1), question())
    assert (one.node_id, one.public_key, one.endpoint) == (node_id(key(0)), raw(key(0)), "192.0.2.1:5701")
    assert (one.transports, one.health, one.source) == ((Binding.UDP,), Health.DRAINING, RELAY)
    assert one.to_json()["resources"][0]["type"] == "mem"
    asked = question()
    found = ask(relay(40), asked)
    assert [e.node_id for e in found] == sorted(node_id(key(i)) for i in range(40))
    assert all(e.verified for e in found)
    assert asked.done


def test_silence_makes_it_ask_again_for_a_while() -> None:
    asked = question()
    times = []
    while (deadline := asked.next_deadline()) is not None and len(times) < 50:
        moment = at()._replace(boot_ns=max(deadline, at().boot_ns))
        times.append(moment.boot_ns - at().boot_ns)
        assert len(asked.questions_to_send(moment)) == 1
        assert asked.questions_to_send(moment) == []
    assert [t / 1e9 for t in times] == [0, 0.5, 1.5, 3.5, 7.5, 15.5]
    assert not asked.answered


def test_a_cookie_is_shown_once_so_that_nobody_makes_us_a_flood() -> None:
    asked = question()
    retry = frame(MsgType.SOLICIT_RETRY, SolicitRetry(bytes(32)).pack(), request_id=request_id(asked)).pack()
    assert asked.receive(retry, RELAY, at()) is not None
    assert asked.receive(retry, RELAY, at()) is None
    assert asked.receive(retry, "198.51.100.1:1", at()) is not None


def test_answers_to_other_questions_and_junk_change_nothing() -> None:
    asked = question()
    mine = request_id(asked)
    good = SolicitResponse(()).pack()
    noise = rng(6)
    for data in (
        frame(MsgType.RESPONSE, good, request_id=mine ^ 1).pack(),
        frame(MsgType.ANNOUNCE, good, request_id=mine).pack(),
        frame(MsgType.RESPONSE, good + b"x", request_id=mine).pack(),
        frame(MsgType.RESPONSE, good, request_id=mine, flags=FrameFlag.COMPRESSED).pack(),
        frame(MsgType.RESPONSE, good, request_id=mine, flags=FrameFlag.FINAL).pack(),
        *(noise(n) for n in range(0, 200, 7)),
    ):
        assert asked.receive(data, RELAY, at()) is None
    assert not asked.answered
    asked.receive(frame(MsgType.RESPONSE, good, request_id=mine).pack(), RELAY, at())
    assert asked.answered
    assert asked.entries == []


def test_the_better_proven_and_newer_word_wins_and_a_stale_one_is_none() -> None:
    asked = question(many=True)
    mine = request_id(asked)
    heard = Frame.unpack(announcing(key(1), at())[1][0])
    proven = add_proof(heard.payload, at().unix, heard.pack()[:44], heard.signature or b"")
    forged = add_proof(heard.payload.replace(memory().pack(), memory(1 << 60).pack()), 1, None, b"")

    def tell(entry: bytes, moment, peer: str) -> NodeEntry:
        asked.receive(frame(MsgType.RESPONSE, SolicitResponse((entry,)).pack(), request_id=mine).pack(), peer, moment)
        return asked.entries[0]

    assert not tell(forged, at(), "a:1").verified
    assert tell(proven, at(), "b:1").verified
    assert tell(forged, at(), "c:1").verified
    late = question(many=True)
    mine = request_id(late)
    asked = late
    assert tell(proven, at(121), "b:1").flaw == "signed too long ago, or in the future"
    assert not asked.done


def test_a_lost_piece_is_asked_for_again() -> None:
    it, asked = relay(40), question()
    (first,) = asked.questions_to_send(at())
    it.receive(first, ASKER, at())
    ((retry, _),) = it.datagrams_to_send(at())
    it.receive(asked.receive(retry, RELAY, at()), ASKER, at())
    for data, _ in it.datagrams_to_send(at())[1:]:
        asked.receive(data, RELAY, at())
    assert not asked.done
    deadline = asked.next_deadline()
    assert deadline is not None
    assert len(ask(it, asked, at(2))) == 40


def test_a_deflated_answer_is_inflated() -> None:
    asked = question()
    payload = zlib.compress(SolicitResponse(()).pack())
    answer = frame(MsgType.RESPONSE, payload, request_id=request_id(asked), flags=FrameFlag.COMPRESSED)
    asked.receive(answer.pack(), RELAY, at())
    assert asked.answered


def test_half_answers_are_bounded() -> None:
    asked = question()
    mine = request_id(asked)
    half = cut(frame(MsgType.RESPONSE, bytes(3000), request_id=mine), frag_v2=True)[0].pack()
    for i in range(1000):
        asked.receive(half, f"198.51.100.1:{i}", at())
    assert len(asked._pieces) == 256
