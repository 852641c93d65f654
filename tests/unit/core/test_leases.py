"""The table: ids, low halves, what is remembered and for how long."""

from fabricbios.core.admission import Admission
from fabricbios.core.happened import Cause
from fabricbios.core.lease import Lease
from fabricbios.core.leases import MAX_REMEMBERED, REMEMBER_NS, Leases
from fabricbios.model import NS, Binding, DpAuth, Instant, LeaseStatus, ResourceType
from fabricbios.ports import LeaseSpec

T0 = Instant(0, 0)


def spec(lease_id: int, holder: int = 1) -> LeaseSpec:
    return LeaseSpec(lease_id, 1, ResourceType.MEM, Binding.UDP, 1, holder, 1, DpAuth.HMAC_HEADER, b"", 3, 9 * NS)


def table(*ids: int) -> Leases:
    leases = Leases(Admission(()))
    for lease_id in ids:
        leases.add(Lease(spec(lease_id), ("a",), 0, 9, "boot"))
    return leases


class Script:
    """An rng that says what it is told."""

    def __init__(self, *bits: int) -> None:
        self._bits = list(bits)

    def getrandbits(self, k: int, /) -> int:
        return self._bits.pop(0)

    def randbytes(self, n: int, /) -> bytes:
        return bytes(n)


def test_a_new_id_never_shares_a_live_low_half_and_is_not_zero_there() -> None:
    leases = table(5)
    assert leases.new_id(Script(5, (1 << 64) + 5, 1 << 64, 0, 6)) == 6


def end(leases: Leases, lease: Lease, now: Instant) -> None:
    lease.tear_down(Cause.REVOKED, now)
    leases.settle(lease)


def test_what_is_over_is_remembered_for_a_while() -> None:
    leases = table(5)
    lease = leases.get(5)
    assert lease is not None
    end(leases, lease, T0)
    past = leases.remembered(5, T0)
    assert past is not None
    assert past.status is LeaseStatus.REVOKED
    assert leases.remembered(5, Instant(REMEMBER_NS, 0)) is None
    assert leases.new_id(Script(5, 7)) == 7


def test_so_many_are_remembered_and_no_more() -> None:
    leases = table(*range(1, MAX_REMEMBERED + 3))
    for lease in list(leases):
        end(leases, lease, T0)
    assert leases.remembered(2, T0) is None
    assert leases.remembered(3, T0) is not None


def test_by_holder() -> None:
    leases = table(5, 6)
    leases.add(Lease(spec(7, holder=2), ("a",), 0, 9, "boot"))
    assert {lease.spec.lease_id for lease in leases.of(1)} == {5, 6}
    assert leases.of(3) == []
    for lease in leases.of(1):
        leases.drop(lease)
    assert leases.of(1) == []
    assert len(leases) == 1
