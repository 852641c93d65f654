import pytest
from discovery_rig import at, key, node_id, pins, raw, store, stream_peer

from fabricbios.core.trust import SpendApproval
from fabricbios.ports import TrustedKeys
from fabricbios.wire.enrolment import issue

OWNER, OTHER, CA = key(1), key(2), key(3)


def certificate(private=OTHER, ca=CA, begin: int = 0, end: int = 1000) -> bytes:
    now = at().unix
    return issue(ca, raw(private), now + begin, now + end).pack()


@pytest.mark.parametrize("mode", ["tofu", "pinned", "certified"])
def test_pinned_keys_are_trusted_in_every_mode(mode: str) -> None:
    trust = store(mode, peers=pins(OWNER))
    assert trust.trusted(stream_peer(OWNER), at())
    assert not trust.trusted(stream_peer(OTHER), at())
    assert not trust.trusted(stream_peer(None), at())
    assert trust.knows(node_id(OWNER)) == raw(OWNER)


def test_the_only_controller() -> None:
    assert store("certified", controllers=pins(CA)).only_controller() == raw(CA)
    assert store("tofu", controllers=pins(CA, OTHER)).only_controller() is None
    assert store("pinned", controllers=pins(CA)).only_controller() is None
    assert store("tofu").only_controller() is None


def test_an_id_must_be_that_of_the_key() -> None:
    liar = stream_peer(OTHER)._replace(node_id=node_id(OWNER))
    assert not store(peers=pins(OWNER)).trusted(liar, at())
    assert not store().claim(liar, at())


@pytest.mark.parametrize(("mode", "trusted"), [("tofu", True), ("certified", True), ("pinned", False)])
def test_certificates_of_our_controllers(mode: str, trusted: bool) -> None:
    trust = store(mode, controllers=pins(CA))
    assert trust.trusted(stream_peer(OTHER, certificate()), at()) is trusted
    assert trust.trusted(stream_peer(OTHER, certificate()), at(1)) is trusted  # out of the memory of signatures


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"junk",
        certificate(OWNER),
        certificate(ca=OWNER),
        certificate(begin=1),
        certificate(end=0),
        certificate()[:-1] + bytes([certificate()[-1] ^ 1]),
        certificate() + b"\0",
    ],
    ids=["none", "junk", "another subject", "a stranger's", "not yet", "over", "forged", "longer"],
)
def test_other_certificates_are_worth_nothing(bad: bytes) -> None:
    assert not store("certified", controllers=pins(CA)).trusted(stream_peer(OTHER, bad), at())


def test_a_certificate_ends_while_we_remember_its_signature() -> None:
    trust = store("certified", controllers=pins(CA))
    peer = stream_peer(OTHER, certificate(end=5))
    assert [trust.trusted(peer, at(s)) for s in (0, 4, 5)] == [True, True, False]


def test_the_first_claimant_has_the_node_and_a_second_is_refused() -> None:
    trust = store("tofu")
    assert not trust.claimed
    assert not trust.claim(stream_peer(None), at())
    assert trust.claim(stream_peer(OWNER), at())
    assert trust.trusted(stream_peer(OWNER), at())
    assert trust.is_owner(node_id(OWNER))
    assert not trust.claim(stream_peer(OTHER), at())
    assert not trust.trusted(stream_peer(OTHER), at())
    effect = trust.next_effect()
    assert effect is not None
    assert (effect.node_id, effect.public_key) == (node_id(OWNER), raw(OWNER))
    assert trust.next_effect() is None


def test_a_claim_that_cannot_be_written_was_none() -> None:
    trust = store("tofu")
    trust.claim(stream_peer(OWNER), at())
    trust.effect_failed(trust.next_effect(), at())
    assert not trust.trusted(stream_peer(OWNER), at())
    assert trust.claim(stream_peer(OTHER), at())


def test_a_reload_keeps_a_claim_that_is_being_written_and_drops_a_pin_that_is_gone() -> None:
    trust = store("tofu", peers={})
    trust.claim(stream_peer(OWNER), at())
    effect = trust.next_effect()
    trust.reload(store()._keys)
    assert trust.trusted(stream_peer(OWNER), at())
    trust.effect_succeeded(effect)
    trust.reload(store()._keys)  # the admin forgot the owner meanwhile
    assert not trust.trusted(stream_peer(OWNER), at())
    assert trust.claim(stream_peer(OTHER), at())


@pytest.mark.parametrize(
    "keys",
    [{"peers": pins(OTHER)}, {"learned": pins(OTHER)}, {"controllers": pins(CA)}, {"broken": ("x.pem: broken",)}],
)
def test_nobody_claims_what_is_somebodys_or_may_be(keys: dict[str, object]) -> None:
    assert not store("tofu", **keys).claim(stream_peer(OWNER), at())


@pytest.mark.parametrize("mode", ["pinned", "certified"])
def test_only_tofu_is_claimed(mode: str) -> None:
    assert not store(mode).claim(stream_peer(OWNER), at())


def test_approval_is_of_a_key() -> None:
    trust = store(approved=pins(OWNER))
    assert trust.is_approved(node_id(OWNER), raw(OWNER))
    assert not trust.is_approved(node_id(OWNER), raw(OTHER))
    assert not trust.is_approved(node_id(OTHER), raw(OTHER))


def test_remembered_signatures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabricbios.core.trust.MAX_REMEMBERED", 3)
    trust = store("certified", controllers=pins(CA))
    for end in range(100, 110):
        assert trust.trusted(stream_peer(OTHER, certificate(end=end)), at())
    assert len(trust._signed) == 3


def test_an_approval_is_spent_until_the_files_say_it_again() -> None:
    who, trust = node_id(OTHER), store(approved=pins(OTHER))
    trust.spend_approval(who)
    assert not trust.is_approved(who, raw(OTHER))
    effect = trust.next_effect()
    assert effect == SpendApproval(who)
    trust.effect_succeeded(effect)
    assert not trust.is_approved(who, raw(OTHER))
    trust.reload(TrustedKeys(approved=pins(OTHER)))
    assert trust.is_approved(who, raw(OTHER))


def test_an_approval_that_could_not_be_removed_is_not_spent() -> None:
    who, trust = node_id(OTHER), store(approved=pins(OTHER))
    trust.spend_approval(who)
    trust.effect_failed(trust.next_effect(), at())
    assert trust.is_approved(who, raw(OTHER))


def test_trust_stands_while_its_pin_or_its_controller_does() -> None:
    trust = store("certified", peers=pins(OWNER), controllers=pins(CA))
    shown = certificate(end=1)  # over since: that is no withdrawal
    assert trust.stands(node_id(OWNER), b"")
    assert trust.stands(node_id(OTHER), shown)
    assert not trust.stands(node_id(OTHER), certificate(OWNER))
    assert not trust.stands(node_id(OTHER), b"junk")
    trust.reload(TrustedKeys(controllers=pins(OTHER)))
    assert not trust.stands(node_id(OWNER), b"")
    assert not trust.stands(node_id(OTHER), shown)


def test_of_whom_nothing_is_known_stands_with_all_controllers() -> None:
    trust = store("certified", controllers=pins(CA, OWNER))
    assert trust.stands(node_id(OTHER), None)
    trust.reload(TrustedKeys(controllers=pins(CA, OWNER)))
    assert trust.stands(node_id(OTHER), None)
    trust.reload(TrustedKeys(controllers=pins(CA)))
    assert not trust.stands(node_id(OTHER), None)
    assert not store("certified").stands(node_id(OTHER), None)
    assert not store("pinned", controllers=pins(CA)).stands(node_id(OTHER), certificate())


def test_who_showed_no_certificate_stands_by_its_pin_alone() -> None:
    trust = store("certified", controllers=pins(CA), peers=pins(OTHER))
    assert trust.stands(node_id(OTHER), b"")
    trust.reload(TrustedKeys(controllers=pins(CA)))
    assert not trust.stands(node_id(OTHER), b"")


def test_nothing_is_withdrawn_by_a_file_that_cannot_be_read() -> None:
    trust = store(peers=pins(OWNER))
    trust.reload(TrustedKeys(broken=("owner.pem: junk",)))
    assert trust.stands(node_id(OWNER), b"")
    assert not trust.trusted(stream_peer(OWNER), at())


def test_a_controller_that_went_while_a_file_was_broken_is_missed_once_it_is_mended() -> None:
    broken = ("owner.pem: junk",)
    trust = store("certified", controllers=pins(CA, OWNER))
    for keys in (TrustedKeys(controllers=pins(CA), broken=broken), TrustedKeys(broken=broken)):
        trust.reload(keys)
        assert trust.stands(node_id(OTHER), None)
    trust.reload(TrustedKeys(controllers=pins(CA)))
    assert not trust.stands(node_id(OTHER), None)


def test_a_controller_whose_file_was_broken_for_a_while_has_lost_nobody() -> None:
    trust = store("certified", controllers=pins(CA, OWNER))
    trust.reload(TrustedKeys(controllers=pins(CA), broken=("owner.pem: junk",)))
    trust.reload(TrustedKeys(controllers=pins(CA, OWNER)))
    assert trust.stands(node_id(OTHER), None)
    trust.reload(TrustedKeys(controllers=pins(CA, OWNER)))
    assert trust.stands(node_id(OTHER), None)
