"""Whom a relay asks back, how often, and what it takes for an answer."""

from discovery_rig import at, frame, rng

from fabricbios.core.asking import QUESTION_SIZE, STRANGERS_BURST, AskingBack
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import Solicit, SolicitRetry
from fabricbios.wire.frame import Frame, MsgType

HERE = UdpPeer("192.0.2.1", 5700)


def asked(
    it: AskingBack, peer: UdpPeer = HERE, seconds: float = 0.0, room: int = 300, proven: bool = False
) -> Frame | None:
    """Ask, and return the question if there is one."""
    it.ask(peer, room, proven, at(seconds))
    sent = it.datagrams_to_send()
    assert all(to == peer for _, to in sent)
    return Frame.unpack(sent[0][0]) if sent else None


def test_an_endpoint_is_asked_once_in_ten_seconds() -> None:
    it = AskingBack(9, rng())
    assert asked(it) is not None
    assert asked(it, seconds=9.9, proven=True) is None
    assert asked(it, HERE._replace(port=1)) is not None
    assert asked(it, seconds=10) is not None


def test_a_question_fills_its_room_up_to_what_an_asker_pads_to() -> None:
    it = AskingBack(9, rng())
    for port, room, size in ((1, 246, 246), (2, 1200, 1200), (3, 9000, QUESTION_SIZE)):
        question = asked(it, HERE._replace(port=port), room=room)
        assert question is not None
        assert len(question.pack()) == size


def test_strangers_share_an_allowance_and_proven_ones_need_none() -> None:
    it = AskingBack(9, rng())
    peers = [UdpPeer(f"10.0.{i >> 8}.{i & 255}", 5700) for i in range(2 * STRANGERS_BURST)]
    assert sum(asked(it, peer) is not None for peer in peers) == STRANGERS_BURST
    assert asked(it, peers[-1], proven=True) is not None


def test_only_the_answer_to_the_question_is_awaited_and_only_once() -> None:
    it = AskingBack(9, rng())
    question = asked(it)
    assert question is not None
    answer = frame(MsgType.RESPONSE, request_id=question.request_id)
    assert it.awaits(answer, HERE, at(9))
    assert not it.awaits(answer, HERE, at(10))
    assert not it.awaits(answer, HERE._replace(port=1), at())
    assert not it.awaits(answer.replace(request_id=1), HERE, at())
    assert not it.awaits(answer.replace(msg_type=MsgType.SOLICIT), HERE, at())
    it.answered(HERE)
    assert not it.awaits(answer, HERE, at())
    assert asked(it, seconds=1) is None


def test_a_cookie_is_used_once() -> None:
    it = AskingBack(9, rng())
    question = asked(it)
    assert question is not None
    for _ in range(3):
        it.repeat(SolicitRetry(b"c" * 32), HERE, at(1))
    ((again, to),) = it.datagrams_to_send()
    assert to == HERE
    assert Solicit.unpack(Frame.unpack(again).payload) == Solicit(0, cookie=b"c" * 32)
    assert Frame.unpack(again).request_id == question.request_id


def test_the_questions_remembered_are_bounded() -> None:
    it = AskingBack(9, rng(), most=10)
    for port in range(100):
        asked(it, HERE._replace(port=port))
    assert len(it) == 10
