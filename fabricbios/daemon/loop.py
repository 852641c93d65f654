"""Drives core.Node with a real clock, real sockets and real drivers: where its effects begin and its answers leave.

All of it runs in the event loop's thread but the slow effects, which report back into it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from fabricbios.core.effects import Effect
from fabricbios.core.node import Node, Push, Reset
from fabricbios.core.trust import TrustStore
from fabricbios.daemon.clock import now
from fabricbios.daemon.effects import Effects, Result
from fabricbios.daemon.journal import Journal
from fabricbios.daemon.pins import Pins
from fabricbios.model import NS
from fabricbios.ports import StreamPeer
from fabricbios.transport.server import QuicServer

log = logging.getLogger("fabricbios.node")
LONGEST_SLEEP = 5.0  # seconds; CLOCK_BOOTTIME runs on while we are suspended, the event loop's clock does not
_PROBLEMS = frozenset({"effect.failed", "lease.fenced"})


class NodeLoop:
    """`changed` is called, in the loop, after anything may have changed; `answered(peer)` when an answer leaves."""

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
    ) -> None:
        self.node, self.trust, self._pins = node, trust, pins
        self._effects, self._journal, self._server = effects, journal, server
        self._changed, self._answered = changed, answered
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._running = 0  # slow effects under way
        self.faults = 0

    def pump(self, first: Callable[[], None] = lambda: None) -> None:
        """After `first`, carry out what core wants done and send what it has to say; call after every input."""
        try:
            first()
            self._pump()
        except Exception:  # the guard: one broken step must not take everybody's leases with it
            self.faults += 1
            log.exception("fault in the node's loop; going on")

    def _pump(self) -> None:
        self._pins.write_due(self.trust)
        while (effect := self.node.next_effect()) is not None:
            if self._effects.is_quick(effect):
                self._report(effect, self._effects.carry_out(effect))
            else:
                self._running += 1
                self._effects.submit(effect, self._done_in_thread)
        self._send()
        self._tell()
        self._arm()
        self._changed()

    def in_thread(self, work: Callable[[], bytes], then: Callable[[bytes | None], None]) -> None:
        """Do what may block beside the loop, and go on with its result in the loop; None if it broke."""

        def run() -> None:
            try:
                result = work()
            except Exception:  # the guard again: this stream is reset, the others go on
                self.faults += 1
                log.exception("fault beside the node's loop; going on")
                result = None
            self._loop.call_soon_threadsafe(then, result)

        self._effects.run(run)

    def _done_in_thread(self, effect: Effect, result: Result | OSError) -> None:
        self._loop.call_soon_threadsafe(self._done, effect, result)

    def _done(self, effect: Effect, result: Result | OSError) -> None:
        self._running -= 1
        self.pump(lambda: self._report(effect, result))

    def _report(self, effect: Effect, result: Result | OSError) -> None:
        if isinstance(result, OSError):
            self.node.effect_failed(effect, result, now())
        else:
            self.node.effect_succeeded(effect, result, now())

    def _send(self) -> None:
        for data, to in self.node.datagrams_to_send(now()):
            if isinstance(to, Push):
                self._server.push(to.connection, data)
            elif isinstance(to, Reset):
                self._server.reset(StreamPeer(to.connection, to.stream, 0, b"", b"", ("", 0), ("", 0)), to.code)
            elif self._pins.was_refused(to.node_id):
                self._server.disconnect(to.connection)  # its claim could not be kept: no answer may say so
            else:
                self._server.answer(to, data)
                self._answered(to)

    def _tell(self) -> None:
        for event in self.node.events():
            level = logging.WARNING if event.name in _PROBLEMS else logging.INFO
            log.log(level, "%s lease=%032x peer=%032x %s", event.name, event.lease_id, event.peer, event.detail)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.node.next_deadline()
        wait = LONGEST_SLEEP
        if deadline is not None:
            wait = min(wait, max(0.0, (deadline - now().boot_ns) / NS))
        self._timer = self._loop.call_later(wait, self._tick) if deadline is not None else None

    def _tick(self) -> None:
        if self._journal.wants_compaction:
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
            self._tick()
        for record in self.node.fence_rest(now()):
            self._journal.append(record.entry, record.durable)
            log.error("lease %s would not go: its resource stays FENCED", record.entry.get("id"))
        self._send()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
