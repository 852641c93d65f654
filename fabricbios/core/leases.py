"""The table of all leases: found by id, by holder and by low half; counted, timed, and remembered when over.

After anything is asked of a lease or reported to it, `settle` brings the books up to date: that is the
whole contract between this table and `core.lease`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from fabricbios.core.admission import Admission
from fabricbios.core.effects import Effect
from fabricbios.core.happened import Cause, Happened
from fabricbios.core.lease import FENCED, FREE, Lease
from fabricbios.core.timers import Timers
from fabricbios.model import NS, Instant, LeaseState, LeaseStatus, ResourceType

REMEMBER_NS = 300 * NS  # D8, LEASE_QUERY
MAX_REMEMBERED = 65_536
JUMP_MS = 1500  # what Unix time may drift from CLOCK_BOOTTIME before the leases follow
_LOW = (1 << 64) - 1


class Rng(Protocol):
    """random.Random in the simulator, random.SystemRandom in the daemon."""

    def getrandbits(self, k: int, /) -> int: ...

    def randbytes(self, n: int, /) -> bytes: ...


class Remembered(NamedTuple):
    """What LEASE_QUERY still says of a lease that is over."""

    lease_id: int
    holder: int
    status: LeaseStatus
    ends_unix: int
    until_ns: int


class Leases:
    """Every lease from its PENDING until it is forgotten, FENCED ones included."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._by_low: dict[int, Lease] = {}  # D13: two leases here never share a low half
        self._by_holder: dict[int, dict[int, Lease]] = {}
        self._remembered: dict[int, Remembered] = {}  # in order of their end
        self._ready: deque[Lease] = deque()
        self._timers: Timers[Lease] = Timers()
        self._ahead_ms = 0  # of Unix time before CLOCK_BOOTTIME
        self.counts: dict[tuple[ResourceType, LeaseState], int] = {}

    def __len__(self) -> int:
        return len(self._by_low)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_low.values())

    def get(self, lease_id: int) -> Lease | None:
        lease = self._by_low.get(lease_id & _LOW)
        return lease if lease is not None and lease.spec.lease_id == lease_id else None

    def low(self, low: int) -> Lease | None:
        """Find by the u64 that EXPORT, RELOCATE and OFI carry (D13)."""
        return self._by_low.get(low)

    def of(self, holder: int) -> list[Lease]:
        return list(self._by_holder.get(holder, {}).values())

    def remembered(self, lease_id: int, now: Instant) -> Remembered | None:
        past = self._remembered.get(lease_id)
        return past if past is not None and now.boot_ns < past.until_ns else None

    def new_id(self, rng: Rng) -> int:
        """Return an id whose low half nobody here has, and that is not zero."""
        while True:
            lease_id = rng.getrandbits(128)
            if lease_id & _LOW and lease_id & _LOW not in self._by_low and lease_id not in self._remembered:
                return lease_id

    def add(self, lease: Lease) -> None:
        spec = lease.spec
        self._by_low[spec.lease_id & _LOW] = lease
        self._by_holder.setdefault(spec.holder, {})[spec.lease_id] = lease
        self._admission.take(spec)
        self.settle(lease)

    def follow_wall_clock(self, now: Instant) -> None:
        """Notice that somebody set the wall clock, and let the leases' ends in Unix seconds move with it."""
        ahead_ms = now.unix_ms - now.boot_ns // 1_000_000
        if abs(ahead_ms - self._ahead_ms) > JUMP_MS:
            self._ahead_ms = ahead_ms
            for lease in self:
                lease.anchor(now)

    def settle(self, lease: Lease) -> None:
        """Bring counts, capacity, timers and the queue of effects up to date with what the lease now is."""
        if lease.counted is not lease.state:
            self._recount(lease)
        self._timers.arm(lease)
        if lease.running is None:
            self._ready.append(lease)

    def _recount(self, lease: Lease) -> None:
        was, state, spec, counts = lease.counted, lease.state, lease.spec, self.counts
        lease.counted = state
        if was is not None:
            counts[spec.kind, was] -= 1
            if was is FENCED:
                self._admission.unfence(spec.resource_id)
        if state is FREE:
            self._admission.give_back(spec)
            self._remember(lease)
            return
        counts[spec.kind, state] = counts.get((spec.kind, state), 0) + 1
        if state is FENCED:
            self._admission.fence(spec.resource_id)

    def _remember(self, lease: Lease) -> None:
        spec = lease.spec
        status = LeaseStatus.EXPIRED if lease.cause is Cause.EXPIRED else LeaseStatus.REVOKED
        self._remembered[spec.lease_id] = Remembered(
            spec.lease_id, spec.holder, status, lease.ends_unix, lease.ended_ns + REMEMBER_NS
        )
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def drop(self, lease: Lease) -> None:
        """FORGOTTEN: nothing of it is left but what LEASE_QUERY remembers."""
        spec = lease.spec
        del self._by_low[spec.lease_id & _LOW]
        theirs = self._by_holder[spec.holder]
        del theirs[spec.lease_id]
        if not theirs:
            del self._by_holder[spec.holder]
        self._timers.disarm(lease)

    def next_deadline(self) -> int | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: Instant) -> Iterator[tuple[Lease, list[Happened]]]:
        """Yield each lease that something happened to because of the time; already settled."""
        self._forget_remembered(now)
        for lease in self._timers.due(now.boot_ns):
            happened = lease.handle_timer(now)
            self.settle(lease)
            yield lease, happened

    def _forget_remembered(self, now: Instant) -> None:
        while self._remembered:
            first = next(iter(self._remembered.values()))
            if now.boot_ns < first.until_ns:
                return
            del self._remembered[first.lease_id]

    def next_effect(self) -> Effect | None:
        """Return an effect of any lease that has one, in order of asking."""
        while self._ready:
            effect = self._ready.popleft().next_effect()
            if effect is not None:
                return effect
        return None
