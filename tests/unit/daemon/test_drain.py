"""SIGTERM has an end (D8): a lease that will not go is FENCED when the time is up, and nobody waits longer for it.

Time is ours: it passes from look to look, however quick or slow the machine is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fabricbios.daemon import loop as loop_module
from fabricbios.daemon.clock import now
from fabricbios.daemon.effects import Effects
from fabricbios.daemon.journal import Journal
from fabricbios.daemon.loop import NodeLoop
from fabricbios.daemon.node import DRAIN_SECONDS, NodeService
from fabricbios.model import Binding, ResourceType
from fabricbios.ports import LeaseSpec
from fabricbios.testing import FakeDataPlane, FakeNode, SimClock

LOOK = 0.5  # seconds that pass from one look at the clock to the next


class Hours:
    """Stands where the loop has `time`."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        self.passed += LOOK
        return self.passed


class Device(FakeDataPlane):
    """Undoing a lease of `stuck` does not return until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: set[int] = set()
        self.let_go = threading.Event()

    def undo(self, step: str, lease: LeaseSpec) -> None:
        if lease.lease_id in self.stuck:
            self.let_go.wait()
        super().undo(step, lease)


class Heard:
    """A QUIC server and pins, as far as a drain needs them."""

    def push(self, connection: int, data: bytes) -> None: ...
    def write_due(self, trust: object) -> None: ...
    def sent(self) -> None: ...


class Ending:
    """A node with leases, in a loop with real effects and a real journal."""

    def __init__(self, directory: Path) -> None:
        at = now()
        self.device = Device()
        self.fake = FakeNode(self.device, clock=SimClock(at.boot_ns, at.unix_ms))
        self.journal = Journal(directory / "journal")
        self.journal.open()
        planes = {(ResourceType.MEM, Binding.UDP): self.device}
        self.effects = Effects(self.journal, cast(Any, planes), slow_steps=frozenset({"open", "reserve"}))

    def drain(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        async def body() -> None:
            heard = cast(Any, Heard())
            loop = NodeLoop(self.fake.node, cast(Any, self.fake.trust), heard, self.effects, self.journal, heard)
            asyncio.get_running_loop().call_soon(meanwhile)
            await loop.drain(seconds)
            assert not loop.faults
            loop.stop()

        asyncio.run(body())

    def fenced(self) -> list[int]:
        """Return what a successor is told not to touch."""
        successor = Journal(self.journal.path)
        entries = successor.open()
        successor.close()
        return [int(entry["id"], 16) for entry in entries if entry["rec"] == "fenced"]

    def close(self) -> None:
        self.device.let_go.set()
        self.effects.close()
        self.journal.close()


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    made = Hours()
    monkeypatch.setattr(loop_module, "time", made)
    return made


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Ending]:
    made = Ending(tmp_path)
    yield made
    made.close()


def test_an_undo_that_never_returns_is_given_up_when_the_time_is_up_and_fenced(ending: Ending, hours: Hours) -> None:
    stuck = ending.fake.alloc(1).lease_id
    ending.device.stuck.add(stuck)
    ending.drain(DRAIN_SECONDS)
    assert DRAIN_SECONDS <= hours.passed - LOOK <= DRAIN_SECONDS + LOOK
    assert ending.fenced() == [stuck]
    assert ending.fake.node.drained
    assert ending.effects.stuck, "the daemon must leave without this thread"


def test_what_fails_over_and_over_is_given_up_too(ending: Ending, hours: Hours) -> None:
    lease = ending.fake.alloc(1).lease_id
    ending.device.failures["undo", "reserve"] = -1
    ending.drain(DRAIN_SECONDS)
    assert hours.passed - LOOK <= DRAIN_SECONDS + LOOK
    assert ending.fenced() == [lease]


def test_the_others_go_meanwhile(ending: Ending, hours: Hours) -> None:
    """A stuck one holds up its own thread alone; the time is up for those alone that will not go."""
    leases = [ending.fake.alloc(1).lease_id for _ in range(5)]
    ending.device.stuck.add(leases[2])
    gone = threading.Event()

    def wait() -> None:
        """Time goes on when the others have gone, or the machine's speed would count."""
        hours.passed = 0.0
        if len(ending.device.held) > 1:
            asyncio.get_running_loop().call_soon(wait)
        else:
            gone.set()

    ending.drain(DRAIN_SECONDS, wait)
    assert gone.is_set()
    assert set(ending.device.held) == {leases[2]}
    assert ending.fenced() == [leases[2]]


def test_nothing_leased_is_no_reason_to_wait(ending: Ending, hours: Hours) -> None:
    ending.drain(DRAIN_SECONDS)
    assert hours.passed <= 2 * LOOK
    assert ending.fenced() == []


@pytest.mark.parametrize("hand_over", [False, True])
def test_a_stop_drains_for_as_long_as_d8_says_and_a_handover_not_at_all(hand_over: bool) -> None:
    """And whatever becomes of it, nothing more is carried out afterwards."""
    seen: list[object] = []

    async def drain(seconds: float) -> None:
        seen.append(seconds)
        raise OSError("a fault")

    loop = SimpleNamespace(drain=drain, stop=lambda: seen.append("loop"))
    effects = SimpleNamespace(close=lambda: seen.append("effects"))
    service: Any = SimpleNamespace(_hand_over=hand_over, loop=loop, effects=effects)
    with nullcontext() if hand_over else pytest.raises(OSError, match="a fault"):
        asyncio.run(NodeService._stop_leasing(service))
    assert seen == ([] if hand_over else [8.0]) + ["loop", "effects"]
