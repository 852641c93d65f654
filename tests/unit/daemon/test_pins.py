"""What the trust store wants on disk, and whom nothing may be told when it does not get there."""

from __future__ import annotations

from pathlib import Path

from discovery_rig import at as at_second
from discovery_rig import key, node_id, pins, raw, store, stream_peer

from fabricbios.daemon.pins import Pins
from fabricbios.transport import trustdir

ONE, TWO = key(1), key(2)


def test_a_claim_becomes_a_file(tmp_path: Path) -> None:
    kept, trust = Pins(tmp_path / "learned", tmp_path / "admin"), store("tofu")
    assert trust.claim(stream_peer(ONE), at_second())
    kept.write_due(trust)
    assert trustdir.load(tmp_path / "admin", tmp_path / "learned").learned == pins(ONE)
    assert not kept.was_refused(node_id(ONE))


def test_nothing_is_told_to_who_claimed_in_vain_however_often_it_asks(tmp_path: Path) -> None:
    (tmp_path / "learned").write_text("a file where a directory belongs")
    kept, trust = Pins(tmp_path / "learned", tmp_path / "admin"), store("tofu")
    for _ in range(2):  # on two connections, whose answers leave together
        assert trust.claim(stream_peer(ONE), at_second())
        kept.write_due(trust)
    assert [kept.was_refused(node_id(who)) for who in (ONE, ONE, TWO)] == [True, True, False]
    kept.sent()
    assert not kept.was_refused(node_id(ONE))


def test_a_spent_approval_is_gone_whether_or_not_it_was_read_before(tmp_path: Path) -> None:
    kept, trust = Pins(tmp_path / "learned", tmp_path / "admin"), store("certified", approved=pins(ONE))
    for who in (ONE, TWO):
        trustdir.save(tmp_path / "admin", trustdir.APPROVED, raw(who))
        trust.spend_approval(node_id(who))
    kept.write_due(trust)
    assert trustdir.load(tmp_path / "admin").approved == {}


def test_no_certificate_leaves_while_its_approval_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / "admin").mkdir()
    (tmp_path / "admin" / "approved").write_text("a file where a directory belongs")
    kept, trust = Pins(tmp_path / "learned", tmp_path / "admin"), store("certified", approved=pins(ONE))
    trust.spend_approval(node_id(ONE))
    kept.write_due(trust)
    assert kept.was_refused(node_id(ONE))
    assert trust.is_approved(node_id(ONE), raw(ONE))
