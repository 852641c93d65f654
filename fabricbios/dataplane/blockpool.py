"""Extents of the admin's files and devices, by lease: placed, journaled, wiped before anybody gets them again.

Bookkeeping is under a lock and quick; reserving space and wiping happen outside it, so that one slow wipe holds
up no other lease. A store that does not answer is waited for as long as the slowest may take, then no more: what is
held on it stays held, and is FENCED by who asked (D8), until the store is back.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from fabricbios.dataplane.extent_journal import ExtentJournal, Placed
from fabricbios.dataplane.extents import Extents
from fabricbios.dataplane.patience import Patience
from fabricbios.errors import LocalMisuse
from fabricbios.hw.backing import GRANULE, Backing, Wipe

FIRST_WIPE_SECONDS = 4.0  # an asker waits for its lease meanwhile, and not for long
PLACE_SECONDS = 8.0  # for all of it: he gives up after ten, and a lease that came later would be nobody's
STORE_SECONDS, WIPE_STEP = 30.0, 128 << 20
"""A store may take so long over one step of wiping: 4 MB/s, less than any card or disk that works."""


class Region(NamedTuple):
    """`length` bytes from `base` of a backing, which is number `device` of its pool."""

    backing: Backing
    device: int
    base: int
    length: int


class BlockPool:
    """`backings` by resource id, in the order of the configuration: their position is their device number.

    What the journal knows of them is claimed at once; a lease that nobody adopts is to be released.
    Raises LocalMisuse where the journal contradicts itself.
    """

    def __init__(self, backings: Mapping[int, Backing], journal: ExtentJournal, wipe: Wipe) -> None:
        self.backings = tuple(backings.values())
        self._device = {resource_id: i for i, resource_id in enumerate(backings)}
        self._of_identity = {b.identity: i for i, b in enumerate(self.backings)}
        self._extents = [Extents(b.size) for b in self.backings]
        self._journal, self._wipe = journal, wipe
        self._patience = [Patience(b.path) for b in self.backings]
        self._lock = threading.Lock()
        for lease_id, placed in journal.extents.items():
            device = self._of_identity.get(placed.store)
            if device is not None:
                self._extents[device].claim(lease_id, placed.base, placed.length)
        for backing in self.backings:
            journal.take_store(backing.identity)
        journal.drop_stores({b.identity for b in self.backings})

    def available(self, resource_id: int) -> int:
        """Return the bytes of a resource that nobody holds, not necessarily in one piece."""
        with self._lock:
            return self._extents[self._device[resource_id]].available

    def device_of(self, resource_id: int) -> int:
        """Return the device number of a resource. KeyError for one that is not of this pool."""
        return self._device[resource_id]

    def is_silent(self, device: int) -> bool:
        """Say whether work on this store is overdue: nothing new is tried on it until it answers."""
        return self._patience[device].is_at_an_end

    @property
    def is_stuck(self) -> bool:
        """Say whether a thread is inside a store that does not answer: the stores must not be closed under it."""
        return any(patience.is_at_an_end for patience in self._patience)

    def leases(self) -> set[int]:
        """Return the leases that hold an extent, those of a predecessor included."""
        with self._lock:
            return set(self._journal.extents)

    def place(self, lease_id: int, resource_id: int, size: int) -> Region:
        """Give a lease `size` bytes, rounded up to GRANULE, in one piece; the same ones if asked again.

        OSError(ENOSPC) where there is no such piece, or the file system has no room for it; EBUSY where what stood
        there before anybody leased it takes long to wipe (asking again goes on with it); ETIMEDOUT where the store does
        not answer. Then nothing is held.
        """
        if resource_id not in self._device:
            raise OSError(errno.ENODEV, f"no such block resource: 0x{resource_id:032x}")
        with self._lock:
            held = lease_id in self._journal.extents
            region = self._place(lease_id, self._device[resource_id], size)
        if held:
            return region
        try:
            self._bounded(region, lambda: self._make_ready(region), PLACE_SECONDS)
        except OSError:
            self._let_go(lease_id, region.device)
            raise
        return region

    def find(self, lease_id: int) -> Region | None:
        """Return what a lease holds, or None. OSError(ENODEV) if its store is not configured any more."""
        with self._lock:
            return self._find(lease_id)

    def release(self, lease_id: int) -> None:
        """Wipe what a lease held, then give it back; nothing happens if it holds nothing.

        OSError, ETIMEDOUT where the store does not answer; then it stays held.
        """
        region = self.find(lease_id)
        if region is None:
            return
        for base in range(region.base, region.base + region.length, WIPE_STEP):
            length = min(WIPE_STEP, region.base + region.length - base)
            self._bounded(region, partial(region.backing.wipe, base, length, self._wipe), STORE_SECONDS)
        if self._wipe == "none":
            self._note_clean(region, region.base)
        self._let_go(lease_id, region.device)

    def _bounded(self, region: Region, work: Callable[[], None], seconds: float) -> None:
        self._patience[region.device].run(work, seconds)

    def _make_ready(self, region: Region) -> None:
        self._clean(region)
        region.backing.reserve(region.base, region.length)

    def _clean(self, region: Region) -> None:
        """Wipe what nobody leased before: the admin's old bytes are no more the holder's to read than another holder's.

        Once is enough, because what was leased is wiped when it comes back. First fit leases a store from its first
        byte on, so one number a store tells how far it got.
        """
        if self._wipe == "none":
            return
        end = region.base + region.length
        start = max(region.base, self._journal.clean.get(region.backing.identity, 0))
        reached = region.backing.zero(start, end, FIRST_WIPE_SECONDS)
        self._note_clean(region, reached)
        if reached < end:
            raise OSError(errno.EBUSY, f"first use: wiped up to byte {reached}, ask again", region.backing.path)

    def _note_clean(self, region: Region, reached: int) -> None:
        """Move the mark, up to `reached` where the region begins below it, and down under "none"."""
        with self._lock:
            mark = self._journal.clean.get(region.backing.identity, 0)
            moved = min(mark, reached) if self._wipe == "none" else max(mark, reached)
            if moved != mark and region.base <= mark:
                self._journal.set_clean(region.backing.identity, moved)

    def _place(self, lease_id: int, device: int, size: int) -> Region:
        held = self._find(lease_id)
        if held is not None:
            if held.device != device:
                raise LocalMisuse(f"lease 0x{lease_id:032x} lies on another store")
            return held
        try:
            base, length = self._extents[device].allocate(lease_id, -(-size // GRANULE) * GRANULE)
        except OSError as error:
            raise OSError(error.errno, f"no {size} bytes in one piece", self.backings[device].path) from error
        try:
            self._journal.put(lease_id, Placed(self.backings[device].identity, base, length))
        except OSError:
            self._extents[device].free(lease_id)
            raise
        return Region(self.backings[device], device, base, length)

    def _find(self, lease_id: int) -> Region | None:
        placed = self._journal.extents.get(lease_id)
        if placed is None:
            return None
        device = self._of_identity.get(placed.store)
        if device is None:
            raise OSError(errno.ENODEV, "the lease lies on a store that is not configured any more")
        return Region(self.backings[device], device, placed.base, placed.length)

    def _let_go(self, lease_id: int, device: int) -> None:
        """The journal first: an extent that is free in memory and held on disk costs room, the reverse costs data."""
        with self._lock:
            self._journal.remove(lease_id)
            self._extents[device].free(lease_id)
