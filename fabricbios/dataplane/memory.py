"""Memory leases: an extent of the slabs, opened by a slot (ports.DataPlane; D8, D9, D10).

Binding is two steps. `memory.extent` finds the bytes, which are zero; `memory.slot` opens them to every
path at once. Undone backwards: the slot is ended and everybody who had passed its check is waited for,
then the bytes are zeroed, and only then may they be granted again.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fabricbios.dataplane.endpoints import Listener, Place, Places
from fabricbios.dataplane.extents import Extents
from fabricbios.dataplane.fbmu import LIMITS_BESIDE
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import Extent, Plane, SlotLease, SlotState, SlotTable
from fabricbios.errors import LocalMisuse
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import Binding, DpStatus, Perm, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import DpAuthTlv, DpKey, Limits

EXTENT, SLOT_STEP = "memory.extent", "memory.slot"
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
        self._table, self._memory = table, memory
        self._quiesce, self._clock = quiesce, clock
        self._reachable = Places(listeners, mtu_of, clock)
        self._extents = Extents(memory.size)
        self._lock, self._direct = threading.Lock(), threading.Lock()
        for lease_id, slot in table:
            self._claim(lease_id, slot)
        for base, length in self._extents.gaps() if recovered else ():
            memory.zero(base, length)

    def _claim(self, lease_id: int, slot: int) -> None:
        """Keep the bytes of a slot; those of an ended lease, length 0, are free."""
        base, length = self._table.get(slot, "base"), self._table.get(slot, "length")
        if self._table.get(slot, "plane") == Plane.FBMU and length:
            self._extents.claim(lease_id, base, length)

    @property
    def available(self) -> int:
        """Bytes that no lease has."""
        with self._lock:
            return self._extents.available

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        return EXTENT, SLOT_STEP

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        """OSError(ENOSPC) when there are no bytes in one piece, or no slot."""
        with self._lock:
            if step == EXTENT:
                self._extents.allocate(lease.lease_id, lease.size)
                return ()
            found = self._places(lease)
            self._table.install(self._slot_lease(lease, found), self._clock())
        return self._tlvs(lease, found)

    def undo(self, step: str, lease: LeaseSpec) -> None:
        """OSError(ETIMEDOUT) when a path cannot be waited for: then the bytes stay as they are, held."""
        if step == SLOT_STEP:
            self._end(lease.lease_id)
        else:
            self._wipe(lease.lease_id)

    def _end(self, lease_id: int) -> None:
        slot = self._table.find(lease_id)
        if slot is not None:
            if self._table.get(slot, "state") == SlotState.ACTIVE:
                self._table.set_state(slot, SlotState.ENDED)
            with self._direct:
                pass  # read() or write() that had found the lease open is through
            self._quiesce()

    def _wipe(self, lease_id: int) -> None:
        slot, held = self._table.find(lease_id), self._extents.of(lease_id)
        if held is None:
            return
        if slot is not None:
            if self._table.get(slot, "state") == SlotState.ACTIVE:
                raise LocalMisuse("the bytes of an open slot are not to be touched")
            self._table.set_length(slot, 0)
        self._memory.zero(*held)
        with self._lock:
            self._extents.free(lease_id)

    def renew(self, lease: LeaseSpec) -> None:
        slot = self._slot(lease.lease_id)
        self._table.set_expiry(slot, lease.expires_ns)
        self._table.set_generation(slot, lease.generation)

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        """The bytes stay; the old key is dead before the new one is told, and what was asked with it is through.

        OSError where a path cannot be waited for: then neither key opens anything that anybody knows.
        """
        found = self._places(lease)
        with self._lock:
            self._slot(lease.lease_id)
            self._table.rekey(self._slot_lease(lease, found), self._clock())
        self._quiesce()
        return self._tlvs(lease, found)

    def forget(self, lease: LeaseSpec) -> None:
        with self._lock:
            self._table.clear(lease.lease_id, self._clock())

    def fence(self, lease: LeaseSpec) -> None:
        """Answer FENCED from now on, until forgotten."""
        slot = self._table.find(lease.lease_id)
        if slot is not None:
            self._table.set_state(slot, SlotState.FENCED)

    def adopt(self, lease: LeaseSpec) -> None:
        """OSError(ENOENT) unless slot and bytes outlived the last daemon; what it says of the lease holds again."""
        slot, held = self._table.find(lease.lease_id), self._extents.of(lease.lease_id)
        if slot is None or held is None or self._table.get(slot, "state") != SlotState.ACTIVE:
            raise OSError(errno.ENOENT, "the memory of this lease did not outlive its daemon")
        self.renew(lease)

    def orphans(self, known: set[int]) -> set[int]:
        """Return the leases that have a slot and that the lease journal does not know: release() is for them."""
        return {lease_id for lease_id, _ in self._table} - known

    def release(self, lease_id: int) -> None:
        """End, wipe and forget what an orphan held. OSError as undo()."""
        self._end(lease_id)
        self._wipe(lease_id)
        with self._lock:
            self._table.clear(lease_id, self._clock())

    def read(self, lease_id: int, offset: int, length: int) -> tuple[DpStatus, bytes]:
        """READ without a datagram: the QUIC data plane's (D11), under the same slot."""
        with self._direct:
            status, at = self._judge(lease_id, Perm.READ, offset, length)
            return status, b"" if status else bytes(self._memory.view[at : at + length])

    def write(self, lease_id: int, offset: int, data: bytes) -> DpStatus:
        """WRITE, likewise."""
        with self._direct:
            status, at = self._judge(lease_id, Perm.WRITE, offset, len(data))
            if not status:
                self._memory.view[at : at + len(data)] = data
            return status

    def length(self, lease_id: int) -> tuple[DpStatus, int]:
        """Return what HELLO asks for: the bytes leased."""
        slot = self._table.find(lease_id)
        status = DpStatus.INVALID_LEASE if slot is None else self._status(slot)
        return status, 0 if slot is None or status else self._table.get(slot, "length")

    def _judge(self, lease_id: int, right: Perm, offset: int, length: int) -> tuple[DpStatus, int]:
        """Return what D10 says of an operation in the order it says it, and where in the memory it goes."""
        slot = self._table.find(lease_id)
        if slot is None:
            return DpStatus.INVALID_LEASE, 0
        status = self._status(slot)
        if status:
            return status, 0
        if length <= 0 or length > _QUIC_DATA[right]:
            return DpStatus.BAD_LENGTH, 0
        if not self._table.get(slot, "rights") & right or offset + length > self._table.get(slot, "length"):
            return DpStatus.OUT_OF_RANGE, 0
        return DpStatus.OK, self._table.get(slot, "base") + offset

    def _status(self, slot: int) -> DpStatus:
        state = self._table.get(slot, "state")
        if state == SlotState.ACTIVE:
            return DpStatus.OK if self._clock() < self._table.get(slot, "expiry_ns") else DpStatus.EXPIRED
        return DpStatus.FENCED if state == SlotState.FENCED else DpStatus.EXPIRED

    def _slot(self, lease_id: int) -> int:
        """Return the slot of a lease that has one."""
        slot = self._table.find(lease_id)
        if slot is None:
            raise OSError(errno.ENOENT, "the lease has no slot")
        return slot

    def _places(self, lease: LeaseSpec) -> list[Place]:
        found = self._reachable.of(_TRANSPORTS.get(lease.binding), lease.reached)
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, f"nothing serves memory over {lease.binding.name} at {lease.reached}")
        return found

    def _slot_lease(self, lease: LeaseSpec, found: list[Place]) -> SlotLease:
        held = self._extents.of(lease.lease_id)
        if held is None:
            raise LocalMisuse("a slot is opened on an extent")
        message = max(place.message for place in found)
        return SlotLease(
            lease.lease_id,
            Plane.FBMU,
            Extent(held[0], lease.size),
            lease.rights,
            lease.dp_auth,
            lease.dp_key,
            lease.generation,
            lease.expires_ns,
            message - LIMITS_BESIDE[0],
            message - LIMITS_BESIDE[1],
        )

    def _tlvs(self, lease: LeaseSpec, found: list[Place]) -> Sequence[Any]:
        """Each ENDPOINT is followed by its own LIMITS (D10); a key is for datagrams (D11)."""
        out: list[Any] = []
        for place in found:
            out += [place.endpoint, Limits(lease.size, *(place.message - beside for beside in LIMITS_BESIDE))]
        if lease.binding == Binding.UDP:
            out += [DpKey(lease.dp_key), DpAuthTlv(lease.dp_auth)]
        return out


_QUIC_DATA = {Perm.READ: (1 << 20) - LIMITS_BESIDE[0], Perm.WRITE: (1 << 20) - LIMITS_BESIDE[1]}
