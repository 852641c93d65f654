"""Memory leases: an extent of the slabs, opened by a slot (ports.DataPlane; D8, D9, D10).

Binding is one step, as no other party has a say between its halves: bytes are found, which are zero, and a slot opens
them to every path at once. It is undone backwards: the slot is ended and everybody who had passed its check is waited
for, then the bytes are zeroed, and only then may they be granted again. Each half is undone if it was done.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fabricbios.dataplane.endpoints import Listener, Place
from fabricbios.dataplane.extents import Extents
from fabricbios.dataplane.fbmu import LIMITS_BESIDE
from fabricbios.dataplane.planeslots import PlaneSlots
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import Extent, Plane, SlotState, SlotTable
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import Binding, DpStatus, Perm, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import DpAuthTlv, DpKey, Limits

SLOT_STEP = "memory.slot"
EXTENT = "memory.extent"  # once the first half's own step: an earlier release's journal may have leases with such plans
_TRANSPORTS = {Binding.UDP: Transport.FBMU_UDP, Binding.QUIC: Transport.FBMU_QUIC}


class MemoryPlane:
    """Binds memory leases over UDP and QUIC; safe to call from several threads for different leases.

    `quiesce` returns when no path still works on what it checked before the call (OSError if it cannot
    tell). `clock` is CLOCK_BOOTTIME in ns, `mtu_of` the MTU of the interface that has an address. What
    `table` holds already is taken over; bytes that nobody holds then are zeroed if `recovered`.
    """

    def __init__(
        self,
        table: SlotTable,
        memory: Memory,
        listeners: Sequence[Listener],
        quiesce: Callable[[], None],
        *,
        mtu_of: Callable[[str], int] = lambda _: 1500,
        clock: Callable[[], int] = boottime_ns,
        recovered: bool = False,
    ) -> None:
        self._slots = PlaneSlots(Plane.FBMU, table, listeners, _TRANSPORTS, quiesce, mtu_of, clock)
        self._memory = memory
        self._extents = Extents(memory.size)
        self._lock = threading.Lock()
        for lease_id, slot in self._slots.leases().items():
            self._claim(lease_id, self._slots.extent(slot))
        for base, length in self._extents.gaps() if recovered else ():
            memory.zero(base, length)

    def _claim(self, lease_id: int, held: Extent) -> None:
        """Keep the bytes of a slot; those of an ended lease, length 0, are free."""
        if held.length:
            self._extents.claim(lease_id, held.base, held.length)

    @property
    def available(self) -> int:
        """Bytes that no lease has."""
        with self._lock:
            return self._extents.available

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        return (SLOT_STEP,)

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        """OSError(ENOSPC) when there are no bytes in one piece, or no slot."""
        with self._lock:
            base, _ = self._extents.allocate(lease.lease_id, lease.size)
        found = self._slots.places(lease)
        self._slots.open(lease, Extent(base, lease.size), lease.dp_key, _limits(found))
        return self._tlvs(lease, found)

    def undo(self, step: str, lease: LeaseSpec) -> None:
        """OSError(ETIMEDOUT) when a path cannot be waited for: then the bytes stay as they are, held."""
        if step == SLOT_STEP:
            self._slots.end(lease.lease_id)
        self._wipe(lease.lease_id)

    def _wipe(self, lease_id: int) -> None:
        slot, held = self._slots.must_be_closed(lease_id), self._extents.of(lease_id)
        if held is None:
            return
        if slot is not None:
            self._slots.set_empty(slot)
        self._memory.zero(*held)
        with self._lock:
            self._extents.free(lease_id)

    def renew(self, lease: LeaseSpec) -> None:
        self._slots.renew(lease)

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        """The bytes stay, the old key is dead. OSError as PlaneSlots.rekey."""
        found = self._slots.places(lease)
        self._slots.rekey(lease, _limits(found))
        return self._tlvs(lease, found)

    def forget(self, lease: LeaseSpec) -> None:
        self._slots.forget(lease.lease_id)

    def fence(self, lease: LeaseSpec) -> None:
        self._slots.fence(lease.lease_id)

    def adopt(self, lease: LeaseSpec) -> None:
        """OSError(ENOENT) unless slot and bytes outlived the last daemon; what it says of the lease holds again."""
        slot, held = self._slots.find(lease.lease_id), self._extents.of(lease.lease_id)
        if slot is None or held is None or self._slots.state(slot) != SlotState.ACTIVE:
            raise OSError(errno.ENOENT, "the memory of this lease did not outlive its daemon")
        self._slots.renew(lease)

    def orphans(self, known: set[int]) -> set[int]:
        """Return the leases that have a slot and that the lease journal does not know: release() is for them."""
        return self._slots.leases().keys() - known

    def release(self, lease_id: int) -> None:
        """End, wipe and forget what an orphan held. OSError as undo()."""
        self._slots.end(lease_id)
        self._wipe(lease_id)
        self._slots.forget(lease_id)

    def read(self, lease_id: int, offset: int, length: int) -> tuple[DpStatus, bytes]:
        """READ without a datagram: the QUIC data plane's (D11), under the same slot."""
        with self._slots.under_way(lease_id):
            status, lies = self._slots.judge(lease_id, Perm.READ, offset, length, _QUIC_READ)
            at = lies.base + offset
            return status, b"" if status else bytes(self._memory.view[at : at + length])

    def write(self, lease_id: int, offset: int, data: bytes) -> DpStatus:
        """WRITE, likewise."""
        with self._slots.under_way(lease_id):
            status, lies = self._slots.judge(lease_id, Perm.WRITE, offset, len(data), _QUIC_WRITE)
            if not status:
                self._memory.view[lies.base + offset : lies.base + offset + len(data)] = data
            return status

    def length(self, lease_id: int) -> tuple[DpStatus, int]:
        """Return what HELLO asks for: the bytes leased."""
        return self._slots.length(lease_id)

    def _tlvs(self, lease: LeaseSpec, found: list[Place]) -> Sequence[Any]:
        """Each ENDPOINT is followed by its own LIMITS (D10); a key is for datagrams (D11)."""
        out: list[Any] = []
        for place in found:
            out += [place.endpoint, Limits(lease.size, place.message - _BESIDE_READ, place.message - _BESIDE_WRITE)]
        if lease.binding == Binding.UDP:
            out += [DpKey(lease.dp_key), DpAuthTlv(lease.dp_auth)]
        return out


_BESIDE_READ, _BESIDE_WRITE = LIMITS_BESIDE
_QUIC_READ, _QUIC_WRITE = ((1 << 20) - beside for beside in LIMITS_BESIDE)


def _limits(found: Sequence[Place]) -> tuple[int, int]:
    """Return the longest READ and WRITE at the roomiest of these places."""
    message = max([place.message for place in found])
    return message - _BESIDE_READ, message - _BESIDE_WRITE
