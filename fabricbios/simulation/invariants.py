"""What must hold on every machine after everything that happens, whatever luck it has."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from fabricbios.model import LeaseState, hex128

if TYPE_CHECKING:
    from fabricbios.simulation.machine import Machine


class Broken(AssertionError):
    """An invariant does not hold: a defect of the core, or of the simulation."""


def must(holds: bool, why: str, machine: Machine) -> None:
    """Raise Broken, with where and when, unless it holds."""
    if not holds:
        raise Broken(f"{why} (on {machine.name}, {machine.schedule.seconds:.3f} s after the start)")


def check(machine: Machine) -> None:
    """Compare what the core believes, what the device holds, what the journal was told and what clients were told."""
    held = {lease.spec.lease_id: lease for lease in machine.node.leases() if lease.state is not LeaseState.FREE}
    plane = machine.plane
    must(set(plane.held) <= set(held), "something is held for a lease that is over", machine)
    must(not machine.freed & set(plane.held), "something is held after FREE was answered", machine)
    # An end that could not be recorded comes back after a kill, beside what was granted since: it holds nothing.
    real = [lease for lease_id, lease in held.items() if not lease.ending or lease_id in plane.held]
    must(sum(lease.spec.size for lease in real) <= plane.capacity, "more is granted than there is", machine)
    _check_access(machine)
    places = sorted((h.start, h.start + h.size) for h in plane.held.values())
    must(all(a[1] <= b[0] for a, b in pairwise(places)), "two leases are on the same bytes", machine)


def _check_access(machine: Machine) -> None:
    """The data path, which compares its own clock, lets nobody in for longer than the journal knows."""
    for lease_id, holding in machine.plane.held.items():
        if holding.open:
            promised = machine.journal.promised.get(hex128(lease_id), 0)
            must(holding.expires_ns <= promised, "the data path lets in for longer than was recorded", machine)


def check_expiry(machine: Machine, lease_id: int) -> None:
    """A lease that expires does so no earlier than its holder was told."""
    told = machine.told.get(lease_id, 0)
    must(machine.now.unix_ms >= told * 1000 - 1000, "a lease expired before its holder was told it would", machine)


def check_rest(machine: Machine) -> None:
    """After everything came to rest nothing is left."""
    must(machine.node.drained, "something would not go although nothing fails any more", machine)
    must(not machine.plane.held, "something is left behind", machine)
    must(machine.node.summaries()[0].available == machine.plane.capacity, "the books do not add up", machine)
    must(not list(machine.node.journal()), "the journal has not forgotten", machine)
