"""Whoever sends under a node's id and address, or invents sources by the thousand, keeps no node out of a relay."""

from __future__ import annotations

import random
import tracemalloc
import zlib

from discovery_rig import announced, announcing, at, facts, frame, key, memory, node_id, pins, rng, store

from fabricbios.core import asking, checks, heard
from fabricbios.core.discovery import Discovery
from fabricbios.core.relay import Relay
from fabricbios.model import Instant
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import Filter, FilterField, FilterOp, Solicit
from fabricbios.wire.frame import Frame, FrameFlag, MsgType

NODE, RELAY = UdpPeer("192.0.2.1", 5700), UdpPeer("192.0.2.9", 5700)
ONE = key(1)


def relay(mode: str = "tofu", max_nodes: int = 64, **keys: object) -> Relay:
    return Relay(999, store(mode, **keys), max_nodes=max_nodes, rng=rng())


def forged(sender: int, count: int, moment: Instant) -> list[bytes]:
    """Return announcements that name `sender`, as alike as can be made without its key."""
    chance = random.Random(count)
    good = announcing(ONE, moment)[1][0]
    flags = {"flags": FrameFlag.SIGNED, "sender": sender}
    payload = Frame.unpack(good).payload
    signed = [frame(MsgType.ANNOUNCE, payload, **flags, nonce=moment.unix_ms + i, signature=chance.randbytes(64))
              for i in range(100)]  # fmt: skip
    return [signed[i % 100].pack() for i in range(count)]


def deliver(it: Relay, node: Discovery, moment: Instant, at_node: UdpPeer = NODE) -> list[bytes]:
    """Carry what the relay sends to the node's address there, and the node's answers back, until nobody speaks.

    Return what went elsewhere: that reached nobody.
    """
    lost = []
    while sent := it.datagrams_to_send(moment):
        lost += [data for data, to in sent if (to.host, to.port) != (at_node.host, at_node.port)]
        for data, to in sent:
            if (to.host, to.port) == (at_node.host, at_node.port):
                node.receive(data, RELAY, moment)
        for answer, to in node.datagrams_to_send(moment):
            assert to == RELAY
            it.receive(answer, at_node, moment)
    return lost


def is_listed(it: Relay) -> bool:
    return it._nodes.get(node_id(ONE)) is not None


def fill(it: Relay, sources: int, moment: Instant, first: int = 1000) -> None:
    """Let as many keys announce themselves, each from an address that nobody has."""
    for i in range(first, first + sources):
        it.receive(
            announcing(key(i), moment, ttl_secs=86_400)[1][0], UdpPeer(f"198.51.{i >> 8}.{i & 255}", 5700), moment
        )
        it.datagrams_to_send(moment)


def test_who_imitates_a_nodes_id_address_and_port_does_not_keep_it_out() -> None:
    it = relay()
    node, first = announcing(ONE, at())
    it.receive(first[0], NODE, at())
    for turn in range(1, 9):
        moment = at(30 * turn)
        it.handle_timer(moment)
        own = announced(node, moment)
        for data in (*forged(node_id(ONE), 1500, moment), *own):
            it.receive(data, NODE, moment)
        deliver(it, node, moment)
        assert is_listed(it)
    assert it.counts["announce", "rate_limited"] > 0
    assert it.counts["response", "accepted"] == 8


def test_who_floods_under_other_ids_or_other_ports_of_its_address_costs_a_node_nothing() -> None:
    it = relay(peers=pins(key(2)))
    node, first = announcing(ONE, at())
    it.receive(first[0], NODE, at())
    for data in forged(node_id(ONE), 300, at(30)):
        it.receive(data, UdpPeer(NODE.host, 4000), at(30))
    for data in forged(node_id(key(2)), 300, at(30)):
        it.receive(data, NODE, at(30))
    before = it.counts.copy()
    it.receive(announced(node, at(30))[0], NODE, at(30))
    assert it.counts - before == {("announce", "accepted"): 1}


def test_what_all_the_world_forges_is_looked_at_so_often_only_and_a_known_node_is_heard() -> None:
    it = relay()
    node, first = announcing(ONE, at())
    it.receive(first[0], NODE, at())
    forgery = Frame.unpack(announcing(key(2), at(30))[1][0]).replace(signature=bytes(64)).pack()
    for i in range(5000):
        it.receive(forgery, UdpPeer(f"10.0.{i >> 8}.{i & 255}", 5700), at(30))
    assert it.counts["announce", "forged"] == checks.SHARED_BURST
    before = it.counts.copy()
    it.receive(announced(node, at(30))[0], NODE, at(30))
    assert it.counts - before == {("announce", "accepted"): 1}


def test_a_new_node_whose_address_is_imitated_introduces_itself_all_the_same() -> None:
    it = relay()
    node, first = announcing(ONE, at())
    own = Frame.unpack(announcing(key(2), at())[1][0]).replace(signature=bytes(64)).pack()
    for _ in range(100):
        it.receive(own, NODE, at())
    it.receive(first[0], NODE, at())
    deliver(it, node, at())
    assert is_listed(it)


def test_a_table_full_of_invented_sources_has_room_for_who_answers() -> None:
    it = relay(max_nodes=64)
    fill(it, 64, at())
    node, first = announcing(ONE, at(60))
    it.receive(first[0], NODE, at(60))
    assert it.counts["announce", "full"] == 1
    deliver(it, node, at(60))
    assert is_listed(it)
    fill(it, 200, at(61), first=2000)
    it.receive(announced(node, at(90))[0], NODE, at(90))
    assert is_listed(it)
    assert len(it) == 64


def test_a_share_filled_under_a_nodes_own_address_has_room_for_who_answers() -> None:
    it = relay(max_nodes=1000)
    for i in range(64):
        it.receive(announcing(key(1000 + i), at(), ttl_secs=86_400)[1][0], NODE, at())
        it.datagrams_to_send(at())
    node, first = announcing(ONE, at(60))
    it.receive(first[0], NODE, at(60))
    assert it.counts["announce", "source_full"] == 1
    deliver(it, node, at(60))
    assert is_listed(it)
    assert len(it) == 64


def test_a_long_answer_comes_with_a_cookie_and_in_pieces() -> None:
    many = tuple(memory().replace(resource_id=i * 7919**9) for i in range(200))
    it = relay(max_nodes=64)
    fill(it, 64, at())
    node, first = announcing(ONE, at(60), facts=facts(resources=many))
    for data in first:
        it.receive(data, NODE, at(60))
    deliver(it, node, at(60))
    assert is_listed(it)
    assert it.counts["solicit_retry", "repeated"] == 1


def test_a_relay_that_asks_back_is_no_amplifier() -> None:
    it = relay(max_nodes=64)
    fill(it, 64, at())
    drawn = []
    for i in range(400):
        data = announcing(key(3000 + i), at(60 + i / 1000))[1][0]
        it.receive(data, UdpPeer(f"203.0.113.{i % 250}", 5700), at(60 + i / 1000))
        sent = it.datagrams_to_send(at(60 + i / 1000))
        assert all(len(question) <= len(data) for question, _ in sent)
        drawn += [to.host for _, to in sent]
    assert 0 < len(drawn) <= asking.STRANGERS_BURST + asking.STRANGERS_PER_SECOND
    assert len(drawn) == len(set(drawn))


def test_only_the_address_that_was_asked_can_answer() -> None:
    it = relay(max_nodes=64)
    fill(it, 64, at())
    node, first = announcing(ONE, at(60))
    it.receive(first[0], NODE, at(60))
    ((question, _),) = it.datagrams_to_send(at(60))
    node.receive(question, RELAY, at(60))
    ((retry, _),) = node.datagrams_to_send(at(60))
    it.receive(retry, UdpPeer("192.0.2.66", 5700), at(60))  # somewhere else
    it.receive(Frame.unpack(retry).replace(request_id=1).pack(), NODE, at(60))  # a guess
    assert it.datagrams_to_send(at(60)) == []
    assert it.counts["solicit_retry", "ignored"] == 2
    it.receive(retry, NODE, at(71))  # too late
    assert it.datagrams_to_send(at(71)) == []


def test_an_answer_that_is_not_the_nodes_own_word_lists_nobody() -> None:
    it = relay(max_nodes=64)
    fill(it, 64, at())
    other, _ = announcing(key(2), at(60))
    it.receive(announcing(ONE, at(60))[1][0], NODE, at(60))
    deliver(it, other, at(60))  # another node at that address answers, for itself
    assert not is_listed(it)
    assert it._nodes.get(node_id(key(2))) is not None


def test_strangers_pieces_crowd_out_no_known_nodes() -> None:
    it = relay()
    many = tuple(memory().replace(resource_id=i * 7919**9) for i in range(200))
    node, first = announcing(ONE, at(), facts=facts(resources=many))
    for data in first:
        it.receive(data, NODE, at())
    again = announced(node, at(30))
    assert len(again) > 2
    piece = Frame.unpack(announcing(key(2), at(30), facts=facts(resources=many))[1][0])
    for data in again:
        for i in range(300):
            spoofed = piece.replace(request_id=i).pack()
            it.receive(spoofed, UdpPeer(f"10.0.{i >> 8}.{i & 255}", 5700), at(30))
        it.receive(data, NODE, at(30))
    assert it.counts["announce", "accepted"] == 2


def test_what_a_few_deflated_bytes_become_takes_little_of_a_relays_memory() -> None:
    it = relay(max_nodes=256)
    same = tuple(memory() for _ in range(1700))
    tracemalloc.start()
    try:
        for i in range(300):
            (data,) = announcing(key(i), at(i / 4), facts=facts(resources=same))[1]
            assert len(data) < 600
            it.receive(data, UdpPeer(f"10.0.0.{i % 256}", 5700 + i), at(i / 4))
            it.datagrams_to_send(at(i / 4))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 256 // 16 - 1 <= len(it) <= 32
    assert held < 256 * heard.PLACE + (4 << 20)


def test_what_is_inflated_is_paid_for() -> None:
    it = relay(max_nodes=4096)
    same = tuple(memory() for _ in range(1700))
    for i in range(100):
        it.receive(announcing(key(i), at(), facts=facts(resources=same))[1][0], UdpPeer(f"10.0.0.{i}", 5700), at())
    assert 0 < len(it) < checks.SHARED_BURST // 55
    many = Solicit(1, tuple(Filter(FilterField.SITE_ID, FilterOp.GT, bytes(32)) for _ in range(4096))).pack()
    asked = frame(MsgType.SOLICIT, zlib.compress(many), flags=FrameFlag.COMPRESSED).pack()
    it.receive(asked, UdpPeer("10.1.0.1", 5700), at())
    assert it.counts["solicit", "rate_limited"] == 1


def test_a_node_of_more_sorts_of_resources_than_there_are_is_not_listed() -> None:
    it = relay()
    odd = tuple(memory().replace(resource_type=i) for i in range(heard.SORTS + 1))
    for data in announcing(ONE, at(), facts=facts(resources=odd))[1]:
        it.receive(data, NODE, at())
    assert it.counts["announce", "too_many_sorts"] == 1
    assert not is_listed(it)
