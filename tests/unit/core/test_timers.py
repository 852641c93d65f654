"""The timer heap: never late, cheap to put off, and without leaks."""

import random

from fabricbios.core.timers import Timers


class Thing:
    def __init__(self, deadline: int | None) -> None:
        self.deadline = deadline
        self.armed_ns = -1

    def next_deadline(self) -> int | None:
        return self.deadline


def test_due_in_order_of_time_then_of_arming() -> None:
    timers: Timers[Thing] = Timers()
    things = [Thing(t) for t in (5, 3, 5, 9)]
    for thing in things:
        timers.arm(thing)
    assert timers.next_deadline() == 3
    due = []
    for thing in timers.due(5):
        due.append(thing)
        thing.deadline = None
    assert due == [things[1], things[0], things[2]]
    assert timers.next_deadline() == 9


def test_putting_off_costs_no_entry() -> None:
    timers: Timers[Thing] = Timers()
    thing = Thing(10)
    for later in range(10, 100_000):
        thing.deadline = later
        timers.arm(thing)
    assert len(timers) == 1
    assert list(timers.due(50_000)) == []
    assert timers.next_deadline() == 99_999


def test_pausing_and_resuming_costs_no_entry() -> None:
    timers: Timers[Thing] = Timers()
    thing = Thing(10)
    for later in range(10, 10_000):
        for deadline in (None, later):
            thing.deadline = deadline
            timers.arm(thing)
    assert len(timers) == 1


def test_a_nearer_deadline_counts_and_stale_entries_are_swept() -> None:
    timers: Timers[Thing] = Timers()
    for n in range(20_000):
        thing = Thing(10**12)
        timers.arm(thing)
        thing.deadline = n
        timers.arm(thing)
        assert list(timers.due(n)) == [thing]
    assert len(timers) < 4096


def test_disarmed_things_never_come() -> None:
    timers: Timers[Thing] = Timers()
    thing = Thing(5)
    timers.arm(thing)
    timers.disarm(thing)
    assert timers.next_deadline() is None
    assert list(timers.due(100)) == []


def test_against_a_plain_model() -> None:
    rng = random.Random(3)
    timers: Timers[Thing] = Timers()
    things = [Thing(None) for _ in range(50)]
    now = 0
    for _ in range(20_000):
        thing = rng.choice(things)
        thing.deadline = None if rng.random() < 0.1 else now + rng.randrange(1, 100)
        timers.arm(thing)
        now += rng.random() < 0.3
        expected = {id(t) for t in things if t.deadline is not None and t.deadline <= now}
        got = set()
        for due in timers.due(now):
            got.add(id(due))
            due.deadline = None
        assert got == expected
        upcoming = [t.deadline for t in things if t.deadline is not None]
        if upcoming:
            next_look = timers.next_deadline()
            assert next_look is not None
            assert next_look <= min(upcoming)
