"""Waiting for the kernel's programs, together: one wait serves all who asked before it began.

Such a wait takes as long as the slowest CPU lets it (about 16 ms), whatever it is for. A thousand leases that end at
once must not wait one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class SharedWait:
    """Call it from several threads. `wait` returns when nobody works any more on what he found before; OSError."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._turn = threading.Condition()
        self._begun = self._done = 0
        self._waiting = False

    def __call__(self) -> None:
        """Return after a whole wait that began after this call; OSError if that one failed."""
        with self._turn:
            wanted = self._begun + 1
            while self._done < wanted:
                if self._waiting:
                    self._turn.wait()
                else:
                    self._wait_for_all()

    def _wait_for_all(self) -> None:
        """Wait without the lock. Who was counting on this one when it fails begins another."""
        self._begun += 1
        number, self._waiting = self._begun, True
        self._turn.release()
        try:
            self._wait()
        finally:
            self._turn.acquire()
            self._waiting = False
            self._turn.notify_all()
        self._done = number
