"""The lease slots: one table that the daemon writes and every data path obeys (D8, D10).

The table is plain memory, a memfd or the mapped value of a BPF array, so one aligned 8-byte store
renews or revokes a lease on every path at once, also while the daemon or a server is stopped.

Who writes what: the daemon everything up to `dp_key`, the data paths the rest. A slot that is taken
back rests for QUARANTINE_NS before it is used again, so that a datagram that was checked against the
old lease has long been answered; a new key gets a new slot for the same reason.

Where several planes are in one table (XDP's), there is one SlotTable for all of them, and a lease is of one plane.

Order of stores, also on processors that keep none by themselves (arm64): nobody comes to a slot but by an index entry
that points to it, and where he loads of the slot depends on what he loaded of the index, which every processor but
Alpha keeps in order (Documentation/memory-barriers.txt, "address-dependency barriers"). So the writer alone needs a
barrier, between the last store into the slot and the entry: `_open`. That a system call lies between two stores would
not do, as entering the kernel orders nothing on arm64; `store_fence` is the call that promises it.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from fabricbios.dataplane.keys import KeySchedule
from fabricbios.errors import LocalMisuse
from fabricbios.hw.syscalls import store_fence
from fabricbios.layout import Field, Layout
from fabricbios.model import DpAuth

WINDOW_WORDS = 128
"""Words of the replay window: `generation << 8 | bits`, where generation = nonce >> 10 (54 bits fit in 56),
word = (nonce >> 3) & 127, bit = nonce & 7. A word of an older generation is empty, one of a newer generation
says "too old". So nothing less than 1017 below the highest is forgotten, whatever the nonce; `highest` bounds
the window at 1024 exactly (D10)."""
WINDOW = 1024
QUARANTINE_NS = 200_000_000


class SlotState(IntEnum):
    """What a slot answers. ENDED answers EXPIRED until the key is forgotten (D10), FENCED answers FENCED."""

    FREE = 0
    ACTIVE = 1
    ENDED = 2
    FENCED = 3


class Plane(IntEnum):
    FBMU = 1
    FBBU = 2


SLOT = Layout(
    "lease_slot",
    "one lease as the data paths see it (fabricbios/dataplane/slots.py)",
    (
        # 0: what every question needs
        Field("state", "u64", "enum SlotState, one aligned store revokes"),
        Field("expiry_ns", "u64", "CLOCK_BOOTTIME, one aligned store renews; now >= expiry_ns is over"),
        Field("lease_id", "u8", "as on the wire", 16),
        Field(
            "base", "u64", "FBMU: first byte in the flat memory, slab = address >> 28 (slab.py); FBBU: in the device"
        ),
        Field("length", "u64", "bytes leased"),
        Field("device", "u32", "FBBU: which device; FBMU: 0"),
        Field("generation", "u32", "of the lease, for people"),
        Field("max_read", "u32", "LIMITS, bytes; a path may bound it further by its datagram size"),
        Field("max_write", "u32", "LIMITS, bytes; likewise"),
        # 64: what the tag needs, BLAKE2s and SipHash
        Field("plane", "u32", "enum Plane"),
        Field("rights", "u32", "READ 1, WRITE 2"),
        Field("auth", "u32", "DpAuth"),
        Field(
            "guard",
            "u32",
            "goes up when the slot is filled and when it is freed: what was cached of another value is stale",
        ),
        Field("sip", "u64", "SipHash k0, k1", 2),
        Field("blake2s", "u32", "keyed BLAKE2s state after the key block (16-byte digest)", 8),
        # 128: HMAC-SHA256
        Field("ipad", "u32", "SHA-256 state after key ^ ipad", 8),
        Field("opad", "u32", "SHA-256 state after key ^ opad", 8),
        # 192
        Field("dp_key", "u8", "for user space, whose hash functions take no midstates", 32),
        Field("highest", "u64", "highest authentic nonce (D10); XDP moves it when its word of `window` changes"),
        Field("write_mark", "u64", "nonce of the latest WRITE taken (D10)"),
        Field("write_lock", "u64", "1 while XDP carries out a WRITE, so that order and data are one step"),
        Field("reserved", "u64", "zero"),
        # 256: two writers, two halves
        Field("kernel_reads", "u64", "READs answered OK by XDP"),
        Field("kernel_writes", "u64", "WRITEs answered OK by XDP"),
        Field("kernel_bytes", "u64", "data bytes of both"),
        Field("kernel_rejects", "u64", "authentic questions answered with another status"),
        Field("user_reads", "u64", "the same, by user space"),
        Field("user_writes", "u64", ""),
        Field("user_bytes", "u64", ""),
        Field("user_rejects", "u64", ""),
        # 320
        Field("window", "u64", "replay window: WINDOW_WORDS", WINDOW_WORDS),
    ),
)


class Extent(NamedTuple):
    """Where leased bytes lie: `length` bytes from `base` of the flat memory, or of device number `device`."""

    base: int
    length: int
    device: int = 0


class SlotLease(NamedTuple):
    """What a slot is told about its lease. `expires_ns` is CLOCK_BOOTTIME."""

    lease_id: int
    plane: Plane
    extent: Extent
    rights: int
    auth: DpAuth
    dp_key: bytes
    generation: int
    expires_ns: int
    max_read: int
    max_write: int


class SlotCounters(NamedTuple):
    """Both paths together."""

    reads: int
    writes: int
    bytes: int
    rejects: int


class Index(Protocol):
    """How one data path finds a slot: shared memory for user space (index.py), a BPF hash for XDP."""

    def insert(self, lease_id: bytes, slot: int) -> None:
        """Point an id at its slot, again and again if need be. OSError if it cannot."""

    def remove(self, lease_id: bytes) -> None:
        """Take an id out; nothing happens if it is not there."""


class SlotTable:
    """The table in `buffer`, `len(buffer) // SLOT.size` slots; what is not FREE in it is adopted as it is,
    and told to `indexes`, which may be empty or have outlived a daemon.

    A `fresh` buffer is known to be zero and is not looked through: its pages come to be as they are used.
    `midstates` are what an XDP program hashes on from; user space has no use for them, and they take time.
    Methods raise OSError(ENOSPC) when no slot is free, KeyError for a lease that has none. Taking and freeing slots is
    safe from several threads; a store into a slot is for who binds its lease, one after the other.
    """

    def __init__(
        self, buffer: memoryview, indexes: Sequence[Index] = (), *, fresh: bool = False, midstates: bool = True
    ) -> None:
        self.buffer = buffer.cast("B")
        self.slots = len(buffer) // SLOT.size
        self._indexes = indexes
        whole = self.buffer[: self.slots * SLOT.size]
        self._words, self._halves = whole.cast("Q"), whole.cast("I")
        self._slot_of: dict[int, int] = {}
        self._midstates = midstates
        self._lock = threading.Lock()
        self._free: deque[tuple[int, int]] = deque()  # (rested at ns, slot)
        self._unused = iter(range(self.slots if fresh else 0))
        for slot in range(0 if fresh else self.slots):
            self._adopt(slot)

    def _adopt(self, slot: int) -> None:
        if self.state(slot) == SlotState.FREE:
            self._free.append((0, slot))
        else:
            self._publish(int.from_bytes(self.get(slot, "lease_id"), "big"), slot)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (lease_id, slot) of every lease that is in the table now."""
        with self._lock:
            return iter(list(self._slot_of.items()))

    def find(self, lease_id: int, plane: Plane | None = None) -> int | None:
        """Return the slot of a lease, of that plane if one is named."""
        slot = self._slot_of.get(lease_id)
        if plane is None or slot is None or self.plane(slot) == plane:
            return slot
        return None

    def get(self, slot: int, name: str) -> Any:
        return SLOT.get(self.buffer, slot * SLOT.size, name)

    def state(self, slot: int) -> int:
        """Return a SlotState, as the number that it is."""
        return self._words[slot * _WORDS + _STATE]

    def plane(self, slot: int) -> int:
        """Return a Plane, likewise."""
        return self._halves[slot * _HALVES + _PLANE]

    def extent(self, slot: int) -> Extent:
        """Return where the slot says the bytes are."""
        return Extent(*_EXTENT.unpack_from(self.buffer, slot * SLOT.size))

    def install(self, lease: SlotLease, now_ns: int) -> int:
        """Fill a rested slot and open it with its last store; return its number. Idempotent by lease id."""
        with self._lock:
            known = self._slot_of.get(lease.lease_id)
            if known is None:
                return self._open(self._take(now_ns), lease)
            if self.plane(known) != lease.plane:
                raise LocalMisuse(f"lease 0x{lease.lease_id:032x} is of another plane")
            return known

    def rekey(self, lease: SlotLease, now_ns: int) -> int:
        """Give the lease another slot with its new key, an empty window and no write mark; return its number.

        The old slot closes first: a question under the old key that is being answered just now marks the old window.
        Until nobody is, which may take as long as a disk does, it must not be another lease's: then comes rest().
        """
        with self._lock:
            old, new = self._slot_of[lease.lease_id], self._take(now_ns)
            self._close(old, lease.lease_id)
            return self._open(new, lease)

    def rest(self, slot: int, now_ns: int) -> None:
        """Let a slot that rekey() closed be used again, once, when it has rested."""
        with self._lock:
            self._rest(slot, now_ns)

    def set_expiry(self, slot: int, expires_ns: int) -> None:
        """Renew, or end, with one aligned store."""
        self._words[slot * _WORDS + _EXPIRY] = expires_ns

    def set_state(self, slot: int, state: SlotState) -> None:
        """Revoke, fence or open with one aligned store."""
        self._words[slot * _WORDS + _STATE] = state

    def set_generation(self, slot: int, generation: int) -> None:
        self._halves[slot * _HALVES + _GENERATION] = generation

    def set_length(self, slot: int, length: int) -> None:
        """0 says that an ended lease holds no bytes any more."""
        self._words[slot * _WORDS + _LENGTH] = length

    def clear(self, lease_id: int, now_ns: int) -> None:
        """Forget the lease: from now on it is unknown. Nothing happens if it is already."""
        with self._lock:
            slot = self._slot_of.pop(lease_id, None)
            if slot is not None:
                self._close(slot, lease_id)
                self._rest(slot, now_ns)

    def counters(self, slot: int) -> SlotCounters:
        return SlotCounters(
            *(
                sum(SLOT.get(self.buffer, slot * SLOT.size, f"{path}_{name}") for path in ("kernel", "user"))
                for name in SlotCounters._fields
            )
        )

    def _publish(self, lease_id: int, slot: int) -> None:
        for index in self._indexes:
            index.insert(lease_id.to_bytes(16, "big"), slot)
        self._slot_of[lease_id] = slot

    def _take(self, now_ns: int) -> int:
        if self._free and self._free[0][0] <= now_ns:
            return self._free.popleft()[1]
        slot = next(self._unused, None)
        if slot is None:
            raise OSError(errno.ENOSPC, "no free lease slot")
        return slot

    def _open(self, slot: int, lease: SlotLease) -> int:
        """State after content, for a successor of who is killed between them; index after both, for the readers."""
        self._fill(slot, lease)
        self._words[slot * _WORDS + _STATE] = _ACTIVE
        store_fence()
        self._publish(lease.lease_id, slot)
        return slot

    def _fill(self, slot: int, lease: SlotLease) -> None:
        record = _TOLD.pack(
            _FREE,
            lease.expires_ns,
            lease.lease_id.to_bytes(16, "big"),
            *lease.extent,
            lease.generation,
            lease.max_read,
            lease.max_write,
            lease.plane,
            lease.rights,
            lease.auth,
            self._next_guard(slot),
            lease.dp_key,
        )
        if self._midstates:
            record = _with_midstates(record, KeySchedule.of(lease.dp_key, lease.auth))
        self.buffer[slot * SLOT.size : (slot + 1) * SLOT.size] = record

    def _close(self, slot: int, lease_id: int) -> None:
        """Free the slot and wipe its key."""
        self._words[slot * _WORDS + _STATE] = _FREE
        self._halves[slot * _HALVES + _GUARD] = self._next_guard(slot)
        for index in self._indexes:
            index.remove(lease_id.to_bytes(16, "big"))
        start = slot * SLOT.size + _SECRET.start
        self.buffer[start : start + len(_WIPED)] = _WIPED

    def _rest(self, slot: int, now_ns: int) -> None:
        self._free.append((now_ns + QUARANTINE_NS, slot))

    def _next_guard(self, slot: int) -> int:
        return self._halves[slot * _HALVES + _GUARD] + 1 & 0xFFFFFFFF


def _with_midstates(record: bytes, keys: KeySchedule) -> bytes:
    filled = bytearray(record)
    for name, words in keys._asdict().items():
        SLOT.set(filled, 0, name, words)
    return bytes(filled)


_FREE, _ACTIVE = int(SlotState.FREE), int(SlotState.ACTIVE)  # naming an enum member costs a lookup each time
_WORDS, _HALVES = SLOT.size // 8, SLOT.size // 4  # the size of a slot in u64 and in u32, as offsets below
_STATE, _EXPIRY, _LENGTH = (SLOT.offset[name] // 8 for name in ("state", "expiry_ns", "length"))
_GENERATION, _PLANE, _GUARD = (SLOT.offset[name] // 4 for name in ("generation", "plane", "guard"))
_EXTENT = SLOT.excerpt(*Extent._fields)
_TOLD = SLOT.excerpt(
    *("state", "expiry_ns", "lease_id", "base", "length", "device", "generation", "max_read", "max_write"),
    *("plane", "rights", "auth", "guard", "dp_key"),
)
"""What is told of every lease; the rest starts as zeros."""
_SECRET = slice(SLOT.offset["sip"], SLOT.offset["highest"])  # the key, and what was made of it
_WIPED = bytes(_SECRET.stop - _SECRET.start)
