"""D8 and D6 "Which status": a lease's life, told by the control plane and its events."""

import math
import time

import pytest
from blackbox import codec
from blackbox.codec import (
    ALLOC,
    ATTACH,
    BLOCK,
    CAPACITY,
    EXPIRED,
    FREE,
    INSUFFICIENT_PERM,
    INVALID_ARGS,
    INVALID_INTENT,
    MEM,
    NOT_FOUND,
    OK,
    P_ALLOC,
    P_RENEW,
    P_REVOKE,
    QUERY,
    RENEW,
    REVOKE,
    T_BINDING,
    T_DP_AUTH,
    alloc,
    read_grant,
    tlv16,
    u8,
    u16,
    u32,
    u64,
    u128,
)  # fmt: skip
from blackbox.programs import poll

ACTIVE, ENDED, REVOKED = 0, 1, 2
TORN_DOWN, FENCED_OUT, UNKNOWN, SCHEDULED = 0, 1, 2, 3
WARNING, WAS_REVOKED, HAS_EXPIRED, WAS_FENCED, RENEWED = 1, 2, 3, 4, 5


def status(peer, lease_id: int) -> int:
    result = peer.done(QUERY, u128(lease_id))
    assert len(result) == 9
    return result[0]


def becomes(peer, lease_id: int, wanted: int) -> bool:
    return bool(poll(lambda: status(peer, lease_id) == wanted, every=0.05))


def renew(peer, lease_id: int, duration: int):
    return peer.ask(RENEW, u128(lease_id) + u32(duration), peer.token(P_RENEW).pack())


def alloc_status(peer, params: bytes, resource: int = 0) -> int:
    answer = peer.ask(ALLOC, params, peer.token(P_ALLOC).pack(), resource)
    if answer.status == OK:
        peer.free(read_grant(answer.result).lease_id)
    return answer.status


def test_what_a_lease_is(world, owner):
    """lease_id, expires_at rounded up, and binding TLVs: each ENDPOINT followed by its LIMITS."""
    before = time.time()
    lease = owner.lease(60)
    assert before + 60 <= lease.expires_at <= math.ceil(time.time()) + 60
    assert lease.generation == 1
    assert len(lease.dp_key) == 32
    assert lease.dp_auth == 0  # nothing asked for: HMAC_HEADER
    tags = [tag for tag, _ in lease.tags]
    for at, tag in enumerate(tags):
        if tag == codec.T_ENDPOINT:
            assert tags[at + 1] == codec.T_LIMITS
    endpoint = lease.endpoint(1)
    assert endpoint.addr == bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1])
    assert endpoint.port == world.node.port("fbmu")
    length, max_read, max_write = endpoint.limits
    assert length == 1 << 16
    assert 512 <= max_read <= 1472 - 56 - 8
    assert 512 <= max_write <= 1472 - 56 - 12
    assert status(owner, lease.lease_id) == ACTIVE
    owner.free(lease.lease_id)


def test_the_short_forms(owner):
    """8 bytes: MEM of 1 MiB; 10 bytes: the type's default."""
    for params in (alloc(30, 0, None), alloc(30, 0, MEM, None)):
        lease = read_grant(owner.done(ALLOC, params, owner.token(P_ALLOC).pack()))
        assert lease.endpoint(1).limits[0] == 1 << 20
        owner.free(lease.lease_id)


def test_block(world, owner):
    """ENDPOINT 2, LIMITS, BLOCK_GEOMETRY: 512-byte blocks, two a datagram at MTU 1500."""
    lease = owner.lease(60, 0, BLOCK, 1 << 20)
    endpoint = lease.endpoint(2)
    assert endpoint.port == world.node.port("fbbu")
    assert endpoint.geometry == (512, 2048, 2)
    assert endpoint.limits[0] == 1 << 20
    owner.free(lease.lease_id)


STATUSES = {
    "duration 0": (alloc(0), INVALID_ARGS),
    "type 0": (alloc(9, 0, 0), INVALID_ARGS),
    "type 6": (alloc(9, 0, 6), INVALID_ARGS),
    "type 0xFFFF": (alloc(9, 0, 0xFFFF), INVALID_ARGS),
    "too much": (alloc(9, 0, MEM, 1 << 40), CAPACITY),
    "2^64-1 bytes": (alloc(9, 0, MEM, 2**64 - 1), CAPACITY),
    "too much block": (alloc(9, 0, BLOCK, 1 << 40), CAPACITY),
    "DP_AUTH 4": (alloc(9, 0, MEM, 4096, tlv16(T_DP_AUTH, u8(4))), INVALID_ARGS),
    "DP_AUTH 255": (alloc(9, 0, MEM, 4096, tlv16(T_DP_AUTH, u8(255))), INVALID_ARGS),
    "unknown binding": (alloc(9, 0, MEM, 4096, tlv16(T_BINDING, u16(0x4242))), INVALID_ARGS),
    "binding of another kind": (alloc(9, 0, MEM, 4096, tlv16(T_BINDING, u16(0x0700))), INVALID_ARGS),
    "isolation class 3": (alloc(9, 0, MEM, 4096, tlv16(0x902, u8(3))), INVALID_INTENT),
    "isolation class 255": (alloc(9, 0, MEM, 4096, tlv16(0x902, u8(255))), INVALID_INTENT),
    "isolation of 2 bytes": (alloc(9, 0, MEM, 4096, tlv16(0x902, u16(0))), INVALID_INTENT),
    "gpu class 4": (alloc(9, 0, MEM, 4096, tlv16(0x903, u8(4))), INVALID_INTENT),
    "gpu class reserved": (alloc(9, 0, MEM, 4096, tlv16(0x903, u8(3))), INVALID_ARGS),
    "affinity category 9": (alloc(9, 0, MEM, 4096, tlv16(0x910, b"\x09\x01\x01" + u16(16) + bytes(16))),
    INVALID_INTENT),
    "affinity strength 9": (alloc(9, 0, MEM, 4096, tlv16(0x910, b"\x01\x09\x01" + u16(16) + bytes(16))),
    INVALID_INTENT),
    "affinity target 9": (alloc(9, 0, MEM, 4096, tlv16(0x910, b"\x01\x01\x09" + u16(16) + bytes(16))), INVALID_INTENT),
    "affinity Facility": (alloc(9, 0, MEM, 4096, tlv16(0x910, b"\x05\x02\x01" + u16(16) + bytes(16))), INVALID_ARGS),
    "affinity Adaptive": (alloc(9, 0, MEM, 4096, tlv16(0x910, b"\x01\x03\x01" + u16(16) + bytes(16))), INVALID_ARGS),
    "unknown tag": (alloc(9, 0, MEM, 4096, tlv16(0x7777, b"x")), OK),
    "0x0401 is skipped": (alloc(9, 0, MEM, 4096, tlv16(0x401, u64(1 << 60))), OK),
    "another tier is preferred": (alloc(9, 0, MEM, 4096, tlv16(0x901, bytes(32) + u16(1) + u32(4096) + bytes(3))), OK),
    "copy on write": (alloc(9, 0, MEM, 4096, tlv16(0x901, bytes(32) + u16(2) + u32(4096) + u16(2) + u8(0))),
    INVALID_ARGS),
    "cache intent of 40 bytes": (alloc(9, 0, MEM, 4096, tlv16(0x901, bytes(40))), INVALID_INTENT),
    "cache intent, has_gpu 2": (alloc(9, 0, MEM, 4096, tlv16(0x901, bytes(40) + u8(2))), INVALID_INTENT),
    "best effort": (alloc(9, 0, MEM, 4096, tlv16(0x902, u8(0))), OK),
    "cut TLV": (alloc(9, 0, MEM, 4096, tlv16(0x902, u8(0))[:-1]), codec.BAD_REQUEST),
    "DP_AUTH of 2 bytes": (alloc(9, 0, MEM, 4096, tlv16(T_DP_AUTH, u16(1))), codec.BAD_REQUEST),
    "9 bytes": (alloc(9, 0)[:8] + b"\0", codec.BAD_REQUEST),
    "11 bytes": (alloc(9, 0, MEM, None) + b"\0", codec.BAD_REQUEST),
}  # fmt: skip


@pytest.mark.parametrize("how", STATUSES)
def test_which_status(owner, how):
    params, wanted = STATUSES[how]
    assert alloc_status(owner, params) == wanted


def test_resources_by_id(owner):
    inventory = codec.read_summaries(codec.Reader(owner.done(codec.GET_INVENTORY)))
    block = next(s for s in inventory if s.resource_type == BLOCK and s.available)
    assert alloc_status(owner, alloc(9, 0, BLOCK, 4096), block.resource_id) == OK
    assert alloc_status(owner, alloc(9, 0, BLOCK, 4096), 4242) == NOT_FOUND
    assert alloc_status(owner, alloc(9, 0, MEM, 4096), block.resource_id) == INVALID_ARGS


def test_policy(world, owner):
    """Longer than policy: shortened. Beyond quota: CAPACITY_EXCEEDED. A kind that is not allowed: INSUFFICIENT_PERM."""
    with world.peer(world.limited) as limited:
        before = time.time()
        lease = limited.lease(3600, 200, MEM, 4096)
        assert lease.expires_at <= math.ceil(before + 30) + 1
        assert alloc_status(limited, alloc(4, 0, MEM, (1 << 20) + 1)) == CAPACITY
        assert alloc_status(limited, alloc(4, 0, BLOCK, 4096)) == INSUFFICIENT_PERM
        second = limited.lease(30, 0, MEM, 4096)
        assert alloc_status(limited, alloc(4, 0, MEM, 4096)) == CAPACITY
        for one in (lease, second):
            limited.free(one.lease_id)
        other = owner.lease(30)
        assert limited.refused(REVOKE, u128(other.lease_id) + u32(0)) == INSUFFICIENT_PERM
        owner.free(other.lease_id)


def test_a_duration_beyond_a_day_is_shortened(owner):
    lease = owner.lease(10**6)
    assert lease.expires_at <= time.time() + 86_402
    owner.free(lease.lease_id)


def test_unknown_leases(owner):
    nobody = u128(0x1234)
    assert owner.refused(QUERY, nobody) == NOT_FOUND
    assert owner.refused(FREE, nobody) == NOT_FOUND
    assert owner.refused(ATTACH, nobody) == NOT_FOUND
    assert renew(owner, 0x1234, 5).status == NOT_FOUND
    answer = owner.ask(REVOKE, nobody + u32(0), owner.token(P_REVOKE).pack())
    assert (answer.status, answer.result) == (OK, u8(UNKNOWN)) or answer.status == NOT_FOUND


def test_free(owner, friend):
    lease = owner.lease(60)
    assert friend.refused(FREE, u128(lease.lease_id)) == INSUFFICIENT_PERM
    assert owner.done(FREE, u128(lease.lease_id)) == b""
    assert owner.refused(FREE, u128(lease.lease_id)) == NOT_FOUND
    assert status(owner, lease.lease_id) == REVOKED
    assert renew(owner, lease.lease_id, 5).status in (EXPIRED, NOT_FOUND)
    assert owner.refused(ATTACH, u128(lease.lease_id)) in (EXPIRED, NOT_FOUND)


def test_renew_never_shortens(owner):
    lease = owner.lease(60)
    result = owner.done(RENEW, u128(lease.lease_id) + u32(5), owner.token(P_RENEW).pack())
    assert int.from_bytes(result[:8], "big") == lease.expires_at
    assert codec.tlvs(result[8:]) == [(codec.T_GENERATION, u32(2))]
    longer = owner.done(RENEW, u128(lease.lease_id) + u32(100), owner.token(P_RENEW).pack())
    assert int.from_bytes(longer[:8], "big") >= lease.expires_at + 39
    assert owner.refused(RENEW, u128(lease.lease_id) + u32(0), owner.token(P_RENEW).pack()) == INVALID_ARGS
    owner.free(lease.lease_id)


def test_renew_is_for_the_holder(owner, friend):
    lease = owner.lease(60)
    assert renew(friend, lease.lease_id, 60).status == INSUFFICIENT_PERM
    owner.free(lease.lease_id)


def test_grace(owner):
    """EXPIRED from expires_at, held through grace, brought back by a renewal; then it ends for good."""
    lease = owner.lease(1, 60)
    at = owner.wait_event(lease.lease_id, HAS_EXPIRED)
    assert lease.expires_at - 1 <= at <= time.time() + 1
    assert status(owner, lease.lease_id) == ENDED
    answer = renew(owner, lease.lease_id, 30)
    assert answer.status == OK, answer.reason
    assert status(owner, lease.lease_id) == ACTIVE
    owner.free(lease.lease_id)


def test_without_grace_the_end_is_the_end(owner):
    lease = owner.lease(1)
    assert becomes(owner, lease.lease_id, ENDED)
    owner.wait_event(lease.lease_id, HAS_EXPIRED)
    assert owner.refused(FREE, u128(lease.lease_id)) in (NOT_FOUND, EXPIRED)
    assert poll(lambda: renew(owner, lease.lease_id, 5).status in (NOT_FOUND, EXPIRED))


def test_revoke_at_once(owner, friend):
    lease = owner.lease(60)
    params = u128(lease.lease_id) + u32(0)
    assert friend.refused(REVOKE, params) == INSUFFICIENT_PERM
    assert friend.refused(REVOKE, params, friend.token(P_ALLOC).pack()) == INSUFFICIENT_PERM
    assert friend.done(REVOKE, params, friend.token(P_REVOKE).pack()) == u8(TORN_DOWN)
    owner.wait_event(lease.lease_id, WAS_REVOKED)
    assert status(owner, lease.lease_id) == REVOKED


def test_revoke_of_ones_own(owner):
    """A token is wanted for another's lease only."""
    lease = owner.lease(60)
    assert owner.done(REVOKE, u128(lease.lease_id) + u32(0)) == u8(TORN_DOWN)
    assert status(owner, lease.lease_id) == REVOKED


def test_revoke_with_grace(world, owner, friend):
    """RevokeWarning to the holder alone, I/O until grace ends, no renewal, then Revoked."""
    lease = owner.lease(60)
    params = u128(lease.lease_id) + u32(5)
    assert friend.done(REVOKE, params, friend.token(P_REVOKE).pack()) == u8(SCHEDULED)
    owner.wait_event(lease.lease_id, WARNING)
    assert status(owner, lease.lease_id) == ACTIVE
    assert renew(owner, lease.lease_id, 60).status == EXPIRED
    owner.wait_event(lease.lease_id, WAS_REVOKED)
    assert becomes(owner, lease.lease_id, REVOKED)
    frame = owner.events()[-1]
    assert frame.sender == world.node.node_id
    friend.done(codec.PING)
    assert not friend.lease_events(lease.lease_id)


def test_every_connection_of_the_holder_hears(world, owner):
    lease = owner.lease(60)
    with world.peer(world.owner) as second:
        owner.done(RENEW, u128(lease.lease_id) + u32(90), owner.token(P_RENEW).pack())
        owner.done(REVOKE, u128(lease.lease_id) + u32(0))
        for peer in (owner, second):
            peer.wait_event(lease.lease_id, WAS_REVOKED)


def test_attach(owner, friend):
    """The holder's bindings again, a new key each time."""
    lease = owner.lease(60)
    assert friend.refused(ATTACH, u128(lease.lease_id)) == INSUFFICIENT_PERM
    again = read_grant(owner.done(ATTACH, u128(lease.lease_id)))
    assert (again.lease_id, again.expires_at) == (lease.lease_id, lease.expires_at)
    assert again.dp_key != lease.dp_key
    assert again.endpoints == lease.endpoints
    assert again.dp_auth == lease.dp_auth
    owner.free(lease.lease_id)


def test_quic_binding(world, owner):
    """BINDING 0x0A00: an endpoint on the control port, transport 3 or 4, messages up to 1 MiB."""
    for kind, transport in ((MEM, 3), (BLOCK, 4)):
        lease = owner.lease(60, 0, kind, 4 << 20, tlv16(T_BINDING, u16(0x0A00)))
        endpoint = lease.endpoint(transport)
        assert endpoint.port == world.control
        _, max_read, max_write = endpoint.limits
        assert 1 << 18 <= max_read <= 1 << 20
        assert 1 << 18 <= max_write <= 1 << 20
        owner.free(lease.lease_id)


def test_dp_auth_as_asked(owner):
    for mode in range(4):
        lease = owner.lease(60, 0, MEM, 4096, tlv16(T_DP_AUTH, u8(mode)))
        assert lease.dp_auth == mode
        owner.free(lease.lease_id)
