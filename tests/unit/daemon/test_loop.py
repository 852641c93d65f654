"""The node's loop: what is written before what is done, and what waits for whom."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest

from fabricbios.core.audit import AuditEvent
from fabricbios.core.effects import Do, Effect, Record, Undo
from fabricbios.core.node import Close, Reset
from fabricbios.daemon.clock import now
from fabricbios.daemon.effects import Effects
from fabricbios.daemon.loop import NodeLoop
from fabricbios.model import NS, Binding, DpAuth, Instant, ResourceType
from fabricbios.ports import LeaseSpec, StreamPeer

Seen = list[Any]
LEASE = LeaseSpec(33, 8, ResourceType.MEM, Binding.UDP, 4096, 5, 1, DpAuth.HMAC_HEADER, b"", 3, 0)
HUGE, DISK = LEASE._replace(size=1 << 30), LEASE._replace(kind=ResourceType.BLOCK)


class StubNode:
    """A core that wants the effects of `queue` done; a tuple in it is one lease's, one after the other."""

    def __init__(self, *queue: tuple[Effect, ...]) -> None:
        self.queue = deque(map(deque, queue))
        self.out: dict[Effect, deque[Effect]] = {}
        self.failed: Seen = []
        self.errors: list[OSError] = []
        self.rest: list[Record] = []

    def next_effect(self) -> Effect | None:
        if not self.queue:
            return None
        theirs = self.queue.popleft()
        effect = theirs.popleft()
        self.out[effect] = theirs
        return effect

    def effect_succeeded(self, effect: Effect, result: Seen, now: Instant) -> None:
        if rest := self.out.pop(effect):
            self.queue.append(rest)

    def effect_failed(self, effect: Effect, error: OSError, now: Instant) -> None:
        self.failed.append(effect)
        self.errors.append(error)
        del self.out[effect]

    def fence_rest(self, now: Instant) -> list[Record]:
        return self.rest

    def datagrams_to_send(self, now: Instant) -> Seen:
        return []

    events = journal = lambda self: []
    next_deadline = handle_timer = drain = lambda self, *_: None
    drained = False


class StubTrust:
    next_effect = staticmethod(lambda: None)


class StubPins:
    write_due = staticmethod(lambda trust: None)
    sent = staticmethod(lambda: None)


class StubJournal:
    """Notes in `seen` what is written; with `full` nothing can be, else all but what has a number of `refused`."""

    wants_compaction = True

    def __init__(self, seen: Seen) -> None:
        self.seen, self.full = seen, False
        self.refused: set[int] = set()

    def append(self, entries: Seen, durable: bool) -> None:
        if self.full or {entry["n"] for entry in entries} & self.refused:
            raise OSError(28, "no space left")
        self.seen.append([entry["n"] for entry in entries])

    def compact(self, entries: Seen) -> None:
        self.seen.append("compacted")


class StubPlane:
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def do(self, step: str, lease: LeaseSpec) -> tuple[()]:
        self.seen.append(step)
        if step == "broken":
            raise ValueError("a driver's fault")
        return ()

    undo = do


class Held(Effects):
    """Slow effects wait in `held` until they are let go."""

    held: list[Callable[[], None]]

    def submit(self, effect: Effect, work: Callable[[], None]) -> None:
        self.held.append(work)


def record(n: int, durable: bool = False) -> Record:
    return Record(LEASE, {"n": n}, durable)


async def made(node: StubNode, seen: Seen) -> tuple[NodeLoop, StubJournal, Held]:
    journal = StubJournal(seen)
    planes = {(kind, Binding.UDP): StubPlane(seen) for kind in (ResourceType.MEM, ResourceType.BLOCK)}
    effects = Held(cast(Any, journal), cast(Any, planes))
    effects.held = []
    parts: Any = (node, StubTrust(), StubPins(), effects, journal, None)
    return NodeLoop(*parts), journal, effects


def do(n: int, step: str, size: int = 4096) -> Do:
    return Do(LEASE._replace(size=size), step, {"n": n}, {"n": 10 + n})


def undo(n: int, step: str) -> Undo:
    return Undo(LEASE, step, {"n": n}, {"n": 10 + n})


def test_entries_of_several_leases_are_one_write_before_their_steps_and_one_after_them() -> None:
    async def body() -> None:
        seen: Seen = []
        node = StubNode((record(0), record(9)), (do(1, "step1"),), (undo(2, "step2"),))
        loop, _, _ = await made(node, seen)
        loop.pump()
        assert seen == [[0, 1, 2], "step1", "step2", [11, 12], [9]]
        assert not node.out
        assert not loop.faults

    asyncio.run(body())


def test_only_teardown_goes_on_without_the_journal() -> None:
    async def body() -> None:
        seen: Seen = []
        bind, end = do(1, "never"), undo(2, "step2")
        node = StubNode((bind,), (end,))
        loop, journal, _ = await made(node, seen)
        journal.full = True
        loop.pump()
        assert seen == ["step2"]
        assert node.failed == [bind]
        assert not node.out

    asyncio.run(body())


def test_a_lease_is_not_bound_before_the_journal_says_so() -> None:
    async def body() -> None:
        seen: Seen = []
        bind, end, half = do(1, "step1"), undo(2, "step2"), Do(LEASE, "step3", {"n": 3})
        node = StubNode((bind,), (end,), (half,))
        loop, journal, _ = await made(node, seen)
        journal.refused = {11}
        loop.pump()
        assert seen == [[1, 2, 3], "step1", "step2", "step3"]
        assert node.failed == [bind]
        assert not node.out

    asyncio.run(body())


def test_what_a_failed_step_would_have_left_in_the_journal_is_not_written() -> None:
    async def body() -> None:
        seen: Seen = []
        loop, _, _ = await made(StubNode((do(1, "broken"),), (undo(2, "broken"),), (do(3, "fine"),)), seen)
        loop.pump()
        assert seen == [[1, 2, 3], "broken", "broken", "fine", [13]]

    asyncio.run(body())


def test_what_could_not_be_written_is_told_to_each() -> None:
    async def body() -> None:
        seen: Seen = []
        node = StubNode(*((record(n), Do(LEASE, "never")) for n in range(2)))
        loop, journal, _ = await made(node, seen)
        journal.full = True
        loop.pump()
        assert [effect.entry["n"] for effect in node.failed] == [0, 1]
        assert seen == []

    asyncio.run(body())


def test_the_journal_is_not_compacted_while_an_entry_is_on_its_way_to_the_disk() -> None:
    async def body() -> None:
        seen: Seen = []
        loop, _, effects = await made(StubNode((record(1, durable=True),)), seen)
        loop.pump()
        loop._tick()
        assert seen == []
        effects.held.pop()()
        await asyncio.sleep(0)
        loop._tick()
        assert seen == [[1], "compacted"]

    asyncio.run(body())


@pytest.mark.parametrize("slow", [Undo(HUGE, "step", {"n": 1}, {"n": 11}), Do(DISK, "step", {"n": 1}, {"n": 11}, True)])
def test_what_a_slow_step_leaves_in_the_journal_is_written_when_core_is_told(slow: Effect) -> None:
    """It may take for ever, so the journal is compacted meanwhile; but never between that entry and what core knows."""

    async def body() -> None:
        seen: Seen = []
        node = StubNode((slow,))
        loop, _, effects = await made(node, seen)
        loop.pump()
        effects.held.pop()()
        loop._compact()
        assert seen == [[1], "step", "compacted"]
        assert node.out
        await asyncio.sleep(0)
        assert seen == [[1], "step", "compacted", [11]]
        assert not node.out

    asyncio.run(body())


def test_a_fault_in_a_driver_is_a_failure_of_its_step_and_the_others_go_on() -> None:
    """An effect that nobody reports would hold its lease for ever: neither ended nor FENCED."""

    async def body() -> None:
        seen: Seen = []
        slow = Undo(LEASE._replace(size=1 << 30), "broken")
        node = StubNode((Do(LEASE, "broken"),), (slow,), (Do(LEASE, "fine"),))
        loop, _, effects = await made(node, seen)
        loop.pump()
        assert seen == ["broken", "fine"]
        effects.held.pop()()
        await asyncio.sleep(0)
        assert node.failed[1] is slow
        assert [error.errno for error in node.errors] == [errno.EIO, errno.EIO]
        assert not node.out
        assert loop.faults == 2

    asyncio.run(body())


def test_a_fault_in_the_journal_is_a_failure_of_what_it_was_to_know_and_a_teardown_goes_on() -> None:
    async def body() -> None:
        seen: Seen = []
        bind, slow, end = do(1, "never"), Do(DISK, "never", {"n": 3}), undo(2, "ended")
        node = StubNode((bind,), (end,), (slow,))
        loop, journal, effects = await made(node, seen)

        def broken(entries: Seen, durable: bool) -> None:
            raise TypeError("a fault of ours")

        journal.append = broken  # type: ignore[method-assign]
        loop.pump()
        journal.append = lambda *_: None  # type: ignore[method-assign]
        assert seen == ["ended"]
        assert node.failed == [bind]
        journal.append = broken  # type: ignore[method-assign]
        effects.held.pop()()
        await asyncio.sleep(0)
        assert node.failed == [bind, slow]
        assert not node.out

    asyncio.run(body())


def test_a_fault_of_core_at_one_report_or_at_the_next_question_loses_no_other_report() -> None:
    async def body() -> None:
        seen: Seen = []
        first, second = do(1, "step1"), do(2, "step2")
        node = StubNode((first,), (second,))
        told, ask = node.effect_succeeded, node.next_effect

        def picky(effect: Effect, result: Seen, now: Instant) -> None:
            told(effect, result, now)
            if effect is first:
                raise ValueError("a fault of core's")

        def tired() -> Effect | None:
            if not node.queue and node.out:
                raise ValueError("another")
            return ask()

        node.effect_succeeded, node.next_effect = picky, tired  # type: ignore[method-assign]
        loop, _, _ = await made(node, seen)
        loop.pump()
        assert seen == [[1, 2], "step1", "step2", [11, 12]]
        assert not node.out
        assert loop.faults == 2

    asyncio.run(body())


def test_what_ends_after_the_daemon_gave_up_on_it_stays_fenced() -> None:
    async def body() -> None:
        seen: Seen = []
        late = Do(DISK, "step", {"n": 1}, {"n": 11}, True)
        node = StubNode((late,))
        node.rest = [record(2, durable=True)]
        loop, _, effects = await made(node, seen)
        await loop.drain(0.0)
        effects.held.pop()()
        await asyncio.sleep(0)
        assert seen == [[2], [1], "step"]

    asyncio.run(body())


def test_a_full_disk_does_not_stop_the_end() -> None:
    async def body() -> None:
        node = StubNode()
        node.rest = [record(1, durable=True), record(2, durable=True)]
        loop, journal, _ = await made(node, [])
        journal.full = True
        await loop.drain(0.0)

    asyncio.run(body())


def test_a_thread_that_is_stuck_in_a_driver_is_known() -> None:
    effects, entered, leave = Effects(cast(Any, None), {}), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        leave.wait()

    effects.submit(record(1, durable=True), work)
    entered.wait()
    effects.close()
    assert effects.stuck
    leave.set()
    effects._pool.shutdown(wait=True)
    assert not effects.stuck


def test_what_waits_for_the_kernel_is_not_undone_in_the_event_loop() -> None:
    small, planes = LEASE, cast(Any, {})
    assert Effects(cast(Any, None), planes).is_quick(Undo(small, "memory.slot"))
    waiting = Effects(cast(Any, None), planes, frozenset({"memory.slot"}))
    assert not waiting.is_quick(Undo(small, "memory.slot"))
    assert waiting.is_quick(Undo(small, "memory.extent"))
    assert waiting.is_quick(Do(small, "memory.slot"))


def test_a_timer_that_is_early_enough_is_kept_and_a_late_one_replaced() -> None:
    """One that is due must not be put off by what else keeps the loop busy."""

    async def body() -> None:
        node = StubNode()
        loop, _, _ = await made(node, [])
        ahead = now().boot_ns
        armed = []
        for deadline in (ahead + 3 * NS, ahead + 4 * NS, ahead + 2 * NS, ahead - NS, ahead - NS, ahead + 1000 * NS):
            node.next_deadline = lambda deadline=deadline: deadline  # type: ignore[method-assign,misc]
            loop.pump()
            armed.append(loop._timer)
        assert armed[0] is armed[1]
        assert armed[1] is not armed[2] is not armed[3]
        assert armed[3] is armed[4] is armed[5]
        assert [timer.cancelled() for timer in armed[1:4] if timer] == [True, True, False]
        loop._tick()
        assert loop._timer is not None
        assert loop._timer.when() <= asyncio.get_running_loop().time() + 5
        loop.stop()

    asyncio.run(body())


def test_a_fault_in_the_timers_turn_does_not_end_all_further_ones() -> None:
    async def body() -> None:
        node = StubNode()
        loop, _, _ = await made(node, [])

        def broken(_: Instant) -> None:
            raise ValueError("a fault of core's")

        node.handle_timer = broken  # type: ignore[method-assign,assignment]
        loop._tick()
        assert loop.faults == 1
        assert loop._timer is not None
        late = loop._timer
        node.handle_timer, node.next_deadline = lambda _: None, lambda: now().boot_ns + NS  # type: ignore[method-assign,assignment,misc]
        loop.pump()
        assert late.cancelled()
        loop.stop()

    asyncio.run(body())


def test_what_nobody_waits_for_comes_once_for_many_answers_and_is_never_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        node, changes = StubNode(), []
        due = [AuditEvent(1, "one"), AuditEvent(2, "two"), AuditEvent(3, "three")]
        node.events = lambda: [due.pop(0)] if due else []  # type: ignore[method-assign]
        parts: Any = (node, StubTrust(), StubPins(), Held(cast(Any, None), {}), StubJournal([]), None)
        works: Seen = []
        loop = NodeLoop(*parts, changed=lambda: changes.append(len(due)), worked=lambda: works.append(1))
        for _ in range(3):
            loop.answer()
        assert not changes
        assert len(works) == 3, "what an answer may be asked about is known when it leaves"
        while not changes:
            await asyncio.sleep(0.001)
        loop.answer()
        loop.pump()
        loop.answer()
        loop.stop()
        assert changes == [2, 1]
        assert not due

    caplog.set_level(logging.INFO, "fabricbios.node")
    asyncio.run(body())
    assert [message.split()[0] for message in caplog.messages] == ["one", "two", "three"]


class StubServer:
    def __init__(self) -> None:
        self.seen: Seen = []

    def reset(self, peer: StreamPeer, code: int) -> None:
        self.seen.append(("reset", peer.connection, peer.stream, code))

    def disconnect(self, connection: int) -> None:
        self.seen.append(("disconnect", connection))


def test_a_stream_that_is_reset_is_waited_for_no_more_and_a_connection_is_closed_when_core_says_so() -> None:
    async def body() -> None:
        node, server, answered = StubNode(), StubServer(), []
        due: Seen = [(b"", Reset(7, 4, 1)), (b"", Close(8))]
        node.datagrams_to_send = lambda now: due  # type: ignore[method-assign]
        parts: Any = (node, StubTrust(), StubPins(), Held(cast(Any, None), {}), StubJournal([]), server)
        loop = NodeLoop(*parts, answered=lambda peer: answered.append((peer.connection, peer.stream)))
        loop.pump()
        assert server.seen == [("reset", 7, 4, 1), ("disconnect", 8)]
        assert answered == [(7, 4)]
        assert not loop.faults

    asyncio.run(body())
