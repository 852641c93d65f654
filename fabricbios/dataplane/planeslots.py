"""The slots of one plane: what binding a lease, ending it and asking about it have in common, whatever it leases.

A plane adds where the bytes are and how they are wiped (memory.py, block.py). Planes may share a table; each sees,
adopts and clears its own leases alone.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager

from fabricbios.dataplane.endpoints import Listener, Place, Places
from fabricbios.dataplane.slots import Extent, Plane, SlotLease, SlotState, SlotTable
from fabricbios.dataplane.underway import UnderWay
from fabricbios.errors import LocalMisuse
from fabricbios.model import Binding, DpStatus, Perm, Transport
from fabricbios.ports import LeaseSpec

STUCK_SECONDS = 2.0  # an undo that waited in vain is tried again (D8)


class PlaneSlots:
    """The leases of `plane` in `table`, served at `listeners`; `transports` says over which binding by which of them.

    `quiesce` returns when no path still works on what it checked before the call, OSError if it cannot tell. `mtu_of`
    is the MTU of the interface that has an address, `clock` CLOCK_BOOTTIME in ns.
    """

    def __init__(
        self,
        plane: Plane,
        table: SlotTable,
        listeners: Sequence[Listener],
        transports: Mapping[Binding, Transport],
        quiesce: Callable[[], None],
        mtu_of: Callable[[str], int],
        clock: Callable[[], int],
    ) -> None:
        self._plane, self._table, self._transports = plane, table, transports
        self._quiesce, self._clock = quiesce, clock
        self._reachable = Places(listeners, mtu_of, clock)
        self._under_way = UnderWay()
        self._closed: set[int] = set()  # old slots of leases with a new key, in which somebody may still be
        self._turn = threading.Lock()

    def leases(self) -> dict[int, int]:
        """Return lease id -> slot."""
        return {lease_id: slot for lease_id, slot in self._table if self._table.plane(slot) == self._plane}

    def find(self, lease_id: int) -> int | None:
        return self._table.find(lease_id, self._plane)

    def extent(self, slot: int) -> Extent:
        """Return where the slot says the bytes are; length 0 for a lease that holds none any more."""
        return self._table.extent(slot)

    def state(self, slot: int) -> SlotState:
        return SlotState(self._table.state(slot))

    def places(self, lease: LeaseSpec) -> list[Place]:
        """Return where its holder reaches it. OSError(EADDRNOTAVAIL) where nothing serves that binding there."""
        found = self._reachable.of(self._transports.get(lease.binding), lease.reached)
        if not found:
            what = f"{lease.kind.name} leases over {lease.binding.name}"
            raise OSError(errno.EADDRNOTAVAIL, f"nothing serves {what} at {lease.reached}")
        return found

    def open(self, lease: LeaseSpec, extent: Extent, dp_key: bytes, limits: tuple[int, int]) -> None:
        """Open the extent to every path; `limits` are the longest READ and WRITE. OSError(ENOSPC) without a slot."""
        self._table.install(self._slot_lease(lease, extent, dp_key, limits), self._clock())

    def rekey(self, lease: LeaseSpec, limits: tuple[int, int]) -> None:
        """The bytes stay; open them under the lease's new key. The old one is dead then, and what it asked is through.

        OSError where a path cannot be waited for: then neither key opens anything that anybody knows.
        """
        old = self._slot(lease.lease_id)
        self._table.rekey(self._slot_lease(lease, self.extent(old), lease.dp_key, limits), self._clock())
        with self._turn:
            self._closed.add(old)
        self._settle()

    def _settle(self) -> None:
        """Wait for every path; slots that were closed before rest from then on. OSError: they are kept for the next."""
        with self._turn:
            closed = frozenset(self._closed)
        self._quiesce()
        if closed:
            self._let_rest(closed)

    def _let_rest(self, closed: Set[int]) -> None:
        """Each of them once: several threads may have waited for the same."""
        with self._turn:
            through = closed & self._closed
            self._closed -= through
        for slot in through:
            self._table.rest(slot, self._clock())

    def under_way(self, lease_id: int) -> AbstractContextManager[None]:
        """Enter before judge(), leave when what it allowed is carried out: `end` waits for that."""
        return self._under_way.one(lease_id)

    def end(self, lease_id: int) -> None:
        """Close the lease and wait for who had found it open: every path, and our own operations under way.

        OSError(ETIMEDOUT) where one of them does not come to an end; nothing happens without a slot.
        """
        slot = self.find(lease_id)
        if slot is None:
            return
        if self._table.state(slot) == _ACTIVE:
            self._table.set_state(slot, SlotState.ENDED)
        self._under_way.wait(lease_id, STUCK_SECONDS)
        self._settle()

    def must_be_closed(self, lease_id: int) -> int | None:
        """Return the slot, if there is one. LocalMisuse where it is open: its bytes are not to be touched."""
        slot = self.find(lease_id)
        if slot is not None and self._table.state(slot) == _ACTIVE:
            raise LocalMisuse("the bytes of an open slot are not to be touched")
        return slot

    def set_empty(self, slot: int) -> None:
        """Say that an ended lease holds no bytes any more: a successor that adopts the table may lease them."""
        self._table.set_length(slot, 0)

    def renew(self, lease: LeaseSpec) -> None:
        slot = self._slot(lease.lease_id)
        self._table.set_expiry(slot, lease.expires_ns)
        self._table.set_generation(slot, lease.generation)

    def forget(self, lease_id: int) -> None:
        """From now on the lease is unknown."""
        if self.find(lease_id) is not None:
            self._table.clear(lease_id, self._clock())

    def fence(self, lease_id: int) -> None:
        """Answer FENCED from now on, until forgotten."""
        slot = self.find(lease_id)
        if slot is not None:
            self._table.set_state(slot, SlotState.FENCED)

    def length(self, lease_id: int) -> tuple[DpStatus, int]:
        """Return what HELLO asks for: the bytes leased."""
        slot = self.find(lease_id)
        status = DpStatus.INVALID_LEASE if slot is None else self._status(slot)
        return status, 0 if slot is None or status else self.extent(slot).length

    def judge(self, lease_id: int, right: Perm, offset: int, length: int, most: int) -> tuple[DpStatus, Extent]:
        """Return what D10 says of `length` bytes from `offset` in the order it says it, and where the lease lies."""
        slot = self.find(lease_id)
        if slot is None:
            return DpStatus.INVALID_LEASE, _NOWHERE
        extent, status = self.extent(slot), self._status(slot)
        if status:
            return status, extent
        if not 0 < length <= most:
            return DpStatus.BAD_LENGTH, extent
        if not self._table.get(slot, "rights") & right or offset + length > extent.length:
            return DpStatus.OUT_OF_RANGE, extent
        return DpStatus.OK, extent

    def _slot(self, lease_id: int) -> int:
        """Return the slot of a lease that has one."""
        slot = self.find(lease_id)
        if slot is None:
            raise OSError(errno.ENOENT, "the lease has no slot")
        return slot

    def _status(self, slot: int) -> DpStatus:
        state = self.state(slot)
        if state == SlotState.ACTIVE:
            return DpStatus.OK if self._clock() < self._table.get(slot, "expiry_ns") else DpStatus.EXPIRED
        return DpStatus.FENCED if state == SlotState.FENCED else DpStatus.EXPIRED

    def _slot_lease(self, lease: LeaseSpec, extent: Extent, dp_key: bytes, limits: tuple[int, int]) -> SlotLease:
        return SlotLease(
            lease.lease_id,
            self._plane,
            extent,
            lease.rights,
            lease.dp_auth,
            dp_key,
            lease.generation,
            lease.expires_ns,
            *limits,
        )


_ACTIVE = int(SlotState.ACTIVE)  # naming an enum member costs a lookup each time
_NOWHERE = Extent(0, 0)
