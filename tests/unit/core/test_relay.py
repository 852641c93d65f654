"""What a relay hears, refuses, forgets and tells. Every rule of D4 and of the relay discovery profile."""

import pytest
from discovery_rig import (
    ASKER,
    announced,
    announcing,
    at,
    facts,
    frame,
    key,
    memory,
    node_id,
    pins,
    question,
    raw,
    rng,
    store,
)

from fabricbios.core.discovery import Discovery
from fabricbios.core.relay import Relay
from fabricbios.model import ResourceType
from fabricbios.ports import TrustedKeys, UdpPeer
from fabricbios.wire import RevokeBroadcast
from fabricbios.wire.discovery import Announce, Filter, SolicitResponse, SolicitRetry, Withdraw, WithdrawReason
from fabricbios.wire.enrolment import issue
from fabricbios.wire.fragmentation import Assembly
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.proof import Entry, verify_entry
from fabricbios.wire.seal import sign_frame

NODE = UdpPeer("192.0.2.1", 5700)
ONE, TWO, CA = key(1), key(2), key(3)


def relay(mode: str = "tofu", max_nodes: int = 8, **keys: object) -> Relay:
    return Relay(999, store(mode, **keys), max_nodes=max_nodes, rng=rng())


def hear(it: Relay, *datagrams: bytes, moment=None, peer: UdpPeer = NODE) -> str:
    """Hand datagrams in; return what became of the last one."""
    before = it.counts.copy()
    for data in datagrams:
        it.receive(data, peer, moment or at())
    new = it.counts - before
    return ", ".join(sorted({result for _, result in new}))


def ask(it: Relay, moment=None, v2: bool = True, asker: UdpPeer = ASKER, **solicit: object) -> list[Entry]:
    """Ask with a good cookie; return all entries."""
    moment = moment or at()
    it.datagrams_to_send(moment)  # whom it asks back is another matter (tests/hostile/test_discovery_crowding.py)
    it.receive(question(v2=v2, **solicit), asker, moment)
    frames = sent(it, moment)
    if frames[0].msg_type == MsgType.SOLICIT_RETRY:
        cookie = SolicitRetry.unpack(frames[0].payload).cookie
        it.receive(question(cookie=cookie, v2=v2, **solicit), asker, moment)
        frames = sent(it, moment)
    assembly = Assembly(frames[0])
    whole = frames[0].payload if len(frames) == 1 else [assembly.add(f) for f in frames] and assembly.payload()
    return [verify_entry(e) for e in SolicitResponse.unpack(whole, transport="udp").announce_payload_bytes]


def sent(it: Relay, moment) -> list[Frame]:
    return [Frame.unpack(data, transport="udp") for data, _ in it.datagrams_to_send(moment)]


def signed(private, msg_type: MsgType, payload: bytes, **fields: object) -> bytes:
    fields = {"sender": node_id(private), **fields}
    return sign_frame(frame(msg_type, payload, **fields), private).pack()


def test_an_announcement_is_heard_listed_and_proven_end_to_end() -> None:
    it = relay()
    _, datagrams = announcing(ONE, at())
    assert hear(it, *datagrams) == "accepted"
    (found,) = ask(it)
    assert found.proven, found.flaw
    assert found.announce.node_id == node_id(ONE)
    assert found.seen == at().unix


def test_a_tampering_relay_is_caught() -> None:
    it = relay()
    _, datagrams = announcing(ONE, at())
    hear(it, *datagrams)
    heard = it._nodes.get(node_id(ONE))
    assert heard is not None
    forged = heard.listed.replace(heard.announce.resources[0].pack(), memory(1 << 50).pack())
    assert forged != heard.listed
    it._nodes._nodes[node_id(ONE)] = heard._replace(listed=forged)
    (found,) = ask(it)
    assert not found.proven
    assert "signature" in found.flaw


@pytest.mark.parametrize("v2", [True, False])
def test_a_long_list_comes_in_fragments_that_the_asker_takes(v2: bool) -> None:
    it = relay(max_nodes=20)
    for i in range(20):
        hear(it, *announcing(key(i), at())[1], peer=UdpPeer(f"192.0.2.{i}", 5700))
    found = ask(it, v2=v2)
    assert {e.announce.node_id for e in found} == {node_id(key(i)) for i in range(20)}
    assert all(e.proven for e in found)


def test_a_long_announcement_comes_in_fragments_and_has_no_proof() -> None:
    it = relay()
    many = tuple(memory().replace(resource_id=i * 7919**9) for i in range(200))
    _, datagrams = announcing(ONE, at(), facts=facts(resources=many))
    assert len(datagrams) > 1
    assert hear(it, *reversed(datagrams)) == "accepted"
    (found,) = ask(it)
    assert len(found.announce.resources) == 200
    assert found.flaw == "the relay has no proof of it"


def test_one_forged_fragment_spoils_the_message() -> None:
    it = relay()
    many = tuple(memory().replace(resource_id=i * 7919**9) for i in range(200))
    _, datagrams = announcing(ONE, at(), facts=facts(resources=many))
    datagrams[-1] = datagrams[-1][:-1] + bytes([datagrams[-1][-1] ^ 1])
    assert hear(it, *datagrams) == "forged"
    assert len(it) == 0


def test_a_deflated_announcement_is_heard_without_proof() -> None:
    it = relay()
    same = tuple(memory() for _ in range(60))
    _, datagrams = announcing(ONE, at(), facts=facts(resources=same))
    assert len(datagrams) == 1
    assert Frame.unpack(datagrams[0]).flags & FrameFlag.COMPRESSED
    assert hear(it, *datagrams) == "accepted"
    assert not ask(it)[0].proven


def test_an_entry_lasts_its_ttl_and_no_longer() -> None:
    it = relay()
    hear(it, *announcing(ONE, at(), ttl_secs=90)[1])
    assert len(ask(it, at(89))) == 1
    assert ask(it, at(90)) == []
    assert it.next_deadline() is not None
    it.handle_timer(at(91))
    assert len(it) == 0
    assert it.next_deadline() is None
    assert it.counts["announce", "expired"] == 1


def test_only_a_higher_sequence_is_news() -> None:
    it = relay()
    node, first = announcing(ONE, at(), interval_secs=1)
    second = announced(node, at(1))
    assert hear(it, *second, moment=at(1)) == "accepted"
    assert hear(it, *first, moment=at(1)) == "old"
    assert hear(it, *second, moment=at(1)) == "replayed"


def test_a_replay_long_after_is_refused_by_its_date() -> None:
    it = relay()
    _, first = announcing(ONE, at())
    assert hear(it, *first, moment=at(1, clock_error=-32)) == "skewed"
    assert hear(it, *first, moment=at(31)) == "skewed"


@pytest.mark.parametrize("spoil", ["signature", "payload", "sender", "unsigned", "another key"])
def test_what_is_not_the_nodes_own_word_is_dropped(spoil: str) -> None:
    it = relay()
    good = Frame.unpack(announcing(ONE, at())[1][0])
    bad = {
        "signature": good.replace(signature=bytes(64)),
        "payload": good.replace(payload=good.payload[:-1] + b"\1"),
        "sender": sign_frame(good.replace(sender=node_id(TWO)), ONE),
        "unsigned": good.replace(flags=0, signature=None),
        "another key": sign_frame(good, TWO),
    }[spoil]
    assert hear(it, bad.pack()) in ("forged", "unknown_key", "unsigned")
    assert len(it) == 0
    assert hear(it, good.pack()) == "accepted"  # and has cost the node nothing


def test_an_announcement_of_anothers_id_is_refused() -> None:
    good = Frame.unpack(announcing(ONE, at())[1][0])
    lie = Announce.unpack(good.payload).replace(node_id=node_id(TWO)).pack()
    assert hear(relay(), signed(ONE, MsgType.ANNOUNCE, lie)) == "wrong_id"


def test_a_node_cannot_bring_a_relays_tags() -> None:
    it = relay()
    hear(it, *announcing(ONE, at())[1])
    listed = it._nodes.get(node_id(ONE)).listed
    assert hear(relay(), signed(ONE, MsgType.ANNOUNCE, listed)) == "relay_tags"


def test_withdraw_removes_and_nothing_old_comes_back() -> None:
    it = relay()
    node, first = announcing(ONE, at())
    hear(it, *first)
    node.withdraw(WithdrawReason.MAINTENANCE, at(1))
    (goodbye,) = announced(node, at(1))
    assert hear(it, goodbye, moment=at(1)) == "accepted"
    assert len(it) == 0
    again = Announce.unpack(Frame.unpack(first[0]).payload)  # the same word, freshly signed
    assert hear(it, signed(ONE, MsgType.ANNOUNCE, again.pack(), nonce=at(2).unix_ms), moment=at(2)) == "old"
    assert hear(it, goodbye, moment=at(2)) == "unknown_key"


def test_the_old_withdraw_counts_signed_and_fresh_only() -> None:
    it = relay()
    hear(it, *announcing(ONE, at())[1])
    short = node_id(ONE).to_bytes(16, "big")
    assert hear(it, frame(MsgType.WITHDRAW, short, sender=node_id(ONE)).pack()) == "unsigned"
    stale = signed(ONE, MsgType.WITHDRAW, short, nonce=at(-40).unix_ms)
    assert hear(it, stale) == "skewed"
    assert len(it) == 1
    fresh = signed(ONE, MsgType.WITHDRAW, short, nonce=at(1).unix_ms)
    assert hear(it, fresh, moment=at(1)) == "accepted"
    assert len(it) == 0


def test_a_withdraw_is_for_oneself_and_newer_than_the_announcement() -> None:
    it = relay()
    for private in (ONE, TWO):
        hear(it, *announcing(private, at())[1])
    of_another = Withdraw(node_id(TWO), at(5).unix_ms, 0).pack()
    assert hear(it, signed(ONE, MsgType.WITHDRAW, of_another, nonce=at(1).unix_ms)) == "wrong_id"
    older = Withdraw(node_id(ONE), at(-5).unix_ms, 0).pack()
    assert hear(it, signed(ONE, MsgType.WITHDRAW, older, nonce=at(2).unix_ms)) == "old"
    assert hear(it, signed(TWO, MsgType.WITHDRAW, of_another, sender=node_id(ONE))) == "forged"
    assert len(it) == 2


@pytest.mark.parametrize(
    ("mode", "who", "result"),
    [
        ("tofu", "stranger", "accepted"),
        ("pinned", "stranger", "untrusted"),
        ("pinned", "pinned", "accepted"),
        ("pinned", "certified", "untrusted"),
        ("certified", "certified", "accepted"),
        ("certified", "stranger", "untrusted"),
        ("certified", "pinned", "accepted"),
    ],
)
def test_whom_a_relay_lists(mode: str, who: str, result: str) -> None:
    it = relay(mode, peers=pins(ONE) if who == "pinned" else {}, controllers=pins(CA))
    now = at().unix
    certificate = issue(CA, raw(ONE), now - 5, now + 500).pack() if who == "certified" else b""
    _, datagrams = announcing(ONE, at(), facts=facts(certificate=certificate))
    assert hear(it, *datagrams) == result


def test_a_full_relay_makes_room_for_who_is_vouched_for_only() -> None:
    it = relay(max_nodes=2, peers=pins(CA))
    for private in (ONE, TWO):
        assert hear(it, *announcing(private, at())[1]) == "accepted"
    assert hear(it, *announcing(key(4), at())[1]) == "full"
    assert hear(it, *announcing(CA, at())[1]) == "accepted, displaced"
    assert {e.announce.node_id for e in ask(it)} == {node_id(TWO), node_id(CA)}


def test_nobody_takes_the_place_of_who_is_vouched_for() -> None:
    it = relay(max_nodes=2, peers=pins(ONE, TWO))
    for private in (ONE, TWO):
        assert hear(it, *announcing(private, at())[1]) == "accepted"
    assert hear(it, *announcing(key(4), at())[1]) == "full"


def test_one_source_has_its_share_and_no_more() -> None:
    it = relay(max_nodes=1000)
    said = [hear(it, *announcing(key(i), at())[1]) for i in range(65)]
    assert said == ["accepted"] * 64 + ["source_full"]
    _, again = announcing(key(0), at(1))
    assert hear(it, *again, moment=at(1)) == "accepted"  # who is listed stays so
    assert hear(it, *announcing(key(65), at())[1], peer=UdpPeer("192.0.2.2", 5700)) == "accepted"


def test_the_nodes_of_one_ipv6_site_are_of_one_source() -> None:
    it = relay(max_nodes=1000)
    hosts = [UdpPeer(f"2001:db8::{i:x}", 5700) for i in range(65)]
    said = [hear(it, *announcing(key(i), at())[1], peer=host) for i, host in enumerate(hosts)]
    assert said[-1] == "source_full"
    assert hear(it, *announcing(key(65), at())[1], peer=UdpPeer("2001:db8:0:1::1", 5700)) == "accepted"


def test_the_machine_itself_is_held_to_no_share() -> None:
    it = relay(max_nodes=1000)
    hosts = [UdpPeer(host, 5700) for host in ("127.0.0.1", "::1", "::ffff:127.0.0.2")]
    assert {hear(it, *announcing(key(i), at())[1], peer=hosts[i % 3]) for i in range(80)} == {"accepted"}


def test_a_full_relay_takes_from_the_source_with_the_most() -> None:
    it = relay(max_nodes=4)
    for i in range(4):
        hear(it, *announcing(key(i), at())[1])
    others = [UdpPeer(f"192.0.2.{i}", 5700) for i in (2, 3, 4)]
    assert hear(it, *announcing(key(5), at())[1], peer=others[0]) == "accepted, displaced"
    assert hear(it, *announcing(key(6), at())[1], peer=others[1]) == "accepted, displaced"
    assert hear(it, *announcing(key(7), at())[1], peer=others[0]) == "full"  # two of each would be no fairer
    listed = {e.announce.node_id for e in ask(it)}
    assert listed == {node_id(key(i)) for i in (2, 3, 5, 6)}


def test_an_entry_that_is_gone_makes_room_in_its_sources_share() -> None:
    it = relay(max_nodes=1000)
    for i in range(64):
        hear(it, *announcing(key(i), at())[1])
    it.handle_timer(at(91))
    assert len(it) == 0
    assert hear(it, *announcing(key(64), at(91))[1], moment=at(91)) == "accepted"


def test_forgeries_under_a_known_id_are_looked_at_so_often_only() -> None:
    it, elsewhere = relay(peers=pins(ONE)), UdpPeer("192.0.2.66", 5700)
    _, datagrams = announcing(ONE, at())
    forged = datagrams[0][:-1] + bytes([datagrams[0][-1] ^ 1])
    said = [hear(it, forged, peer=elsewhere) for _ in range(21)]
    assert said == ["forged"] * 20 + ["rate_limited"]
    assert hear(it, *datagrams, peer=elsewhere) == "rate_limited"
    assert hear(it, *datagrams) == "accepted"  # of the node's own address nobody said anything wrong
    assert hear(it, *announcing(ONE, at(1))[1], peer=elsewhere, moment=at(1)) == "accepted"


def test_who_is_distrusted_is_listed_no_more() -> None:
    trust = store("pinned", peers=pins(ONE, TWO))
    it = Relay(999, trust, max_nodes=8, rng=rng())
    for private in (ONE, TWO):
        hear(it, *announcing(private, at())[1])
    trust.reload(TrustedKeys(peers=pins(TWO)))
    it.trust_changed(at(1))
    assert {e.announce.node_id for e in ask(it, at(1))} == {node_id(TWO)}
    assert it.counts["announce", "distrusted"] == 1


def test_a_broadcast_of_revocations_is_counted_and_draws_nothing() -> None:
    it = relay(peers=pins(ONE))
    payload = RevokeBroadcast(node_id(ONE), (1, 2), at().unix + 60).pack()
    assert hear(it, signed(ONE, MsgType.REVOKE_BROADCAST, payload)) == "ignored"
    assert sent(it, at()) == []


def test_filters_choose() -> None:
    it = relay()
    hear(it, *announcing(ONE, at())[1])
    gpu = Filter(1, 1, ResourceType.GPU.to_bytes(2, "big").ljust(32, b"\0"))
    mem = Filter(1, 1, ResourceType.MEM.to_bytes(2, "big").ljust(32, b"\0"))
    assert ask(it, filters=(gpu,)) == []
    assert len(ask(it, filters=(mem,))) == 1


def test_what_is_too_much_for_one_answer_comes_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabricbios.core.answers.MESSAGE_LIMIT", 1000)
    it = relay(max_nodes=9)
    for i in range(9):
        hear(it, *announcing(key(i), at())[1])
    rounds = [{e.announce.node_id for e in ask(it)} for _ in range(9)]
    assert max(map(len, rounds)) < 9
    assert set.union(*rounds) == {node_id(key(i)) for i in range(9)}


def test_garbage_is_counted_and_never_raises() -> None:
    it = relay()
    noise = rng(5)
    for i in range(300):
        it.receive(noise(i), NODE, at(i))
        it.receive(frame(MsgType.ANNOUNCE, noise(i)).pack(), NODE, at(i))
        it.receive(signed(ONE, MsgType.ANNOUNCE, noise(i), nonce=at(i).unix_ms), NODE, at(i))
        it.receive(signed(ONE, MsgType.SOLICIT, noise(i), nonce=at(i).unix_ms), NODE, at(i))
    assert len(it) == 0
    assert sum(it.counts.values()) == 1200
    assert len(it.counts) < 20


def test_a_node_on_the_relays_own_loopback_is_told_of_to_its_neighbours_alone() -> None:
    it, neighbour = relay(), UdpPeer("::ffff:127.0.0.1", 5700)
    near = Discovery(ONE, facts(control_addr="127.0.0.1"), targets=[neighbour], rng=rng(3))
    assert hear(it, *announced(near, at()), peer=neighbour) == "accepted"
    hear(it, *announcing(TWO, at())[1])
    assert {e.announce.node_id for e in ask(it)} == {node_id(TWO)}
    assert {e.announce.node_id for e in ask(it, asker=neighbour)} == {node_id(ONE), node_id(TWO)}
