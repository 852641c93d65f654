"""What an earlier daemon left: taken back beside the event loop, uppermost first, until all of it is gone."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from fabricbios.daemon import orphans as module
from fabricbios.daemon.orphans import Orphans


class Keeps:
    """A plane that holds leases; those in `stuck` will not go."""

    def __init__(self, held, stuck=()):
        self.held, self.stuck = set(held), set(stuck)

    def orphans(self, known):
        return self.held - known

    def release(self, lease_id):
        if lease_id in self.stuck:
            raise OSError(16, "busy")
        self.held.discard(lease_id)


class Beside:
    """Work waits here, as in a thread, until it is let run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], bool], Callable[[bool | None], None], Hashable]] = []
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def __call__(self, *work: Any) -> None:
        self.waiting.append(work)

    def call_later(self, seconds: float, call: Callable[..., None], *args: Any) -> Beside:
        self.timers.append((seconds, call, args))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def run(self, fault: bool = False) -> None:
        work, then, _ = self.waiting.pop()
        then(None if fault else work())


def test_what_no_journal_knows_is_taken_back_and_the_rest_is_left():
    plane = Keeps({1, 2, 3})
    assert Orphans([plane, object()], {2}).take_back()
    assert plane.held == {2}


def test_bytes_that_are_still_served_are_not_wiped():
    above, below = Keeps({1, 2}, stuck={1}), Keeps({1, 2, 3})
    orphans = Orphans([above, below], set())
    assert not orphans.take_back()
    assert below.held == {1}
    above.stuck.clear()
    assert orphans.take_back()
    assert above.held == below.held == set()


def test_what_was_granted_since_is_no_orphan():
    plane = Keeps({1}, stuck={1})
    orphans = Orphans([plane], set())
    plane.held.add(7)
    plane.stuck.clear()
    assert orphans.take_back()
    assert plane.held == {7}


def test_it_is_done_beside_the_loop_and_again_until_all_is_gone(monkeypatch):
    plane, beside = Keeps({1}, stuck={1}), Beside()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: beside)
    orphans = Orphans([plane], set())
    orphans.begin(beside)
    assert plane.held == {1}  # nothing yet: the loop goes on
    beside.run()
    (_, call, args) = beside.timers.pop()
    call(*args)
    beside.run(fault=True)  # a driver's fault is no end either
    (_, call, args) = beside.timers.pop()
    plane.stuck.clear()
    call(*args)
    beside.run()
    assert plane.held == set()
    assert (beside.timers, beside.waiting) == ([], [])


def test_a_daemon_that_ends_begins_no_other_wipe(monkeypatch):
    plane, beside = Keeps({1, 2}, stuck={1}), Beside()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: beside)
    orphans = Orphans([plane], set())
    orphans.begin(beside)
    orphans.stop()
    beside.run()
    assert plane.held == {1, 2}
    assert beside.timers == []
