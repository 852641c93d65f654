"""Who pays for looking at a signature."""

from discovery_rig import at

from fabricbios.core.checks import OWN_BURST, SHARED_BURST, Checks
from fabricbios.ports import UdpPeer

HERE, THERE = UdpPeer("192.0.2.1", 5700), UdpPeer("192.0.2.2", 5700)


def taken(checks: Checks, sender: int, peer: UdpPeer, seconds: float = 0.0) -> int:
    return sum(checks.take(sender, peer, at(seconds)) for _ in range(10_000))


def test_who_proved_itself_has_checks_that_no_flood_elsewhere_uses_up() -> None:
    checks = Checks()
    checks.proved(1, HERE)
    checks.proved(2, THERE)
    assert taken(checks, 2, THERE) == OWN_BURST + SHARED_BURST
    assert taken(checks, 3, HERE) == SHARED_BURST  # strangers have an allowance of their own
    assert taken(checks, 1, HERE) == OWN_BURST
    assert taken(checks, 1, HERE, 8) > 2


def test_a_seat_is_an_id_an_address_and_a_port() -> None:
    checks = Checks()
    checks.proved(1, HERE)
    assert checks.is_proven(1, HERE._replace(local="eth0"))
    assert not checks.is_proven(2, HERE)
    assert not checks.is_proven(1, THERE)
    assert not checks.is_proven(1, HERE._replace(port=1))


def test_one_source_wastes_little_of_what_strangers_share() -> None:
    checks = Checks()
    for i in range(100):
        peer = UdpPeer(f"2001:db8::{i:x}", 5700)  # all of one /64
        if checks.take(i, peer, at()):
            checks.failed(i, peer, at())
    assert taken(checks, 1, HERE) == SHARED_BURST - 20


def test_forgeries_at_a_nodes_seat_are_not_held_against_its_address() -> None:
    checks = Checks()
    checks.proved(1, HERE)
    for _ in range(100):
        checks.failed(1, HERE, at())
    assert checks.take(2, HERE, at())


def test_seats_are_bounded_and_those_who_go_on_keep_theirs() -> None:
    checks = Checks(seats=10)
    checks.proved(1, HERE)
    for i in range(100, 200):
        checks.proved(i, THERE)
        checks.proved(1, HERE)
    assert len(checks) == 10
    assert checks.is_proven(1, HERE)
