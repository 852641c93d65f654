"""The node's side: when it announces, what it stores first, how it says goodbye, whom it answers (D4, D5)."""

import pytest
from discovery_rig import ASKER, announced, announcing, at, facts, frame, key, memory, node_id, question, raw, rng

from fabricbios.core.discovery import Discovery, multicast_peers
from fabricbios.errors import ConfigError
from fabricbios.model import Binding, Health
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import Announce, Filter, SolicitResponse, Withdraw, WithdrawReason
from fabricbios.wire.enrolment import issue
from fabricbios.wire.frame import Frame, MsgType
from fabricbios.wire.inventory import NodeCertificate, Transports
from fabricbios.wire.proof import verify_entry
from fabricbios.wire.seal import verify_frame

ONE = key(1)


def opened(data: bytes) -> Announce:
    frame = Frame.unpack(data, transport="udp")
    assert verify_frame(frame, raw(ONE))
    return Announce.unpack(frame.payload)


def test_an_announcement_says_who_where_and_what() -> None:
    now = at().unix
    certificate = issue(key(3), raw(ONE), now, now + 100)
    own = facts(
        transports=(Binding.UDP, Binding.QUIC), certificate=certificate.pack(), health=Health.DRAINING, site_id=4
    )
    _, (data,) = announcing(ONE, at(), facts=own)
    announce = opened(data)
    assert (announce.node_id, announce.ttl_secs, announce.health, announce.site_id) == (node_id(ONE), 90, 2, 4)
    assert announce.control_addr == bytes(10) + b"\xff\xff\xc0\0\2\1"
    assert announce.timestamp == now
    assert announce.resources == (memory(),)
    assert [type(t) for t in announce.extensions] == [Transports, NodeCertificate]
    assert announce.extensions[1].pack() == certificate.pack()


def test_a_certificate_that_is_none_is_told_before_anything_is_announced() -> None:
    with pytest.raises(ConfigError, match=r"node\.cert"):
        Discovery(ONE, facts(certificate=b"junk"), rng=rng())


def test_every_interval_to_every_target() -> None:
    node, _ = announcing(ONE, at())
    node.set_targets([UdpPeer("192.0.2.9", 5700), *multicast_peers(["eth0"])])
    assert node.next_deadline() == at(30).boot_ns
    assert announced(node, at(29)) == []
    node.handle_timer(at(30))
    node.effect_succeeded(node.next_effect(), at(30))
    sent = node.datagrams_to_send(at(30))
    assert [peer.host for _, peer in sent] == ["192.0.2.9", "239.57.0.1%eth0", "ff02::5701%eth0"]
    assert len({data for data, _ in sent}) == 1


def test_the_sequence_is_stored_before_it_is_used() -> None:
    node = Discovery(ONE, facts(), targets=[ASKER], rng=rng())
    node.handle_timer(at())
    effect = node.next_effect()
    assert node.datagrams_to_send(at()) == []
    assert node.next_effect() is None
    node.effect_succeeded(effect, at())
    ((data, _),) = node.datagrams_to_send(at())
    assert opened(data).sequence == effect.sequence == at().unix_ms


def test_the_sequence_never_falls_whatever_the_clock_does() -> None:
    node, (first,) = announcing(ONE, at(), last_sequence=at(5000).unix_ms)
    assert opened(first).sequence == at(5000).unix_ms + 1
    (second,) = announced(node, at(30, clock_error=-4000))
    assert opened(second).sequence == at(5000).unix_ms + 2
    assert Frame.unpack(second).nonce == at(30, clock_error=-4000).unix_ms  # others judge it by their clocks


def test_a_disk_that_will_not_have_it_delays_the_announcement() -> None:
    node = Discovery(ONE, facts(), targets=[ASKER], rng=rng())
    node.handle_timer(at())
    node.effect_failed(node.next_effect(), at())
    assert node.datagrams_to_send(at()) == []
    assert node.next_deadline() == at(5).boot_ns
    assert len(announced(node, at(5))) == 1


def test_news_are_told_soon_but_not_all_the_time() -> None:
    node, _ = announcing(ONE, at())
    node.update(facts(), at(0.1))
    assert node.next_deadline() == at(30).boot_ns
    node.update(facts(health=Health.DEGRADED), at(0.2))
    assert node.next_deadline() == at(1).boot_ns
    (data,) = announced(node, at(1))
    assert opened(data).health == Health.DEGRADED
    node.update(facts(), at(10))
    assert len(announced(node, at(10))) == 1


@pytest.mark.parametrize("unspecified", ["::", "0.0.0.0"])
def test_a_node_on_all_its_addresses_names_one_that_is_reachable(unspecified: str) -> None:
    node, _ = announcing(ONE, at(), facts=facts(control_addr=unspecified))
    node.set_reachable("192.0.2.44", at(2))
    assert node.next_deadline() == at(2).boot_ns
    (data,) = announced(node, at(2))
    assert opened(data).control_addr == bytes(10) + b"\xff\xff\xc0\0\2\x2c"
    node.update(facts(), at(5))  # one that it was given counts
    (data,) = announced(node, at(5))
    assert opened(data).control_addr[-1] == 1


RELAY, LOCAL, MULTICAST = UdpPeer("192.0.2.9", 5700), UdpPeer("::1", 5700), UdpPeer("239.57.0.1%eth0", 5700)


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_a_node_that_knows_no_address_but_loopback_tells_it_to_nobody_elsewhere(loopback: str) -> None:
    node = Discovery(ONE, facts(control_addr="::"), targets=[RELAY, LOCAL, MULTICAST], rng=rng(3))
    node.set_reachable(loopback, at())
    node.handle_timer(at())
    node.effect_succeeded(node.next_effect(), at())
    assert [peer for _, peer in node.datagrams_to_send(at())] == [LOCAL]
    assert (node.counts["announce", "sent"], node.counts["announce", "not_reachable"]) == (1, 2)
    for asker in (ASKER, UdpPeer("127.0.0.1", 9)):
        node.receive(question(), asker, at())
    assert [peer.host for _, peer in node.datagrams_to_send(at())] == ["127.0.0.1"]
    assert (node.counts["solicit", "not_reachable"], node.asked_from_afar) == (1, ASKER)
    node.withdraw(WithdrawReason.GRACEFUL_SHUTDOWN, at(2))
    node.effect_succeeded(node.next_effect(), at(2))
    assert [peer for _, peer in node.datagrams_to_send(at(2))] == [RELAY, LOCAL, MULTICAST]


def test_goodbye_is_signed_newer_and_final() -> None:
    node, (first,) = announcing(ONE, at())
    node.withdraw(WithdrawReason.GRACEFUL_SHUTDOWN, at())
    node.effect_failed(node.next_effect(), at())  # better said than not
    ((data, _),) = node.datagrams_to_send(at())
    goodbye = Frame.unpack(data, transport="udp")
    assert verify_frame(goodbye, raw(ONE))
    assert len(goodbye.payload) == 25
    assert Withdraw.unpack(goodbye.payload).sequence > opened(first).sequence
    assert goodbye.nonce > Frame.unpack(first).nonce
    assert announced(node, at(100)) == []
    node.receive(question(), ASKER, at(100))
    assert node.datagrams_to_send(at(100)) == []


def test_a_goodbye_overtakes_an_announcement_that_is_being_stored() -> None:
    node = Discovery(ONE, facts(), targets=[ASKER], rng=rng())
    node.handle_timer(at())
    effect = node.next_effect()
    node.withdraw(WithdrawReason.MAINTENANCE, at())
    node.effect_succeeded(effect, at())
    ((data, _),) = node.datagrams_to_send(at())
    assert Frame.unpack(data).msg_type == MsgType.WITHDRAW


@pytest.mark.parametrize("count", [1, 200])
def test_it_answers_for_itself_alone_with_proof_however_long(count: int) -> None:
    many = tuple(memory().replace(resource_id=i * 7919**9) for i in range(count))
    node, _ = announcing(ONE, at(), facts=facts(resources=many))
    message = question(1200)
    node.receive(message, ASKER, at())
    frames = [Frame.unpack(d, transport="udp") for d, _ in node.datagrams_to_send(at())]
    if frames[0].msg_type == MsgType.SOLICIT_RETRY:
        node.receive(question(1200, cookie=frames[0].payload[4:]), ASKER, at())
        frames = [Frame.unpack(d, transport="udp") for d, _ in node.datagrams_to_send(at())]
    payload = b"".join(f.payload for f in frames)
    (entry,) = SolicitResponse.unpack(payload, transport="udp").announce_payload_bytes
    found = verify_entry(entry)
    assert found.proven, found.flaw
    assert len(found.announce.resources) == count


def test_who_is_not_meant_is_silent() -> None:
    node, _ = announcing(ONE, at())
    node.receive(question(filters=(Filter(2, 1, bytes(32)),)), ASKER, at())
    assert node.datagrams_to_send(at()) == []
    assert node.counts["solicit", "no_match"] == 1


def test_other_nodes_and_its_own_echo_are_ignored() -> None:
    node, (own,) = announcing(ONE, at())
    node.receive(own, ASKER, at())
    node.receive(announcing(key(2), at())[1][0], ASKER, at())
    node.receive(frame(MsgType.RESPONSE, b"\0\0").pack(), ASKER, at())
    assert node.datagrams_to_send(at()) == []
    assert node.counts["announce", "own"] == 1
    assert node.counts["announce", "ignored"] == 1
    assert node.counts["response", "ignored"] == 1
