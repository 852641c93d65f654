"""Who waits for a teardown is answered in time, whatever the device does: a client gives up after ten seconds.

The lease is over from the moment that it was ended: nobody reads or writes it any more. What may take long is to have
it wiped, or to give up on that and fence it. That goes on after the answer, and nobody gets the resource before.
"""

from __future__ import annotations

from fabricbios.core.state import Ask, NodeState, Waiting
from fabricbios.model import NS, Instant, Status

ANSWER_WITHIN_NS = 8 * NS
_WHY = "access is over, and the teardown goes on: it takes long"


def expect(state: NodeState, key: int, ask: Ask, now: Instant) -> None:
    """Let `ask` wait no longer than that; `key` is the lease it waits for, or the resource of a FENCE_CLEAR."""
    state.waiting.append(Waiting(now.boot_ns + ANSWER_WITHIN_NS, key, ask.judged()))


def next_deadline(state: NodeState) -> int | None:
    """Return the CLOCK_BOOTTIME ns at which somebody has waited long enough; who has his answer is forgotten."""
    while state.waiting and not _waits(state, state.waiting[0]):
        state.waiting.popleft()
    return state.waiting[0].until_ns if state.waiting else None


def answer(state: NodeState, now: Instant) -> None:
    """Refuse with RESOURCE_BUSY who has waited long enough. What he asked for is done all the same."""
    while state.waiting and state.waiting[0].until_ns <= now.boot_ns:
        waiting = state.waiting.popleft()
        if _waits(state, waiting):
            _refuse(state, waiting, now)


def _refuse(state: NodeState, waiting: Waiting, now: Instant) -> None:
    if waiting.key in state.clearing:
        state.clearing[waiting.key] = (None, state.clearing[waiting.key][1])
    else:
        state.askers[waiting.key].remove(waiting.ask)
    state.outbox.refuse(waiting.ask, Status.RESOURCE_BUSY, _WHY, now)


def _waits(state: NodeState, waiting: Waiting) -> bool:
    clearer, _ = state.clearing.get(waiting.key, (None, None))
    return waiting.ask == clearer or waiting.ask in state.askers.get(waiting.key, ())
