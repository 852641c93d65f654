"""The loop of a user-space server: receive a batch, answer it, send the answers."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence

from fabricbios.dataplane.batch import Batch
from fabricbios.dataplane.counters import DropReason
from fabricbios.dataplane.lookout import Lookout
from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import Train
from fabricbios.hw.syscalls import fence

_ROUNDS = 64
"""Batches between two times that the counters are shown, however busy the sockets are."""
_AT_ONCE = 128
"""Datagrams that are answered together, or one train. Who ends a lease waits for them, and on a slow disk each may take
ten milliseconds: of all that one batch may hold, thousands, he would wait in vain, and fence the lease."""
_REST_SECONDS = 0.005
"""Who has had nothing to do for so long shows the counters: a client that waits for each answer pays for no more."""


class Channel:
    """One socket, and who answers what comes in."""

    def __init__(self, batch: Batch, responder: Responder) -> None:
        self.batch, self._responder = batch, responder
        self.last: tuple[Sequence[Train], Sequence[Train]] = (), ()
        """What was received last, and what answered it."""

    def serve(self, tally: Tally) -> None:
        """Answer what is there now."""
        tally.begin_batch()
        asked = self.batch.receive()
        first, *others = _portions(asked)
        answers = self._answer(first, tally)
        for portion in others:
            tally.end_batch()
            tally.begin_batch()
            fence()  # as receive() does for the first where the kernel has no hear_fences(): ServerProcess.quiesce
            answers += self._answer(portion, tally)
        tally.end_batch()
        self.last = asked, answers

    def answered_one(self) -> bool:
        """Say whether one question, and nothing else, was there last."""
        asked, answers = self.last
        return len(asked) == 1 == len(answers) and asked[0].length == 1

    def _answer(self, asked: Sequence[Train], tally: Tally) -> list[Train]:
        answers = self._responder.answer(asked)
        tally.drops[DropReason.INTERNAL] += self.batch.send(answers)
        return answers


def _portions(trains: Sequence[Train]) -> list[Sequence[Train]]:
    """Return trains in portions of _AT_ONCE datagrams, or a train that is longer, at most; one portion at least."""
    if len(trains) < 2:
        return [trains]
    portions: list[list[Train]] = [[]]
    room = _AT_ONCE
    for train in trains:
        if portions[-1] and train.length > room:
            portions.append([])
            room = _AT_ONCE
        portions[-1].append(train)
        room -= train.length
    return list(portions)


Serving = Callable[[Channel, Tally], None]
"""Channel.serve, or the same with somebody who watches."""


def serve_until(control: int, channels: Sequence[Channel], tally: Tally, serving: Callable[[], Serving]) -> None:
    """Serve until `control` becomes readable or is hung up: the daemon says stop, or is gone.

    `serving` is asked after every sleep.
    """
    by_fd = {channel.batch.fileno(): channel for channel in channels}
    unshown, is_lone = 0, False
    with select.epoll() as poller:
        for fd in (control, *by_fd):
            poller.register(fd, select.EPOLLIN)
        lookout = Lookout(poller.poll)
        while control not in (ready := lookout.wait(is_lone, _REST_SECONDS if unshown else None)):
            serve = serving()
            for fd in ready:
                serve(by_fd[fd], tally)
            is_lone = len(ready) == 1 and by_fd[ready[0]].answered_one()
            unshown += 1
            if not ready or unshown == _ROUNDS:
                tally.publish()
                unshown = 0
    tally.publish()
