"""LEASE_ALLOC to LEASE_ATTACH: every status of D6, grace, revocation, events, the clock."""

import errno

import pytest

from fabricbios.core.policy import Limits as Quota
from fabricbios.core.policy import Policy
from fabricbios.errors import Refused
from fabricbios.model import (
    Binding,
    DpAuth,
    LeaseEventKind,
    LeaseState,
    LeaseStatus,
    Op,
    Perm,
    ResourceType,
    RevokeOutcome,
    Status,
)
from fabricbios.testing import NODE_ID, FakeDataPlane, FakeNode, memory_offer, peer_of
from fabricbios.wire import (
    BindingTlv,
    DpAuthTlv,
    DpKey,
    Generation,
    LeaseAffinity,
    LeaseAllocParams,
    LeaseAllocResult,
    LeaseAttachParams,
    LeaseAttachResult,
    LeaseCpuIsolation,
    LeaseFreeParams,
    LeaseQueryParams,
    LeaseQueryResult,
    LeaseRenewParams,
    LeaseRenewResult,
    LeaseRevokeParams,
    LeaseRevokeResult,
    Range,
    RateLimit,
    RawTlv,
    Token,
)
from fabricbios.wire.token import attenuate

MEM = int(ResourceType.MEM)


def alloc(node: FakeNode, *intents: object, secs: int = 60, kind: int = MEM, size: int = 8192, **f: object) -> Status:
    params = LeaseAllocParams(secs, 0, kind, size, tuple(intents))
    return node.ask(1, Op.LEASE_ALLOC, params, **{"token": node.token(1), **f}).status


def query(node: FakeNode, lease_id: int) -> LeaseStatus | Status:
    got = node.ask(2, Op.LEASE_QUERY, LeaseQueryParams(lease_id))
    return LeaseStatus(LeaseQueryResult.unpack(got.result).lease_status) if got.status is Status.OK else got.status


def renew(node: FakeNode, lease_id: int, secs: int = 60, who: int = 1, **fields: object) -> Status:
    fields.setdefault("token", node.token(who))
    return node.ask(who, Op.LEASE_RENEW, LeaseRenewParams(lease_id, secs), **fields).status


def revoke(node: FakeNode, lease_id: int, grace: int = 0, who: int = 1, **fields: object) -> RevokeOutcome | Status:
    got = node.ask(who, Op.LEASE_REVOKE, LeaseRevokeParams(lease_id, grace), **fields)
    return RevokeOutcome(LeaseRevokeResult.unpack(got.result).outcome) if got.status is Status.OK else got.status


def free(node: FakeNode, lease_id: int, who: int = 1) -> Status:
    return node.ask(who, Op.LEASE_FREE, LeaseFreeParams(lease_id)).status


def listen(node: FakeNode) -> list[tuple[LeaseEventKind, int]]:
    return [(LeaseEventKind(e.event), e.at) for _, e in node.events]


# -- LEASE_ALLOC


def test_an_answer_has_the_planes_tlvs_then_ours() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    names = [type(t).__name__ for t in lease.bindings]
    assert names == ["DpKey", "Endpoint", "Limits", "Generation", "BindingTlv", "DpAuthTlv"]
    assert Generation(1) in lease.bindings
    assert BindingTlv(int(Binding.UDP)) in lease.bindings
    assert DpAuthTlv(int(DpAuth.HMAC_HEADER)) in lease.bindings


def test_the_shortest_params_get_a_mebibyte_of_memory() -> None:
    node = FakeNode()
    got = node.ask(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0), token=node.token(1))
    lease = node.node.lease(LeaseAllocResult.unpack(got.result).lease_id)
    assert lease is not None
    assert (lease.spec.size, lease.spec.kind) == (1 << 20, ResourceType.MEM)


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"secs": 0}, Status.INVALID_ARGS),
        ({"kind": 0x7777}, Status.INVALID_ARGS),
        ({"kind": int(ResourceType.SCHEDULER)}, Status.INVALID_ARGS),
        ({"kind": int(ResourceType.GPU)}, Status.RESOURCE_NOT_FOUND),
        ({"size": 0}, Status.INVALID_ARGS),
        ({"size": (1 << 30) + 1}, Status.CAPACITY_EXCEEDED),
        ({"size": (1 << 64) - 1}, Status.CAPACITY_EXCEEDED),
        ({"resource_id": 5}, Status.RESOURCE_NOT_FOUND),
        ({"token": b""}, Status.INSUFFICIENT_PERM),
        ({"token": b"junk"}, Status.INVALID_TOKEN),
        ({}, Status.OK),
    ],
)
def test_which_status(wish: dict[str, object], status: Status) -> None:
    assert alloc(FakeNode(), **wish) is status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("intent", "status"),
    [
        (DpAuthTlv(4), Status.INVALID_ARGS),
        (DpAuthTlv(255), Status.INVALID_ARGS),
        (DpAuthTlv(3), Status.OK),
        (BindingTlv(0x0300), Status.INVALID_ARGS),
        (BindingTlv(0x7777), Status.INVALID_ARGS),
        (BindingTlv(0x0A00), Status.OK),
        (LeaseCpuIsolation(0), Status.OK),
        (LeaseCpuIsolation(1), Status.INVALID_ARGS),
        (LeaseAffinity(5, 1, 6, bytes(4)), Status.INVALID_ARGS),
        (LeaseAffinity(1, 3, 6, bytes(4)), Status.INVALID_ARGS),
        (LeaseAffinity(3, 0x82, 6, bytes(4)), Status.OK),
        (RawTlv(0x7F01, b"new"), Status.OK),
        (RawTlv(0x0401, bytes(8)), Status.OK),
    ],
)
def test_intents_and_wishes(intent: object, status: Status) -> None:
    assert alloc(FakeNode(), intent) is status


@pytest.mark.parametrize(
    ("target_type", "target", "here"),
    [
        (1, NODE_ID.to_bytes(16, "big"), True),
        (1, bytes(16), False),
        (2, memory_offer(FakeDataPlane()).resource.resource_id.to_bytes(16, "big"), True),
        (2, bytes(16), False),
        (3, bytes(16), False),
        (4, bytes(16), False),
        (5, b"vault", False),
        (6, bytes(4), False),
    ],
)
def test_a_required_affinity_is_met_or_nothing_is_leased(target_type: int, target: bytes, here: bool) -> None:
    said = [alloc(FakeNode(), LeaseAffinity(1, strength, target_type, target)) for strength in (0x01, 0x81, 0x02, 0x82)]
    required = Status.OK if here else Status.INVALID_ARGS
    required_not = Status.INVALID_ARGS if here else Status.OK
    assert said == [required, required_not, Status.OK, Status.OK]


def test_a_lease_may_be_required_beside_one_that_lives_here() -> None:
    node = FakeNode()
    beside = LeaseAffinity(2, 1, 3, node.alloc(1).lease_id.to_bytes(16, "big"))
    assert alloc(node, beside) is Status.OK


@pytest.mark.parametrize(
    ("tlvs", "status"),
    [
        ("0902000103", Status.INVALID_INTENT),
        ("09030001ff", Status.INVALID_INTENT),
        ("090200020000", Status.INVALID_INTENT),
        ("09100009010106000400000001" + "09020001fe", Status.INVALID_INTENT),
        ("010700020000", Status.BAD_REQUEST),
        ("0902", Status.BAD_REQUEST),
        ("0902000500", Status.BAD_REQUEST),
    ],
)
def test_a_malformed_intent_is_told_from_a_malformed_request(tlvs: str, status: Status) -> None:
    node = FakeNode()
    params = LeaseAllocParams(60, 0, MEM, 8192).pack() + bytes.fromhex(tlvs)
    assert node.ask(1, Op.LEASE_ALLOC, params, token=node.token(1)).status is status


def test_who_asks_for_nothing_gets_the_first_auth_that_is_offered() -> None:
    node = FakeNode()
    node.offers = [node.offers[0]._replace(dp_auths=(DpAuth.BLAKE2S_FULL, DpAuth.SIPHASH_FULL))]
    node.start()
    assert DpAuthTlv(2) in node.alloc(1).bindings
    assert alloc(node, DpAuthTlv(0)) is Status.INVALID_ARGS


def test_wishes_longer_than_policy_are_shortened() -> None:
    node = FakeNode(policy=Policy(Quota(max_ttl=100, max_grace=5)))
    lease = node.alloc(1, secs=99_999, grace=99)
    now = node.clock.now
    assert lease.expires_at == now.unix + 100
    held = node.node.lease(lease.lease_id)
    assert held is not None
    assert held.grace_ns == 5 * 10**9
    assert FakeNode().alloc(1, secs=0xFFFF_FFFF).expires_at == now.unix + 86_400


def test_quota_and_capacity() -> None:
    node = FakeNode(policy=Policy(Quota(max_leases=2, max_bytes=20_000)))
    assert alloc(node) is Status.OK
    assert alloc(node, size=12_289) is Status.CAPACITY_EXCEEDED
    assert alloc(node) is Status.OK
    assert alloc(node, size=1) is Status.CAPACITY_EXCEEDED
    node.alloc(2, size=8192)
    assert alloc(FakeNode(FakeDataPlane(capacity=8192)), size=8193) is Status.CAPACITY_EXCEEDED
    assert alloc(FakeNode(max_leases=0)) is Status.CAPACITY_EXCEEDED
    assert alloc(FakeNode(policy=Policy(Quota(kinds=frozenset())))) is Status.INSUFFICIENT_PERM


def test_the_node_chooses_a_resource_with_room() -> None:
    small, big = FakeDataPlane(capacity=4096), FakeDataPlane(capacity=1 << 20)
    node = FakeNode(big)
    node.offers = [memory_offer(small, "small"), memory_offer(big, "big")]
    node.start()
    lease = node.node.lease(node.alloc(1, size=8192).lease_id)
    assert lease is not None
    assert lease.spec.resource_id == node.offers[1].resource.resource_id
    assert alloc(node, resource_id=node.offers[0].resource.resource_id) is Status.CAPACITY_EXCEEDED


def test_a_token_for_one_resource_chooses_it_and_no_other() -> None:
    node = FakeNode()
    node.offers = [memory_offer(node.plane, "a"), memory_offer(node.plane, "b")]
    node.start()
    a, b = (o.resource.resource_id for o in node.offers)
    for_b = node.token(1, resource_id=b)
    lease = node.node.lease(node.alloc(1, token=for_b).lease_id)
    assert lease is not None
    assert lease.spec.resource_id == b
    assert alloc(node, token=for_b, resource_id=a) is Status.INSUFFICIENT_PERM


def test_a_range_bounds_what_is_granted() -> None:
    node = FakeNode()
    token = attenuate(attenuate(Token.unpack(node.token(1)), Range(0, 16_384)), Range(8192, 1 << 40))
    assert alloc(node, token=token.pack(), size=8193) is Status.INVALID_TOKEN
    assert alloc(node, token=token.pack(), size=8192) is Status.OK


def test_a_token_that_says_read_gives_no_write() -> None:
    node = FakeNode()
    for perms, rights in ((Perm.ALLOC, 3), (Perm.ALLOC | Perm.READ, 1), (Perm(255), 3)):
        lease = node.node.lease(node.alloc(1, token=node.token(1, int(perms))).lease_id)
        assert lease is not None
        assert lease.spec.rights == rights


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EIO, Status.INTERNAL_ERROR),
        (errno.ENOSPC, Status.CAPACITY_EXCEEDED),
        (errno.EBUSY, Status.RESOURCE_BUSY),
    ],
)
def test_a_binding_that_fails_leaves_nothing(number: int, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    def do(step: str, lease: object) -> tuple[()]:
        raise OSError(number, "no")

    node = FakeNode()
    monkeypatch.setattr(node.plane, "do", do)
    assert alloc(node) is status
    assert not node.plane.held
    assert node.node.summaries()[0].available == 1 << 30
    assert node.node.effect_failures == {"Do": 1}


def test_an_expiry_is_rounded_up() -> None:
    node = FakeNode()
    node.clock.advance(0.001)
    assert node.alloc(1, secs=10).expires_at == node.clock.now.unix + 11


# -- its life


def test_at_the_end_the_holder_hears_and_nothing_is_held() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    lease = node.alloc(1, secs=10)
    node.pass_time(9.9)
    assert query(node, lease.lease_id) is LeaseStatus.ACTIVE
    node.pass_time(0.1)
    assert listen(node) == [(LeaseEventKind.EXPIRED, lease.expires_at)]
    assert query(node, lease.lease_id) is LeaseStatus.EXPIRED
    assert not node.plane.held
    assert renew(node, lease.lease_id) is Status.LEASE_EXPIRED
    assert free(node, lease.lease_id) is Status.RESOURCE_NOT_FOUND
    node.pass_time(299)
    assert query(node, lease.lease_id) is LeaseStatus.EXPIRED
    assert renew(node, lease.lease_id) is Status.LEASE_EXPIRED
    node.pass_time(2)
    assert query(node, lease.lease_id) is Status.RESOURCE_NOT_FOUND
    assert renew(node, lease.lease_id) is Status.RESOURCE_NOT_FOUND


def test_grace_holds_the_content_and_renewal_brings_it_back() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    lease = node.alloc(1, secs=10, grace=5)
    node.pass_time(12)
    assert query(node, lease.lease_id) is LeaseStatus.EXPIRED
    assert lease.lease_id in node.plane.held
    assert not node.plane.may_access(lease.lease_id, node.clock.now)
    assert renew(node, lease.lease_id, 10) is Status.OK
    assert query(node, lease.lease_id) is LeaseStatus.ACTIVE
    assert node.plane.may_access(lease.lease_id, node.clock.now)
    assert [e for e, _ in listen(node)] == [LeaseEventKind.EXPIRED, LeaseEventKind.RENEWED]
    node.pass_time(15)
    assert not node.plane.held


def test_a_jump_of_unix_time_changes_nothing() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=100)
    for jump in (1_000_000, -2_000_000):
        node.clock.jump_unix(jump)
        node.pass_time(10)
        assert query(node, lease.lease_id) is LeaseStatus.ACTIVE
        assert node.plane.may_access(lease.lease_id, node.clock.now)
    node.pass_time(80)
    assert query(node, lease.lease_id) is LeaseStatus.EXPIRED


def test_renewal_raises_the_generation_and_kills_older_tokens() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    bound = node.token(1, epoch=0, lease_id=lease.lease_id)
    got = node.ask(1, Op.LEASE_RENEW, LeaseRenewParams(lease.lease_id, 120), token=bound)
    assert LeaseRenewResult.unpack(got.result) == LeaseRenewResult(lease.expires_at + 60, (Generation(2),))
    assert renew(node, lease.lease_id, token=bound) is Status.INVALID_TOKEN
    got = node.ask(1, Op.LEASE_RENEW, LeaseRenewParams(lease.lease_id, 1), token=node.token(1))
    assert LeaseRenewResult.unpack(got.result) == LeaseRenewResult(lease.expires_at + 60, (Generation(3),))


def test_who_may_renew() -> None:
    node = FakeNode(trusted=(1, 2, 3))
    lease = node.alloc(1)
    assert renew(node, lease.lease_id, who=2) is Status.INSUFFICIENT_PERM
    assert renew(node, lease.lease_id, token=b"") is Status.INSUFFICIENT_PERM
    assert renew(node, lease.lease_id, token=node.token(1, int(Perm.ALLOC))) is Status.INSUFFICIENT_PERM
    other = node.alloc(1)
    for_other = node.token(1, epoch=0, lease_id=other.lease_id)
    assert renew(node, lease.lease_id, token=for_other) is Status.INSUFFICIENT_PERM
    assert renew(node, lease.lease_id, 0) is Status.INVALID_ARGS
    assert renew(node, 12345) is Status.RESOURCE_NOT_FOUND
    delegated = node.token(1, epoch=0, lease_id=lease.lease_id, audience=2)
    assert renew(node, lease.lease_id, who=3, token=delegated) is Status.INVALID_TOKEN
    assert renew(node, lease.lease_id, who=2, token=delegated) is Status.OK


def test_a_renewal_is_answered_when_the_data_plane_knows() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    node.plane.failures["renew", ""] = 1
    assert renew(node, lease.lease_id, 120) is Status.INTERNAL_ERROR
    assert query(node, lease.lease_id) is LeaseStatus.ACTIVE
    assert renew(node, lease.lease_id, 120) is Status.OK
    assert node.plane.held[lease.lease_id].expires_ns == node.clock.now.boot_ns + 120 * 10**9


def test_free_is_the_holders_and_only_once() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    lease = node.alloc(1)
    assert free(node, lease.lease_id, who=2) is Status.INSUFFICIENT_PERM
    assert free(node, lease.lease_id) is Status.OK
    assert not node.plane.held
    assert query(node, lease.lease_id) is LeaseStatus.REVOKED
    assert free(node, lease.lease_id) is Status.RESOURCE_NOT_FOUND
    assert free(node, 4711) is Status.RESOURCE_NOT_FOUND
    assert node.events == []


def test_a_teardown_that_fails_fences_until_it_is_cleared() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    lease = node.alloc(1)
    node.plane.failures["undo", "open"] = -1
    waiting = node.send(1, Op.LEASE_FREE, LeaseFreeParams(lease.lease_id))
    node.run()
    assert query(node, lease.lease_id) is LeaseStatus.REVOKED
    node.pass_time(6)
    assert node.answer(waiting).status is Status.RESOURCE_FENCED
    assert listen(node) == [(LeaseEventKind.FENCED, node.clock.now.unix - 1)]
    assert alloc(node) is Status.RESOURCE_FENCED
    assert free(node, lease.lease_id) is Status.RESOURCE_FENCED
    assert renew(node, lease.lease_id) is Status.RESOURCE_FENCED
    assert revoke(node, lease.lease_id) is RevokeOutcome.FENCED
    assert (node.node.summaries()[0].flags, node.node.summaries()[0].available) == (1, 0)
    assert lease.lease_id in node.plane.fenced


def test_revoke_at_once() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    lease = node.alloc(1)
    assert revoke(node, lease.lease_id, who=2) is Status.INSUFFICIENT_PERM
    assert revoke(node, lease.lease_id, who=2, token=node.token(2, int(Perm.ALLOC))) is Status.INSUFFICIENT_PERM
    assert revoke(node, lease.lease_id, who=2, token=node.token(2)) is RevokeOutcome.TORN_DOWN
    assert listen(node) == [(LeaseEventKind.REVOKED, node.clock.now.unix)]
    assert query(node, lease.lease_id) is LeaseStatus.REVOKED
    assert revoke(node, lease.lease_id) is RevokeOutcome.NOT_FOUND
    assert revoke(node, 77) is RevokeOutcome.NOT_FOUND


def test_revoke_with_grace_warns_and_forbids_renewal() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    lease = node.alloc(1, secs=60)
    assert revoke(node, lease.lease_id, grace=10) is RevokeOutcome.SCHEDULED
    assert node.node.lease_counts[ResourceType.MEM, LeaseState.WARNED] == 1
    assert query(node, lease.lease_id) is LeaseStatus.ACTIVE
    assert node.plane.may_access(lease.lease_id, node.clock.now)
    assert renew(node, lease.lease_id) is Status.LEASE_EXPIRED
    node.pass_time(10)
    now = node.clock.now.unix
    assert listen(node) == [(LeaseEventKind.REVOKE_WARNING, now), (LeaseEventKind.REVOKED, now)]
    assert query(node, lease.lease_id) is LeaseStatus.REVOKED
    assert not node.plane.held


def test_a_revocations_grace_is_bounded_by_300_seconds_and_by_the_lease() -> None:
    node = FakeNode()
    short, long = node.alloc(1, secs=20), node.alloc(1, secs=3600)
    revoke(node, short.lease_id, grace=9999)
    revoke(node, long.lease_id, grace=9999)
    node.pass_time(20)
    assert (query(node, short.lease_id), query(node, long.lease_id)) == (LeaseStatus.REVOKED, LeaseStatus.ACTIVE)
    node.pass_time(280)
    assert query(node, long.lease_id) is LeaseStatus.REVOKED


def test_a_warned_lease_can_be_revoked_sooner() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    assert revoke(node, lease.lease_id, grace=30) is RevokeOutcome.SCHEDULED
    assert revoke(node, lease.lease_id, grace=10) is RevokeOutcome.SCHEDULED
    node.pass_time(10)
    assert not node.plane.held
    other = node.alloc(1)
    revoke(node, other.lease_id, grace=30)
    assert revoke(node, other.lease_id) is RevokeOutcome.TORN_DOWN


def test_attach_gives_the_bindings_again_under_a_new_key() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    old = next(t for t in lease.bindings if isinstance(t, DpKey))
    assert node.ask(2, Op.LEASE_ATTACH, LeaseAttachParams(lease.lease_id)).status is Status.INSUFFICIENT_PERM
    got = node.ask(1, Op.LEASE_ATTACH, LeaseAttachParams(lease.lease_id))
    again = LeaseAttachResult.unpack(got.result)
    new = next(t for t in again.bindings if isinstance(t, DpKey))
    assert new != old
    assert node.plane.held[lease.lease_id].dp_key == new.dp_key
    assert {type(t) for t in again.bindings} == {type(t) for t in lease.bindings}
    assert again.expires_at == lease.expires_at
    assert node.ask(1, Op.LEASE_ATTACH, LeaseAttachParams(5)).status is Status.RESOURCE_NOT_FOUND


def test_attach_in_grace_finds_the_lease_expired() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=10, grace=100)
    node.pass_time(10)
    assert node.ask(1, Op.LEASE_ATTACH, LeaseAttachParams(lease.lease_id)).status is Status.LEASE_EXPIRED


def test_a_lease_takes_only_so_many_changes_at_once() -> None:
    node = FakeNode()
    lease, token = node.alloc(1), node.token(1)
    params = LeaseRenewParams(lease.lease_id, 60)
    peers = [node.send(1, Op.LEASE_RENEW, params, token=token) for _ in range(12)]
    node.run()
    statuses = [node.answer(p).status for p in peers]
    assert statuses == [Status.OK] * 8 + [Status.RESOURCE_BUSY] * 4


def test_a_lease_for_another_nodes_token_is_refused() -> None:
    node, other = FakeNode(), FakeNode(node_id=NODE_ID + 1)
    assert alloc(node, token=other.token(1)) is Status.INVALID_TOKEN
    with pytest.raises(Refused, match="INVALID_TOKEN"):
        node.alloc(1, token=node.token(1, audience=2))


def test_what_is_refused_counts_against_the_tokens_rate() -> None:
    node = FakeNode()
    token = attenuate(Token.unpack(node.token(1)), RateLimit(2)).pack()
    assert [alloc(node, token=token, size=0) for _ in range(3)] == [
        Status.INVALID_ARGS,
        Status.INVALID_ARGS,
        Status.RATE_LIMITED,
    ]
