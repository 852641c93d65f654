"""D7: tokens, attenuated by a holder with no help; D6: which status a wrong one gets."""

import time

import pytest
from blackbox import codec
from blackbox.codec import (
    ALLOC,
    BAD_REQUEST,
    CAP_REFRESH,
    CAP_REQUEST,
    CAP_REVOKE,
    INSUFFICIENT_PERM,
    INVALID_TOKEN,
    LIST_ACTIVE,
    OK,
    P_ADMIN,
    P_ALLOC,
    P_DELEGATE,
    P_READ,
    P_RENEW,
    P_REVOKE,
    P_WRITE,
    RATE_LIMITED,
    RENEW,
    alloc,
    audience,
    depth,
    range_caveat,
    rate_limit,
    read_grant,
    read_token,
    time_bound,
    u32,
    u64,
    u128,
)  # fmt: skip
from blackbox.keys import Key
from blackbox.programs import poll

LEASE = alloc(30, 0, codec.MEM, 4096)


def use(peer, token) -> int:
    """Spend the token on an allocation, clean up, return the status."""
    answer = peer.ask(ALLOC, LEASE, token if isinstance(token, bytes) else token.pack())
    if answer.status == OK:
        peer.free(read_grant(answer.result).lease_id)
    return answer.status


def test_a_token_says_what_was_granted(world, owner):
    before = int(time.time())
    token = owner.token(P_READ | P_ALLOC, ttl=40)
    assert (token.issuer, token.audience) == (world.node.node_id, world.owner.id)
    assert (token.perms, token.resource_id, token.lease_id, token.generation, token.epoch) == (
        P_READ | P_ALLOC,
        0,
        0,
        0,
        0,
    )
    assert before - 1 <= token.issued_at <= time.time() + 1
    assert token.expires_at == token.issued_at + 40
    assert token.caveats == ()
    assert owner.token().token_id != token.token_id


def test_every_length_of_cap_request(owner):
    """24 bytes, 32 with an epoch (0 for none), 48 with a lease: then its generation and not beyond its end."""
    lease = owner.lease(20)
    assert owner.token().epoch == 0
    assert owner.token(tail=u64(0)).epoch == 0
    bound = owner.token(P_RENEW, ttl=300, tail=u64(0) + u128(lease.lease_id))
    assert (bound.lease_id, bound.generation) == (lease.lease_id, lease.generation)
    assert bound.expires_at <= lease.expires_at
    owner.free(lease.lease_id)


def test_cap_request_for_a_lease_that_is_none(owner):
    params = u32(P_RENEW) + u32(30) + u128(owner.sender) + u64(0) + u128(99)
    assert owner.refused(CAP_REQUEST, params) == codec.NOT_FOUND


def test_policy_grants_part_of_the_wish_or_refuses(world):
    with world.peer(world.limited) as limited:
        assert limited.token(0xFF, ttl=200).perms == P_READ | P_WRITE | P_ALLOC | P_RENEW
        assert limited.refused(CAP_REQUEST, u32(P_ADMIN) + u32(5) + u128(limited.sender)) == INSUFFICIENT_PERM
    with world.peer(world.nothing) as nothing:
        assert nothing.refused(CAP_REQUEST, u32(0xFF) + u32(5) + u128(nothing.sender)) == INSUFFICIENT_PERM


def test_missing_and_broken_tokens(owner):
    assert owner.refused(ALLOC, LEASE) == INSUFFICIENT_PERM
    good = owner.token(P_ALLOC)
    raw = good.pack()
    assert use(owner, raw) == OK
    for at in (1, 20, 36, 52, 68, 84, 88, 92, 100, 108, len(raw) - 1):
        forged = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert owner.refused(ALLOC, LEASE, forged) == INVALID_TOKEN, at
    for malformed in (raw[:-1], raw + b"\0", b"\0" + raw[1:], b"\2" + raw[1:], b"junk"):
        assert owner.refused(ALLOC, LEASE, malformed) in (INVALID_TOKEN, BAD_REQUEST)


def test_widening(owner):
    token = owner.token(P_ALLOC | P_DELEGATE, ttl=30)
    assert use(owner, token) == OK
    for wider in (
        token._replace(perms=0xFF), token._replace(expires_at=token.expires_at + 1), token._replace(epoch=1),
        token._replace(audience=0), token._replace(issued_at=token.issued_at - 1), token._replace(generation=1),
    ):  # fmt: skip
        assert use(owner, wider) == INVALID_TOKEN


def test_caveats_narrow_and_cannot_be_taken_off(owner):
    now = int(time.time())
    parent = owner.token(P_ALLOC | P_DELEGATE)
    child = parent.narrowed(*time_bound(now - 10, now + 60))
    grandchild = child.narrowed(*audience(owner.sender))
    assert use(owner, child) == OK
    assert use(owner, grandchild) == OK
    assert use(owner, grandchild._replace(caveats=child.caveats)) == INVALID_TOKEN
    assert use(owner, child._replace(caveats=())) == INVALID_TOKEN
    assert use(owner, grandchild._replace(caveats=grandchild.caveats[::-1])) == INVALID_TOKEN
    wider = ((1, u64(now - 10) + u64(now + 6000)),)
    assert use(owner, child._replace(caveats=wider)) == INVALID_TOKEN


def test_a_caveat_wants_delegate(owner):
    now = int(time.time())
    child = owner.token(P_ALLOC).narrowed(*time_bound(now - 10, now + 60))
    assert use(owner, child) == INVALID_TOKEN


@pytest.mark.parametrize(
    "caveat",
    [(0, b""), (7, b"\0"), (200, b"x" * 8), (1, b"\0" * 15), (2, b"\0" * 5), (5, b""), (6, b"\0" * 15), (4, b"\0" * 5)],
)
def test_unknown_and_malformed_caveats_refuse(owner, caveat):
    child = owner.token(P_ALLOC | P_DELEGATE).narrowed(*caveat)
    assert owner.refused(ALLOC, LEASE, child.pack()) in (INVALID_TOKEN, BAD_REQUEST)


def test_time_bound(owner):
    now = int(time.time())
    parent = owner.token(P_ALLOC | P_DELEGATE)
    assert use(owner, parent.narrowed(*time_bound(now + 100, now + 200))) == INVALID_TOKEN
    assert use(owner, parent.narrowed(*time_bound(now - 100, now - 1))) == INVALID_TOKEN
    assert use(owner, parent.narrowed(*time_bound(0, 2**64 - 1))) == OK


def test_source_ip(owner):
    parent = owner.token(P_ALLOC | P_DELEGATE)
    assert use(owner, parent.narrowed(2, bytes([127, 0, 0, 1]))) == OK
    assert use(owner, parent.narrowed(2, bytes([127, 0, 0, 2]))) == INVALID_TOKEN
    assert use(owner, parent.narrowed(2, bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]))) == OK
    assert use(owner, parent.narrowed(2, bytes(15) + b"\1")) == INVALID_TOKEN


def test_audience(world, owner, friend):
    """The TLS peer must equal the audience and every AUDIENCE caveat; zero is any trusted peer."""
    assert use(friend, owner.token(P_ALLOC)) == INVALID_TOKEN
    assert use(friend, owner.token(P_ALLOC, audience=friend.sender)) == OK
    for_all = owner.token(P_ALLOC | P_DELEGATE, audience=0)
    if for_all.audience == 0:
        assert use(friend, for_all) == OK
        assert use(friend, for_all.narrowed(*audience(owner.sender))) == INVALID_TOKEN
        both = for_all.narrowed(*audience(owner.sender)).narrowed(*audience(friend.sender))
        assert use(owner, both) == INVALID_TOKEN
        assert use(owner, for_all.narrowed(*audience(owner.sender))) == OK
        with world.peer(Key.new()) as stranger:
            assert use(stranger, for_all) == INSUFFICIENT_PERM


def test_depth_bounds_how_many_caveats_may_follow(owner):
    now = int(time.time())
    later = time_bound(now - 10, now + 60)
    parent = owner.token(P_ALLOC | P_DELEGATE)
    assert use(owner, parent.narrowed(*depth(0))) == OK
    assert use(owner, parent.narrowed(*depth(0)).narrowed(*later)) == INVALID_TOKEN
    assert use(owner, parent.narrowed(*later).narrowed(*later).narrowed(*depth(1)).narrowed(*later)) == OK
    assert use(owner, parent.narrowed(*depth(1)).narrowed(*later).narrowed(*later)) == INVALID_TOKEN
    assert use(owner, parent.narrowed(*depth(1)).narrowed(*depth(200)).narrowed(*later)) == INVALID_TOKEN


def test_range_bounds_what_may_be_granted(owner):
    parent = owner.token(P_ALLOC | P_DELEGATE)
    small = parent.narrowed(*range_caveat(0, 2048)).pack()
    answer = owner.ask(ALLOC, LEASE, small)
    if answer.status == OK:
        grant = read_grant(answer.result)
        assert grant.endpoints[0].limits[0] <= 2048
        owner.free(grant.lease_id)
    else:
        assert answer.status in (codec.CAPACITY, INVALID_TOKEN)


def test_rate_limit_is_enforced_by_token_id(owner):
    """A token bucket: with 1 a second, who asks without a pause is RATE_LIMITED soon, whichever child is used."""
    parent = owner.token(P_ALLOC | P_DELEGATE)
    limited = parent.narrowed(*rate_limit(1))
    found = [use(owner, limited)]
    while found[-1] == OK and len(found) < 60:
        found.append(use(owner, limited))
    assert found[0] == OK
    assert found[-1] == RATE_LIMITED
    other = owner.token(P_ALLOC | P_DELEGATE).narrowed(*rate_limit(1))
    assert use(owner, other) == OK


def test_permissions(owner):
    assert use(owner, owner.token(0xFF & ~P_ALLOC)) == INSUFFICIENT_PERM
    lease = owner.lease(20)
    renew = u128(lease.lease_id) + u32(20)
    assert owner.refused(RENEW, renew) == INSUFFICIENT_PERM
    assert owner.refused(RENEW, renew, owner.token(P_ALLOC).pack()) == INSUFFICIENT_PERM
    owner.done(RENEW, renew, owner.token(P_RENEW).pack())
    owner.free(lease.lease_id)


def test_a_token_bound_to_another_resource_or_lease(owner):
    inventory = codec.read_summaries(codec.Reader(owner.done(codec.GET_INVENTORY)))
    memory = next(s for s in inventory if s.resource_type == codec.MEM and s.available)
    block = next(s for s in inventory if s.resource_type == codec.BLOCK and s.available)
    mine = owner.token(P_ALLOC, resource=memory.resource_id)
    assert mine.resource_id == memory.resource_id
    assert use(owner, mine) == OK
    wrong = owner.token(P_ALLOC, resource=block.resource_id)
    assert use(owner, wrong) != OK
    assert owner.refused(ALLOC, LEASE, wrong.pack(), memory.resource_id) in (INVALID_TOKEN, INSUFFICIENT_PERM)
    one, two = owner.lease(20), owner.lease(20)
    bound = owner.token(P_RENEW, tail=u64(0) + u128(one.lease_id))
    assert owner.refused(RENEW, u128(two.lease_id) + u32(20), bound.pack()) in (INVALID_TOKEN, INSUFFICIENT_PERM)
    owner.free(one.lease_id)
    owner.free(two.lease_id)


def test_a_renewed_lease_outdates_its_tokens(owner):
    """Renewing raises the generation; a token bound to an older one is INVALID_TOKEN."""
    lease = owner.lease(30)
    bound = owner.token(P_RENEW | P_DELEGATE, tail=u64(0) + u128(lease.lease_id))
    result = owner.done(RENEW, u128(lease.lease_id) + u32(40), bound.pack())
    assert int.from_bytes(result[:8], "big") >= lease.expires_at
    assert codec.tlvs(result[8:]) == [(codec.T_GENERATION, u32(lease.generation + 1))]
    assert owner.refused(RENEW, u128(lease.lease_id) + u32(40), bound.pack()) == INVALID_TOKEN
    fresh = owner.token(P_RENEW, tail=u64(0) + u128(lease.lease_id))
    assert fresh.generation == lease.generation + 1
    owner.free(lease.lease_id)


def test_expiry(owner):
    token = owner.token(P_ALLOC, ttl=1)
    status = poll(lambda: use(owner, token) or None, 5)
    assert status == INVALID_TOKEN
    assert time.time() >= token.expires_at - 0.5


def test_refresh_keeps_all_but_the_times(owner):
    token = owner.token(P_ALLOC | P_DELEGATE, ttl=20).narrowed(*time_bound(1, 2**40))
    fresh = read_token(owner.done(CAP_REFRESH, u32(60), token.pack()))
    same = {"token_id": 0, "issued_at": 0, "expires_at": 0, "mac": b""}
    assert fresh._replace(**same) == token._replace(**same)
    assert fresh.expires_at - fresh.issued_at == 60
    assert use(owner, fresh) == OK
    assert owner.refused(CAP_REFRESH, u32(60), token._replace(perms=0xFF).pack()) == INVALID_TOKEN
    assert owner.refused(CAP_REFRESH, u32(60)) in (INVALID_TOKEN, INSUFFICIENT_PERM, BAD_REQUEST)


def test_revocation(world, owner):
    """CAP_REVOKE wants REVOKE; its result is a RevokeBroadcast: issuer, token_ids, until."""
    victim, other = owner.token(P_ALLOC | P_DELEGATE), owner.token(P_ALLOC)
    child = victim.narrowed(*audience(owner.sender))
    params = u128(victim.token_id) + u32(60)
    assert owner.refused(CAP_REVOKE, params) == INSUFFICIENT_PERM
    assert owner.refused(CAP_REVOKE, params, owner.token(P_ALLOC).pack()) == INSUFFICIENT_PERM
    r = codec.Reader(owner.done(CAP_REVOKE, params, owner.token(P_REVOKE).pack()))
    assert (r.uint(16), r.uint(2), r.uint(16)) == (world.node.node_id, 1, victim.token_id)
    assert abs(r.uint(8) - time.time() - 60) < 10
    r.end()
    assert use(owner, victim) == INVALID_TOKEN
    assert use(owner, child) == INVALID_TOKEN
    assert owner.refused(CAP_REFRESH, u32(60), victim.pack()) == INVALID_TOKEN
    assert use(owner, other) == OK


def test_another_nodes_token(owner):
    token = owner.token(P_ALLOC)._replace(issuer=12345)
    assert use(owner, token) == INVALID_TOKEN


def test_list_active_hides_others(owner, friend):
    """Other holders' lease_id and holder are zero unless the token has ADMIN."""

    def leases(peer, token=b""):
        r = codec.Reader(peer.done(LIST_ACTIVE, token=token))
        found = [(r.uint(16), r.uint(16), r.uint(16), r.uint(8), r.uint(8)) for _ in range(r.uint(2))]
        r.end()
        return found

    lease = owner.lease(30, 0, codec.MEM, 8192)
    (mine,) = [x for x in leases(owner) if x[0] == lease.lease_id]
    assert mine[2:] == (owner.sender, lease.expires_at, 8192)
    seen = [x for x in leases(friend) if x[3] == lease.expires_at and x[4] == 8192]
    assert seen
    assert all((x[0], x[2]) == (0, 0) for x in seen)
    assert mine[1] == seen[0][1]
    admin = friend.token(P_ADMIN).pack()
    assert mine in leases(friend, admin)
    assert mine not in leases(friend, friend.token(P_ALLOC).pack())
    owner.free(lease.lease_id)
    assert lease.lease_id not in [x[0] for x in leases(owner)]
