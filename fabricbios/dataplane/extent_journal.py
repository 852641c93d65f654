"""Where each block lease lies, on disk before it is granted and until its data is wiped.

The lease journal of the daemon knows which leases there were, not where. After a power failure somebody has to
know which bytes are a dead holder's, or they would be granted again unwiped: this file does. Memory needs nothing
of the kind, because it does not outlive its machine.

One sector a record, written in place: a device writes a sector whole or not at all, so a record that does not
check is not torn but rotten, and is an error (EUCLEAN) rather than an extent that is forgotten.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from fabricbios.layout import Field, Layout

SECTOR = 512
RECORDS = 4096
MAGIC = b"FBEXTENT"


class Kind(IntEnum):
    """EXTENT: bytes of a store that a lease holds. STORE: a store that was checked and taken; its bytes are ours."""

    EXTENT = 1
    STORE = 2


RECORD = Layout(
    "extent_record",
    "one sector of the extent journal (fabricbios/dataplane/extent_journal.py)",
    (
        Field("magic", "u8", "FBEXTENT", 8),
        Field("kind", "be32", "enum Kind"),
        Field("version", "be32", "0"),
        Field("lease_id", "u8", "u128; zero for a STORE", 16),
        Field("store", "u8", "identity of the backing", 16),
        Field("base", "be64", "first byte"),
        Field("length", "be64", "bytes; of a STORE, how many from its first byte on hold nothing of before"),
        Field("crc", "be32", "CRC-32 of all before"),
    ),
)


class Placed(NamedTuple):
    """`length` bytes from `base` of the store with this identity."""

    store: bytes
    base: int
    length: int


class ExtentJournal:
    """The file at `path`, made if missing, locked against a second daemon. Raises OSError.

    A change is durable when its method returns. One that raises is not believed here, and what of it may have
    reached the disk does no harm: an extent too many is an orphan to be released, one too few was wiped already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.extents: dict[int, Placed] = {}
        self.stores: set[bytes] = set()
        self.clean: dict[bytes, int] = {}
        """By store: in so many of its first bytes nothing is left of what stood there before they were leased."""
        self._at: dict[int | bytes, int] = {}
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._fd, 0, RECORDS * SECTOR)  # no later change can meet ENOSPC
            os.fsync(self._fd)
            self._free = list(self._load())
        except BaseException:
            os.close(self._fd)
            raise

    def put(self, lease_id: int, placed: Placed) -> None:
        """Remember where a lease lies."""
        self._write(lease_id, Kind.EXTENT, lease_id, placed)
        self.extents[lease_id] = placed

    def remove(self, lease_id: int) -> None:
        """Forget a lease whose bytes are wiped; nothing happens if it is not there."""
        self._erase(lease_id)
        self.extents.pop(lease_id, None)

    def take_store(self, identity: bytes) -> None:
        """Remember that what stands on this store is ours, checked once."""
        if identity not in self.stores:
            self._write(identity, Kind.STORE, 0, Placed(identity, 0, 0))
            self.stores.add(identity)

    def set_clean(self, identity: bytes, length: int) -> None:
        """Remember how much of a store that was taken is clean."""
        self._write(identity, Kind.STORE, 0, Placed(identity, 0, length))
        self.clean[identity] = length

    def drop_stores(self, kept: set[bytes]) -> None:
        """Forget the stores that are configured no more and hold no extent: their next use is checked afresh."""
        busy = {placed.store for placed in self.extents.values()}
        for identity in self.stores - kept - busy:
            self._erase(identity)
            self.stores.discard(identity)
            self.clean.pop(identity, None)

    def close(self) -> None:
        os.close(self._fd)

    def _load(self) -> Iterator[int]:
        """Read every record; yield the numbers of the empty ones, highest first."""
        data = os.pread(self._fd, RECORDS * SECTOR, 0)
        for number in reversed(range(RECORDS)):
            sector = data[number * SECTOR : (number + 1) * SECTOR]
            if not any(sector[: RECORD.size]):
                yield number
            else:
                self._take(number, sector)

    def _take(self, number: int, sector: bytes) -> None:
        kind, key, placed = self._decode(number, sector)
        self._at[key] = number
        if kind is Kind.STORE:
            self.stores.add(placed.store)
            self.clean[placed.store] = placed.length
        else:
            self.extents[int.from_bytes(RECORD.get(sector, 0, "lease_id"), "big")] = placed

    def _decode(self, number: int, sector: bytes) -> tuple[Kind, int | bytes, Placed]:
        def field(name: str) -> int:
            return int(RECORD.get(sector, 0, name))

        sound = RECORD.get(sector, 0, "magic") == MAGIC and field("crc") == zlib.crc32(sector[: RECORD.offset["crc"]])
        if not sound or field("version") or field("kind") not in list(Kind):
            raise OSError(errno.EUCLEAN, f"record {number} of the extent journal does not check", str(self.path))
        placed = Placed(RECORD.get(sector, 0, "store"), field("base"), field("length"))
        kind = Kind(field("kind"))
        lease_id = int.from_bytes(RECORD.get(sector, 0, "lease_id"), "big")
        return kind, (placed.store if kind is Kind.STORE else lease_id), placed

    def _write(self, key: int | bytes, kind: Kind, lease_id: int, placed: Placed) -> None:
        if key not in self._at and not self._free:
            raise OSError(errno.ENOSPC, f"the extent journal holds {RECORDS} records", str(self.path))
        number = self._at.get(key)
        number = self._free[-1] if number is None else number
        body = RECORD.pack(magic=MAGIC, kind=kind, lease_id=lease_id.to_bytes(16, "big"), **placed._asdict())
        crc = zlib.crc32(body[: RECORD.offset["crc"]]).to_bytes(4, "big")
        self._store(number, (body[:-4] + crc).ljust(SECTOR, b"\0"))
        if key not in self._at:
            self._at[key] = self._free.pop()

    def _erase(self, key: int | bytes) -> None:
        number = self._at.get(key)
        if number is not None:
            self._store(number, bytes(SECTOR))
            self._free.append(self._at.pop(key))

    def _store(self, number: int, sector: bytes) -> None:
        if os.pwrite(self._fd, sector, number * SECTOR) != SECTOR:
            raise OSError(errno.EIO, "a record was written in part", str(self.path))
        os.fdatasync(self._fd)
