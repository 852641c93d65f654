"""The questions that want no token: results byte for byte."""

import time

import pytest
from blackbox import codec
from blackbox.codec import Reader, tlvs, u32, u64, u128
from blackbox.programs import poll


def test_ping(owner):
    assert int.from_bytes(owner.done(codec.PING), "big") < 3600


def test_identity(world, owner):
    r = Reader(owner.done(codec.GET_IDENTITY))
    assert r.uint(16) == world.node.node_id
    assert r.take(32) == world.controller.public  # the only one in trust.d/controllers
    r.end()


def test_inventory(owner):
    """ResourceSummary list; what the admin named is leased: 64 MiB and a 16 MiB disk."""
    r = Reader(owner.done(codec.GET_INVENTORY))
    found = codec.read_summaries(r)
    r.end()
    assert len({s.resource_id for s in found}) == len(found)
    assert all(s.flags & ~3 == 0 and s.available <= s.capacity for s in found)
    (memory,) = [s for s in found if s.resource_type == codec.MEM and s.available]
    (block,) = [s for s in found if s.resource_type == codec.BLOCK and s.available]
    assert memory.capacity == 64 << 20
    assert 15 << 20 <= block.capacity <= 16 << 20


def test_inventory_counts_leases(owner):
    def available(kind: int) -> int:
        found = codec.read_summaries(Reader(owner.done(codec.GET_INVENTORY)))
        return sum(s.available for s in found if s.resource_type == kind)

    for kind in (codec.MEM, codec.BLOCK):
        before = available(kind)
        lease = owner.lease(60, 0, kind, 1 << 20)
        assert available(kind) <= before - (1 << 20)
        owner.free(lease.lease_id)
        assert poll(lambda kind=kind, before=before: available(kind) == before, 10)


def test_what_is_available_can_be_leased(owner):
    """However small the leases before: nothing is announced as free that LEASE_ALLOC then refuses."""

    def available() -> int:
        found = codec.read_summaries(Reader(owner.done(codec.GET_INVENTORY)))
        return sum(s.available for s in found if s.resource_type == codec.BLOCK)

    held = [owner.lease(60, 0, codec.BLOCK, 512) for _ in range(3)]
    assert [lease.endpoint(2).limits[0] for lease in held] == [512] * 3
    held.append(owner.lease(60, 0, codec.BLOCK, available()))
    assert available() == 0
    assert owner.refused(codec.ALLOC, codec.alloc(9, 0, codec.BLOCK, 512), owner.token(codec.P_ALLOC).pack()) == (
        codec.CAPACITY
    )
    for lease in held:
        owner.free(lease.lease_id)


def test_build_info(owner):
    r = Reader(owner.done(codec.GET_BUILD_INFO))
    items = {}
    for _ in range(r.uint(2)):
        key = r.take(r.uint(2)).decode()
        items[key] = r.take(r.uint(2)).decode()
    r.end()
    assert items["version"]


def test_time_sync(owner):
    r = Reader(owner.done(codec.TIME_SYNC, u64(123456789)))
    assert r.uint(8) == 123456789
    assert abs(r.uint(8) - time.time() * 1000) < 10_000
    assert r.uint(8) < 3_600_000
    r.end()


def test_thermal(owner):
    """Missing TLVs mean "not supported on this platform"; what is there has its width and bounds."""
    widths = {0x900: 4, 0x901: 4, 0x902: 1, 0x903: 1, 0x904: 4, 0x905: 1}
    for tag, value in tlvs(owner.done(codec.GET_THERMAL)):
        assert len(value) == widths[tag]
        if tag in (0x901, 0x904):
            assert -40_000 <= int.from_bytes(value, "big", signed=True) <= 150_000
        if tag in (0x902, 0x905):
            assert value[0] <= 2


def test_enrolment_needs_a_controller_or_its_approval(owner, world):
    """ENROLL_REQUEST is answered by a node that holds a controller key, after approval: this one holds none."""
    status = owner.refused(codec.ENROLL_REQUEST, u128(owner.sender) + world.owner.public)
    assert status in (codec.INSUFFICIENT_PERM, codec.INVALID_OP, codec.NOT_FOUND)


@pytest.mark.parametrize("op", [codec.FENCE_CLEAR])
def test_fence_clear(owner, op):
    """It wants ADMIN; an unknown resource is RESOURCE_NOT_FOUND."""
    assert owner.refused(op, u128(12345)) == codec.INSUFFICIENT_PERM
    assert owner.refused(op, u128(12345), owner.token(codec.P_ALLOC).pack()) == codec.INSUFFICIENT_PERM
    assert owner.refused(op, u128(12345), owner.token(codec.P_ADMIN).pack()) == codec.NOT_FOUND


def test_times_of_tokens(owner):
    token = owner.token(ttl=1000)
    assert token.expires_at - token.issued_at <= 300
    assert abs(token.issued_at - time.time()) < 10
    assert codec.read_token(owner.done(codec.CAP_REFRESH, u32(7), token.pack()))._replace(
        token_id=0, issued_at=0, expires_at=0, mac=b""
    ) == token._replace(token_id=0, issued_at=0, expires_at=0, mac=b"")
