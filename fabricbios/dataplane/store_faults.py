"""What a store of block leases answered with errors: counted by who does the I/O, looked at by the daemon.

A holder sees its own I/O fail; the admin would see nothing. The server process counts in a page that it shares with the
daemon, the daemon's own I/O (QUIC) in one of its own: one process writes a page.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from fabricbios.layout import Field, Layout

RECORD = Layout(
    "store_faults",
    "errors of one store (fabricbios/dataplane/store_faults.py)",
    (
        Field("reads", "u64", "preadv(2) that failed"),
        Field("writes", "u64", "pwrite(2) that failed"),
        Field("flushes", "u64", "fdatasync(2) that failed"),
        Field("errno", "u64", "of the last one"),
    ),
)
Kind = Literal["reads", "writes", "flushes"]
KINDS: tuple[Kind, ...] = ("reads", "writes", "flushes")


class Faults(NamedTuple):
    """Counts since the daemon started, and the errno of the last."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    errno: int = 0

    @property
    def total(self) -> int:
        return self.reads + self.writes + self.flushes

    def plus(self, other: Faults) -> Faults:
        """Return the sum of what two count who do I/O on one store."""
        sums = (self.reads + other.reads, self.writes + other.writes, self.flushes + other.flushes)
        return Faults(*sums, other.errno or self.errno)


class StoreFaults:
    """The record of store number `at` in a page of `page_bytes` of so many stores."""

    def __init__(self, page: Any, at: int) -> None:
        self._page, self._base = page, at * RECORD.size
        self._lock = threading.Lock()

    def note(self, kind: Kind, error: OSError) -> None:
        """Count an error. Safe to call from several threads."""
        with self._lock:
            RECORD.set(self._page, self._base, kind, RECORD.get(self._page, self._base, kind) + 1)
            RECORD.set(self._page, self._base, "errno", error.errno or 0)

    def read(self) -> Faults:
        return Faults(*(int(RECORD.get(self._page, self._base, name)) for name in Faults._fields))


UNCOUNTED = StoreFaults(bytearray(RECORD.size), 0)
"""Where errors go that nobody asks for."""


def page_bytes(stores: int) -> int:
    """Return how long a page for so many stores is; one of none is as long as one."""
    return max(1, stores) * RECORD.size


def faults_of(page: Any, stores: int) -> Sequence[StoreFaults]:
    """Return a record a store."""
    return [StoreFaults(page, at) for at in range(stores)]
