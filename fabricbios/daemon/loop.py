"""Drives core.Node with a real clock, real sockets and real drivers: where its effects begin and its answers leave.

All of it runs in the event loop's thread but the slow effects, which report back into it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

from fabricbios.core.audit import AuditEvent
from fabricbios.core.effects import Do, Effect, Record, Undo
from fabricbios.core.node import Close, Node, Push, Reset
from fabricbios.core.trust import TrustStore
from fabricbios.daemon.clock import now
from fabricbios.daemon.effects import Effects, Result
from fabricbios.daemon.journal import Journal
from fabricbios.daemon.log import Said, say_all
from fabricbios.daemon.pins import Pins
from fabricbios.model import NS, Instant
from fabricbios.ports import StreamPeer
from fabricbios.transport.server import QuicServer

log = logging.getLogger("fabricbios.node")
T = TypeVar("T")
U = TypeVar("U")
TIDY_SECONDS = 0.02  # less than from any request to a deadline that it makes
LONGEST_SLEEP_NS = 5 * NS  # CLOCK_BOOTTIME runs on while we are suspended, the event loop's clock does not
_PROBLEMS = frozenset({"effect.failed", "lease.fenced"})


class NodeLoop:
    """`worked` is called, in the loop, after anything may have changed, before the answers leave, and `changed` after
    that; `answered(peer)` when an answer leaves or a stream is reset instead."""

    def __init__(
        self,
        node: Node,
        trust: TrustStore,
        pins: Pins,
        effects: Effects,
        journal: Journal,
        server: QuicServer,
        changed: Callable[[], None] = lambda: None,
        answered: Callable[[StreamPeer], None] = lambda _: None,
        worked: Callable[[], None] = lambda: None,
    ) -> None:
        self.node, self.trust, self._pins = node, trust, pins
        self._effects, self._journal, self._server = effects, journal, server
        self._changed, self._answered, self._worked = changed, answered, worked
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ns = 0  # when it fires, CLOCK_BOOTTIME
        self._tidying: asyncio.TimerHandle | None = None
        self._running = 0  # slow effects under way
        self._gave_up = False  # on what would not go
        self._recording = 0  # of them, Records: core cannot list yet what they say
        self.faults = 0

    def receive(self, data: bytes, peer: StreamPeer) -> None:
        """Let core hear a request. `pump` once all that came together are heard: what they share is done once."""
        self._guarded(self._receive, data, peer)

    def _receive(self, data: bytes, peer: StreamPeer) -> None:
        self.node.receive(data, peer, now())
        self._pins.write_due(self.trust)  # before the next request: a claim that cannot be kept was none

    def pump(self, first: Callable[[], None] = lambda: None) -> None:
        """After `first`, carry out what core wants done and send what it has to say; call after every input."""
        self._guarded(self._pump, first)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception:  # the guard: one broken step must not take everybody's leases with it
            self.faults += 1
            log.exception("fault in the node's loop; going on")
            self._look_again()

    def _pump(self, first: Callable[[], None]) -> None:
        first()
        self._work()
        self._tidy()

    def _work(self) -> None:
        self._pins.write_due(self.trust)
        at = now()
        self._carry_out()
        self._send(at)
        self._worked()

    def answer(self) -> None:
        """As `pump`, for requests: who asked does not wait for what nobody waits for, and once does for many."""
        self._guarded(self._work)
        if self._tidying is None:
            self._tidying = self._loop.call_later(TIDY_SECONDS, self._guarded, self._tidy)

    def _tidy(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None
        self._tell()
        self._arm()
        self._changed()

    def _carry_out(self) -> None:
        """Do all that core wants done. What is quick is done together: its entries in the journal are two writes."""
        while True:
            quick: list[Effect] = []
            try:
                slow = self._collect(quick)
            finally:  # what core has given out it waits for
                if quick:
                    self._report(quick, self._carried_out(quick))
            if slow is not None:
                self._begin(slow)
            elif not quick:
                return

    def _collect(self, quick: list[Effect]) -> Effect | None:
        """Add the quick effects that core wants now, up to a slow one, which is returned."""
        while (effect := self.node.next_effect()) is not None and self._effects.is_quick(effect):
            quick.append(effect)
        return effect

    def _begin(self, effect: Effect) -> None:
        self._running += 1
        self._recording += isinstance(effect, Record)
        self._effects.submit(effect, lambda: self._done_in_thread(effect, self._carried_out([effect])))

    def _carried_out(self, effects: list[Effect]) -> list[Result | OSError]:
        """Carry out effects of different leases, in whatever thread: tell the journal first, then do the steps."""
        unwritten = self._failed_if_broken(self._effects.write_first, effects)
        if unwritten is None:
            return [self._failed_if_broken(self._effects.carry_out, effect) for effect in effects]
        _complain(effects, unwritten)
        return [
            unwritten if isinstance(effect, Record | Do) else self._failed_if_broken(self._effects.carry_out, effect)
            for effect in effects
        ]

    def _failed_if_broken(self, work: Callable[[T], U], of: T) -> U | OSError:
        """A fault in a driver is a failure of its step, which core can end."""
        try:
            return work(of)
        except Exception as e:  # the guard: an effect that is never reported would hold its lease for ever
            self.faults += 1
            log.exception("fault in a driver; its step has failed")
            return OSError(errno.EIO, f"fault in a driver: {type(e).__name__}")

    def in_thread(self, work: Callable[[], T], then: Callable[[T | None], None], lane: Hashable = "") -> None:
        """Do what may block beside the loop, and go on with its result in the loop; None if it broke. It is held up
        by what is in the same lane alone."""

        def run() -> None:
            result: T | None
            try:
                result = work()
            except Exception:  # the guard again: this stream is reset, the others go on
                self.faults += 1
                log.exception("fault beside the node's loop; going on")
                result = None
            self._loop.call_soon_threadsafe(then, result)

        self._effects.run(run, lane)

    def _done_in_thread(self, effect: Effect, results: list[Result | OSError]) -> None:
        self._loop.call_soon_threadsafe(self._done, effect, results)

    def _done(self, effect: Effect, results: list[Result | OSError]) -> None:
        self._running -= 1
        self._recording -= isinstance(effect, Record)
        self.pump(lambda: self._report([effect], results))

    def _report(self, effects: list[Effect], results: list[Result | OSError]) -> None:
        """Tell the journal what it is told then, and core what came of all. At one go, in the loop: the journal as core
        knows it must not be written anew between the two."""
        if self._gave_up:
            return  # FENCED is what the journal says of whatever was under way
        untold, at = self._failed_if_broken(partial(self._effects.write_then, effects), results), now()
        if untold is not None:
            _complain(effects, untold)
        for effect, result in zip(effects, results, strict=True):
            if untold is not None and isinstance(effect, Do) and effect.after and not isinstance(result, OSError):
                result = untold  # a lease that the journal does not know to be bound is none
            self._guarded(self._report_one, effect, result, at)

    def _report_one(self, effect: Effect, result: Result | OSError, at: Instant) -> None:
        if isinstance(result, OSError):
            self.node.effect_failed(effect, result, at)
        else:
            self.node.effect_succeeded(effect, result, at)

    def _send(self, at: Instant) -> None:
        for data, to in self.node.datagrams_to_send(at):
            if isinstance(to, Push):
                self._server.push(to.connection, data)
            elif isinstance(to, Reset):
                stream = StreamPeer(to.connection, to.stream, 0, b"", b"", ("", 0), ("", 0))
                self._server.reset(stream, to.code)
                self._answered(stream)
            elif isinstance(to, Close):
                self._server.disconnect(to.connection)
            elif self._pins.was_refused(to.node_id):
                self._server.disconnect(to.connection)  # its claim could not be kept: no answer may say so
            else:
                self._server.answer(to, data)
                self._answered(to)
        self._pins.sent()

    def _tell(self) -> None:
        """A teardown that is over as soon as it began is told once."""
        events = self.node.events()
        if not events:
            return
        freed = {event.lease_id for event in events if event.name == "lease.freed"}
        say_all(log, [_told(e) for e in events if e.name != "lease.ending" or e.lease_id not in freed])

    def _arm(self) -> None:
        """Keep a timer that is early enough: one that fires too soon looks again, which costs less than another."""
        deadline = self.node.next_deadline()
        if deadline is None or (self._timer is not None and self._armed_ns <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        at = now().boot_ns
        self._armed_ns = min(deadline, at + LONGEST_SLEEP_NS)
        self._timer = self._loop.call_later(max(0, self._armed_ns - at) / NS, self._tick)

    def _look_again(self) -> None:
        """What broke may have been the timer's own turn, and leases end by it."""
        if self._timer is None:
            self._armed_ns = now().boot_ns + LONGEST_SLEEP_NS
            self._timer = self._loop.call_later(LONGEST_SLEEP_NS / NS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._turn()

    def _turn(self) -> None:
        if self._journal.wants_compaction and not self._recording:
            self._compact()
        self.pump(lambda: self.node.handle_timer(now()))

    def _compact(self) -> None:
        try:
            self._journal.compact(self.node.journal())
        except OSError as e:
            log.warning("journal not compacted: %s", e)

    async def drain(self, seconds: float) -> None:
        """Tear every lease down in parallel; what will not go in time is FENCED in the journal (D8)."""
        until = time.monotonic() + seconds
        self.node.drain(now())
        self.pump()
        while not (self.node.drained and not self._running) and time.monotonic() < until:
            await asyncio.sleep(0.005)
            self._turn()
        for record in self.node.fence_rest(now()):
            self._fence(record)
        self._gave_up = True
        self._send(now())

    def _fence(self, record: Record) -> None:
        """Without this entry the successor tears the lease down again, or adopts it: no reason to stop stopping."""
        lease_id = record.entry.get("id")
        log.error("lease %s would not go: its resource stays FENCED", lease_id)
        try:
            self._journal.append([record.entry], record.durable)
        except OSError as e:
            log.error("lease %s: the journal does not take it: %s", lease_id, e)

    def stop(self) -> None:
        self._tell()
        for handle in (self._timer, self._tidying):
            if handle is not None:
                handle.cancel()
        self._timer = self._tidying = None


def _complain(effects: list[Effect], error: OSError) -> None:
    """Core hears of what failed by it; of a teardown nothing does."""
    if any(isinstance(effect, Undo) for effect in effects):
        log.error("the journal does not take it: %s: what ends is ended all the same", error)


def _told(event: AuditEvent) -> Said:
    level = logging.WARNING if event.name in _PROBLEMS else logging.INFO
    return (
        event.unix_ms / 1000,
        level,
        f"{event.name} lease={event.lease_id:032x} peer={event.peer:032x} {event.detail}",
    )
