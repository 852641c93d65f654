"""Block leases: an extent of the admin's files and devices, opened by a slot (ports.DataPlane; D8, D9, D10).

Binding is two steps. `block.extent` finds the bytes and writes down whose they are; `block.slot` opens them. Undone
backwards: the slot is ended and every question that had passed its check is waited for, then the bytes are wiped
as the policy says, and only then are they anybody else's.
"""

from __future__ import annotations

import errno
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fabricbios.dataplane.blockpool import BlockPool, Region
from fabricbios.dataplane.endpoints import Listener, Place
from fabricbios.dataplane.fbbu import LIMITS_BESIDE, Span, Sync
from fabricbios.dataplane.planeslots import PlaneSlots
from fabricbios.dataplane.slots import Extent, Plane, SlotState, SlotTable
from fabricbios.dataplane.store_faults import faults_of, page_bytes
from fabricbios.errors import LocalMisuse
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import BLOCK_SIZE, Binding, DpStatus, Perm, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import BlockGeometry, DpAuthTlv, DpKey, Limits

EXTENT, SLOT_STEP = "block.extent", "block.slot"
_TRANSPORTS = {Binding.UDP: Transport.FBBU_UDP, Binding.QUIC: Transport.FBBU_QUIC}
QUIC_BLOCKS = ((1 << 20) - max(LIMITS_BESIDE)) // BLOCK_SIZE
"""Blocks of one operation over QUIC, whose messages have at most 1 MiB (D11)."""


class BlockPlane:
    """Binds block leases over UDP and QUIC; safe to call from several threads for different leases.

    `table` may be shared with other planes, and have outlived a daemon: what it holds of this plane is adopted, or an
    orphan. `quiesce` returns when no server still works on what it checked before the call, OSError if it cannot tell.
    `clock` is CLOCK_BOOTTIME in ns.
    """

    def __init__(
        self,
        table: SlotTable,
        pool: BlockPool,
        listeners: Sequence[Listener],
        quiesce: Callable[[], None],
        *,
        sync: Sync = Sync.DATASYNC,
        mtu_of: Callable[[str], int] = lambda _: 1500,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        self._slots = PlaneSlots(Plane.FBBU, table, listeners, _TRANSPORTS, quiesce, mtu_of, clock)
        self._pool, self._sync = pool, sync
        self._writing = [threading.Lock() for _ in pool.backings]  # a write-back that failed is told to one flush alone
        page = bytearray(page_bytes(len(pool.backings)))
        self.faults = faults_of(page, len(pool.backings))
        """What the stores answered this process with errors, by device number: QUIC's I/O."""
        self._forget_moved()

    def _forget_moved(self) -> None:
        """Forget open slots whose bytes the pool has elsewhere: stores are counted anew with each configuration, and a
        server believes the number in the slot. So the plane is made before its server; adopt() opens such leases again.
        """
        for lease_id, slot in self._slots.leases().items():
            if self._slots.state(slot) == SlotState.ACTIVE and not self._is_in_place(
                lease_id, self._slots.extent(slot)
            ):
                self._slots.forget(lease_id)

    def _is_in_place(self, lease_id: int, extent: Extent) -> bool:
        try:
            region = self._pool.find(lease_id)
        except OSError:
            return False  # on a store that is not configured any more
        return region is not None and (region.device, region.base) == (extent.device, extent.base)

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        return EXTENT, SLOT_STEP

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        """OSError(ENOSPC) where there is no room in one piece or no slot, EINVAL for a size of no whole block."""
        if step == EXTENT:
            if lease.size <= 0 or lease.size % BLOCK_SIZE:
                raise OSError(errno.EINVAL, f"{lease.size} bytes are no whole number of blocks")
            self._pool.place(lease.lease_id, lease.resource_id, lease.size)
            return ()
        found = self._slots.places(lease)
        self._slots.open(lease, self._extent(lease), lease.dp_key, _limits(found))
        return self._tlvs(lease, found)

    def undo(self, step: str, lease: LeaseSpec) -> None:
        """OSError where a server cannot be waited for, or the bytes cannot be wiped: then they stay held."""
        if step == SLOT_STEP:
            self._slots.end(lease.lease_id)
        else:
            self._wipe(lease.lease_id)

    def _wipe(self, lease_id: int) -> None:
        self._slots.must_be_closed(lease_id)
        self._pool.release(lease_id)

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
        """Take over what the last daemon bound: the bytes are where the journal says, OSError(ENOENT) if nowhere.

        The slot may not have outlived it, and with it the window that keeps a datagram from being replayed; or it may
        count the stores as another configuration had them. Then the lease opens under a key that nobody knows: its
        holder asks for a new one (LEASE_ATTACH) and finds its data.
        """
        region = self._pool.find(lease.lease_id)
        if region is None:
            raise OSError(errno.ENOENT, "nothing is known of where this lease lies")
        region.backing.check()
        if not self._outlived(lease):
            self._slots.forget(lease.lease_id)
            limits = _limits(self._slots.places(lease))
            self._slots.open(lease, self._extent(lease), secrets.token_bytes(32), limits)
        self._slots.renew(lease)

    def _outlived(self, lease: LeaseSpec) -> bool:
        """Say whether the lease has a slot that is right. OSError(ENOENT) where that says that it had ended."""
        slot = self._slots.find(lease.lease_id)
        if slot is not None and self._slots.state(slot) != SlotState.ACTIVE:
            raise OSError(errno.ENOENT, "the lease had ended")
        return slot is not None and self._slots.extent(slot) == self._extent(lease)

    def orphans(self, known: set[int]) -> set[int]:
        """Return the leases that hold bytes or a slot and that the lease journal does not know."""
        return (self._pool.leases() | self._slots.leases().keys()) - known

    def release(self, lease_id: int) -> None:
        """End, wipe and forget what an orphan held. Raises OSError; then it stays held."""
        self._slots.end(lease_id)
        self._wipe(lease_id)
        self._slots.forget(lease_id)

    def read(self, lease_id: int, index: int, count: int) -> tuple[DpStatus, bytes]:
        """READ_BLOCK without a datagram: the QUIC data plane's (D11), under the same slot. Blocks while it reads."""
        with self._slots.under_way(lease_id):
            status, region = self._judge(lease_id, Perm.READ, index, count)
            if status or region is None:
                return status, b""
            data = bytearray(count * BLOCK_SIZE)
            whole = self._span(region).read(index * BLOCK_SIZE, memoryview(data))
            return (DpStatus.OK, bytes(data)) if whole else (DpStatus.INTERNAL, b"")

    def write(self, lease_id: int, index: int, data: bytes) -> DpStatus:
        """WRITE_BLOCK, likewise; durable as the policy says when it returns.

        One WRITE after the other on a store: of two flushes at once the kernel tells one alone that data was lost, and
        it need not be the one that lost them.
        """
        if len(data) % BLOCK_SIZE:
            return DpStatus.BAD_LENGTH
        with self._slots.under_way(lease_id):
            status, region = self._judge(lease_id, Perm.WRITE, index, len(data) // BLOCK_SIZE)
            if status or region is None:
                return status
            with self._writing[region.device]:
                status, _ = self._judge(lease_id, Perm.WRITE, index, len(data) // BLOCK_SIZE)  # it may be over by now
                return status or self._store(self._span(region), index, data)

    def _store(self, span: Span, index: int, data: bytes) -> DpStatus:
        done = span.is_whole() and span.write(index * BLOCK_SIZE, memoryview(data))
        return DpStatus.OK if done and (self._sync is Sync.NONE or span.flush()) else DpStatus.INTERNAL

    def _span(self, region: Region) -> Span:
        backing = region.backing
        return Span(backing.data_fd, region.base, backing.size, backing.is_device, self.faults[region.device])

    def device_of(self, lease_id: int) -> int:
        """Return the number of the store that a lease lies on, -1 if it lies on none: what may hold up what."""
        try:
            region = self._pool.find(lease_id)
        except OSError:
            return -1  # a store that is not configured any more
        return -1 if region is None else region.device

    def blocks(self, lease_id: int) -> tuple[DpStatus, int]:
        """Return what HELLO asks for: the blocks leased."""
        status, length = self._slots.length(lease_id)
        return status, length // BLOCK_SIZE

    def _judge(self, lease_id: int, right: Perm, index: int, count: int) -> tuple[DpStatus, Region | None]:
        """Return what D10 says of an operation, and where its lease lies."""
        offset, length = index * BLOCK_SIZE, count * BLOCK_SIZE
        status, _ = self._slots.judge(lease_id, right, offset, length, QUIC_BLOCKS * BLOCK_SIZE)
        return status, None if status else self._held(lease_id)

    def _held(self, lease_id: int) -> Region:
        region = self._pool.find(lease_id)
        if region is None:
            raise LocalMisuse("a slot is opened on an extent")
        return region

    def _extent(self, lease: LeaseSpec) -> Extent:
        region = self._held(lease.lease_id)
        return Extent(region.base, lease.size, region.device)

    def _tlvs(self, lease: LeaseSpec, found: list[Place]) -> Sequence[Any]:
        """Each ENDPOINT is followed by its own LIMITS and BLOCK_GEOMETRY (D10); a key is for datagrams (D11)."""
        out: list[Any] = []
        for place in found:
            blocks = _blocks(place)
            limits = Limits(lease.size, blocks * BLOCK_SIZE, blocks * BLOCK_SIZE)
            out += [place.endpoint, limits, BlockGeometry(BLOCK_SIZE, lease.size // BLOCK_SIZE, blocks)]
        if lease.binding == Binding.UDP:
            out += [DpKey(lease.dp_key), DpAuthTlv(lease.dp_auth)]
        return out


def _limits(found: Sequence[Place]) -> tuple[int, int]:
    """Return the longest READ and WRITE at the roomiest of these places."""
    most = max(_blocks(place) for place in found) * BLOCK_SIZE
    return most, most


def _blocks(place: Place) -> int:
    """Return how many blocks one operation moves there, be it a READ or a WRITE."""
    return (place.message - max(LIMITS_BESIDE)) // BLOCK_SIZE
