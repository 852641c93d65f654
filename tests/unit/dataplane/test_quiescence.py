"""One wait for all who asked before it began, and never one that began before somebody asked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fabricbios.dataplane.quiescence import SharedWait


def test_many_share_few_waits_and_each_has_a_whole_one() -> None:
    waits: list[tuple[float, float]] = []

    def wait() -> None:
        begun = time.monotonic()
        time.sleep(0.02)
        waits.append((begun, time.monotonic()))

    shared = SharedWait(wait)

    def ask() -> tuple[float, float]:
        asked = time.monotonic()
        shared()
        return asked, time.monotonic()

    with ThreadPoolExecutor(32) as threads:
        asked = [future.result() for future in [threads.submit(ask) for _ in range(320)]]
    assert len(waits) < 160  # alone it would be 320; about 20 on a quiet machine
    for begin, end in asked:
        assert any(begin <= begun and ended <= end for begun, ended in waits)


def test_who_asks_during_a_wait_gets_the_next_one() -> None:
    begun, leave = threading.Semaphore(0), threading.Semaphore(0)

    def wait() -> None:
        begun.release()
        leave.acquire()

    shared = SharedWait(wait)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared)
        begun.acquire()
        second = threads.submit(shared)
        leave.release()
        first.result(60)
        begun.acquire()
        assert not second.done()
        leave.release()
        second.result(60)


def test_a_wait_that_fails_is_told_and_the_next_is_a_new_one() -> None:
    failures = [OSError(5, "no"), None]

    def wait() -> None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure

    shared = SharedWait(wait)
    with pytest.raises(OSError, match="no"):
        shared()
    shared()
    assert failures == []
