"""The loop of a user-space server: receive a batch, answer it in place, send it."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Protocol

from fabricbios.dataplane.batch import Batch
from fabricbios.dataplane.tally import Tally

_ROUNDS = 64
"""Batches between two looks at the control descriptor, however busy the sockets are."""


class Serves(Protocol):
    """One socket and whoever answers what comes in."""

    @property
    def batch(self) -> Batch: ...

    def serve(self, tally: Tally) -> int:
        """Answer what is there now; return how many datagrams that were."""


def serve_until(
    control: int, channels: Sequence[Serves], tally: Tally, watched: Callable[[], Sequence[Serves]]
) -> None:
    """Serve until `control` becomes readable or is hung up: the daemon says stop, or is gone.

    `watched` is asked after every sleep for the same channels, with a stopwatch on them or without.
    """
    poller = select.epoll()
    poller.register(control, select.EPOLLIN)
    for channel in channels:
        poller.register(channel.batch.fileno(), select.EPOLLIN)
    while all(fd != control for fd, _ in poller.poll()):
        serving = watched()
        for _ in range(_ROUNDS):
            if not sum(channel.serve(tally) for channel in serving):
                break
        tally.publish()
    poller.close()
