"""daemon/storewatch: a store that is gone ends its leases once, and one that is back is offered again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fabricbios.daemon import storewatch
from fabricbios.daemon.effects import IO_THREADS, Effects
from fabricbios.daemon.storelook import StoreLook
from fabricbios.daemon.storewatch import StoreWatch
from fabricbios.dataplane.store_faults import Faults
from fabricbios.hw.backing import GRANULE, Backing, open_backing
from fabricbios.hw.sysfs import Sysfs

STORE = 7


class StubNode:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def lose(self, resource_id: int, now: Any) -> None:
        self.told.append(f"lost {resource_id}")

    def regain(self, resource_id: int) -> None:
        self.told.append(f"regained {resource_id}")

    def degrade(self, resource_id: int, errs: bool) -> None:
        self.told.append(f"{resource_id} {'errs' if errs else 'is well'}")


class StubLoop:
    """Does in `finish` what it was to do in a thread."""

    def __init__(self) -> None:
        self.stub = StubNode()
        self.node = cast(Any, self.stub)
        self.waiting: list[tuple[Callable[[], bytes], Callable[[bytes | None], None]]] = []

    def pump(self, first: Callable[[], None]) -> None:
        first()

    def in_thread(self, work: Callable[[], bytes], then: Callable[[bytes | None], None], lane: Hashable = "") -> None:
        self.waiting.append((work, then))

    def finish(self, broken: bool = False) -> None:
        waiting, self.waiting = self.waiting, []
        for work, then in waiting:
            then(None if broken else work())


class Hung:
    """A store on a file system that does not answer until it is let go."""

    path = "/hung"
    absence: OSError | None = None

    def __init__(self) -> None:
        self.go = threading.Event()

    def look(self, is_suspect: bool) -> None:
        assert self.go.wait(20)

    def faults(self) -> Faults:
        return Faults()

    def is_silent(self) -> bool:
        return False


class ThreadedLoop(StubLoop):
    """Looks in the daemon's own threads."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = threading.Event()
        self._effects = Effects(cast(Any, None), {})

    def pump(self, first: Callable[[], None]) -> None:
        first()
        self.lost.set()

    def in_thread(self, work: Callable[[], bytes], then: Callable[[bytes | None], None], lane: Hashable = "") -> None:
        self._effects.run(lambda: then(work()), lane)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Backing]:
    backing = open_backing(Sysfs("/nonexistent"), str(tmp_path / "disk"), 2 * GRANULE)
    yield backing
    backing.close()


def looked(store: Backing) -> StoreLook:
    return StoreLook(store, store.path)


def watched(store: Backing, *looks: Callable[[StubLoop], None]) -> list[str]:
    """Look once before each of `looks` and once more; return what core was told."""

    async def work() -> list[str]:
        loop = StubLoop()
        watch = StoreWatch({STORE: looked(store)}, loop)
        for look in looks:
            look(loop)
            watch._look_at_all()
            loop.finish()
        watch.stop()
        return loop.stub.told

    return asyncio.run(work())


def cut(store: Backing, size: int) -> Callable[[StubLoop], None]:
    return lambda _: os.truncate(store.path, size)


def test_a_whole_store_is_no_news(store: Backing) -> None:
    assert watched(store, cut(store, 2 * GRANULE), cut(store, 3 * GRANULE)) == []


def test_a_store_that_is_gone_is_told_once_and_so_is_its_return(store: Backing, caplog: Any) -> None:
    gone, back = cut(store, GRANULE), cut(store, 2 * GRANULE)
    assert watched(store, gone, gone, back, back, gone) == ["lost 7", "regained 7", "lost 7"]
    assert store.path in caplog.text


def test_a_deleted_file_is_gone(store: Backing) -> None:
    assert watched(store, lambda _: os.unlink(store.path)) == ["lost 7"]


def test_a_look_that_does_not_end_is_not_begun_again(store: Backing) -> None:
    async def work() -> None:
        loop = StubLoop()
        watch = StoreWatch({STORE: looked(store)}, loop)
        watch.start()
        watch.start()
        assert len(loop.waiting) == 1
        loop.finish()
        watch.start()
        assert len(loop.waiting) == 1
        watch.stop()

    asyncio.run(work())


def test_stores_that_do_not_answer_hide_no_other(store: Backing) -> None:
    async def work() -> list[str]:
        loop, hung = ThreadedLoop(), [Hung() for _ in range(IO_THREADS)]
        os.truncate(store.path, 0)
        watch = StoreWatch(cast(Any, {**dict(enumerate(hung, 100)), STORE: looked(store)}), loop)
        watch.start()
        found = await asyncio.to_thread(loop.lost.wait, 10)
        for one in hung:
            one.go.set()
        watch.stop()
        return loop.stub.told if found else []

    assert asyncio.run(work()) == ["lost 7"]


def test_what_is_found_after_the_stop_is_of_no_interest(store: Backing) -> None:
    async def work() -> list[str]:
        loop = StubLoop()
        watch = StoreWatch({STORE: looked(store)}, loop)
        watch.start()
        watch.stop()
        os.truncate(store.path, 0)
        loop.finish()
        return loop.stub.told

    assert asyncio.run(work()) == []


def test_a_fault_of_ours_says_nothing_about_the_store(store: Backing) -> None:
    async def work() -> list[str]:
        loop = StubLoop()
        watch = StoreWatch({STORE: looked(store)}, loop)
        os.truncate(store.path, 0)
        watch.start()
        loop.finish(broken=True)
        assert loop.stub.told == []
        watch.start()
        loop.finish()
        watch.stop()
        return loop.stub.told

    assert asyncio.run(work()) == ["lost 7"]


def test_it_looks_again_by_itself(store: Backing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storewatch, "EVERY", 0)

    async def work() -> None:
        loop = StubLoop()
        watch = StoreWatch({STORE: looked(store)}, loop)
        watch.start()
        loop.finish()
        while not loop.waiting:
            await asyncio.sleep(0)
        watch.stop()

    asyncio.run(work())


class Erring(Hung):
    """A store whose I/O fails as often as it is told, and that is looked at as it says."""

    path = "/erring"

    def __init__(self) -> None:
        super().__init__()
        self.failed, self.silent = Faults(), False
        self.suspected: list[bool] = []
        self.gone: OSError | None = None

    def look(self, is_suspect: bool) -> None:
        self.suspected.append(is_suspect)
        if self.gone is not None:
            raise self.gone

    def faults(self) -> Faults:
        return self.failed

    def is_silent(self) -> bool:
        return self.silent


@contextlib.contextmanager
def watching(store: Any) -> Iterator[tuple[StubLoop, StoreWatch, list[int]]]:
    loop = StubLoop()
    refits: list[int] = []
    watch = StoreWatch({STORE: store}, loop, refits.append)
    yield loop, watch, refits
    watch.stop()


def look_once(loop: StubLoop, watch: StoreWatch) -> str:
    """Look, and return the state that came of it."""
    watch._look_at_all()
    loop.finish()
    return watch.states()[STORE].state


def test_errors_are_told_once_degrade_and_are_over_after_a_while(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    async def work() -> None:
        store = Erring()
        with watching(store) as (loop, watch, refits):
            assert look_once(loop, watch) == "well"
            for writes in (1, 2):
                store.failed = Faults(0, writes, 0, errno.EIO)
                assert look_once(loop, watch) == "errs"
            assert watch.states()[STORE].why == (
                "/erring: 0 reads, 2 writes, 0 flushes failed, the last with Input/output error"
            )
            monkeypatch.setattr(storewatch, "QUIET_SECONDS", -1)
            assert look_once(loop, watch) == "well"
            assert loop.stub.told == ["7 errs", "7 is well"], "and nobody's lease has ended"
            assert store.suspected == [False, True, True, False]
            assert refits == []

    asyncio.run(work())
    assert caplog.text.count("a store errs") == 1
    assert caplog.text.count("has not erred") == 1


def test_one_of_which_nothing_can_be_read_is_gone_stays_suspect_and_comes_back(caplog: Any) -> None:
    async def work() -> None:
        store = Erring()
        with watching(store) as (loop, watch, refits):
            store.failed, store.gone = Faults(1, 0, 0, errno.EIO), OSError(errno.EIO, "nothing can be read", "/erring")
            assert [look_once(loop, watch) for _ in range(3)] == ["absent"] * 3
            store.failed = Faults(9, 0, 0, errno.EBADF)  # who still asked
            store.gone = OSError(errno.ENOENT, "No such file", "/erring")
            assert look_once(loop, watch) == "absent"
            assert watch.states()[STORE].why == f"/erring: No such file; {storewatch.REMEDY}"
            store.gone = None
            assert look_once(loop, watch) == "well"
            assert look_once(loop, watch) == "well"
            assert loop.stub.told == ["7 errs", "lost 7", "7 is well", "regained 7"]
            assert refits == [STORE, STORE]
            assert store.suspected == [True] * 5 + [False]

    asyncio.run(work())
    assert caplog.text.count("a store is gone") == 1
    assert caplog.text.count("that store is not back: /erring: No such file") == 1


def test_what_a_start_found_missing_is_lost_before_anybody_can_ask_for_it() -> None:
    async def work() -> None:
        store = Erring()
        store.absence = OSError(errno.ENOENT, "No such file or directory")
        with watching(store) as (loop, watch, _):
            watch.start()
            assert loop.stub.told == ["lost 7"], "no look is through yet"
            assert watch.states()[STORE].why.startswith("/erring: No such file or directory")

    asyncio.run(work())


def test_one_that_does_not_answer_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        store = Erring()
        with watching(store) as (loop, watch, _):
            store.silent = True
            assert look_once(loop, watch) == "silent"
            store.silent = False
            assert look_once(loop, watch) == "well"
            monkeypatch.setattr(storewatch, "SILENT_SECONDS", 0)
            watch._look_at_all()
            assert watch.states()[STORE].state == "silent", "the look itself does not end"
            loop.finish()
            assert watch.states()[STORE].state == "well"
            assert loop.stub.told == []

    asyncio.run(work())
