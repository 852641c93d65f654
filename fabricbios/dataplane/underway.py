"""Which operations on a lease's bytes are being carried out by our own threads, and a wait until they are through.

Ending a lease closes its slot and then waits for whoever had found it open. It waits for them alone: not for other
leases, on whose device somebody may be stuck, and not for who comes later, finds it closed and is refused.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator


class UnderWay:
    """Threads enter with `one(lease)`, look whether the lease is open, work, and leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._of: dict[int, set[int]] = {}  # lease -> numbers of its operations
        self._next = 0

    @contextlib.contextmanager
    def one(self, lease_id: int) -> Iterator[None]:
        """Be counted as an operation of this lease."""
        with self._lock:
            self._next += 1
            number = self._next
            self._of.setdefault(lease_id, set()).add(number)
        try:
            yield
        finally:
            with self._lock:
                theirs = self._of[lease_id]
                theirs.remove(number)
                if not theirs:
                    del self._of[lease_id]
                self._left.notify_all()

    def wait(self, lease_id: int, seconds: float) -> None:
        """Return when all operations that have begun are through. OSError(ETIMEDOUT): one is stuck in a device."""
        with self._lock:
            begun = set(self._of.get(lease_id, ()))
            if begun and not self._left.wait_for(lambda: begun.isdisjoint(self._of.get(lease_id, ())), seconds):
                raise OSError(errno.ETIMEDOUT, "an operation on the lease is stuck in its device")
