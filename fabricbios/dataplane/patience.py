"""Work on a store that may never answer: done in a thread of its own, and waited for no longer than it may take.

A system call on a device that hangs comes back when the device does, whatever is done to the caller. So the caller is
let go with an error, which fences what it was about, and nobody else begins to wait before the store has answered.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


class Patience:
    """With one store, called `name`. Safe to use from several threads, which do not wait for each other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._overdue = 0

    @property
    def is_at_an_end(self) -> bool:
        """Say whether a thread is stuck in the store: its descriptors must stay open, and nothing new be tried."""
        return self._overdue > 0

    def run(self, work: Callable[[], T], seconds: float) -> T:
        """Return what `work` returns, or raise what it raises; OSError(ETIMEDOUT) after so many seconds, or at once
        while earlier work is stuck. Work that is late goes on until it is through: only then may others follow it."""
        if self.is_at_an_end:
            raise self._silence("still")
        done: Future[T] = Future()
        threading.Thread(target=_carry_out, args=(work, done), name="store", daemon=True).start()
        if not wait((done,), seconds).done:
            with self._lock:
                self._overdue += 1
            done.add_done_callback(lambda _: self._answered())
            raise self._silence(f"for {seconds:g} s")
        return done.result()

    def _answered(self) -> None:
        with self._lock:
            self._overdue -= 1

    def _silence(self, how_long: str) -> OSError:
        return OSError(errno.ETIMEDOUT, f"the store has not answered {how_long}", self._name)


def _carry_out(work: Callable[[], T], done: Future[T]) -> None:
    """Whatever the work raises belongs to who waits for it; if he is gone, so is his interest."""
    try:
        result = work()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(result)
