"""What a predecessor bound and no journal knows: taken back after a start, above before below, and again until it goes.

Found before anybody is served, so that no lease granted since is ever taken for an orphan. Taking back wipes, which
may take minutes: it is done in a thread, one orphan after the other, while the daemon serves. What an orphan holds is
nobody else's until then, because its plane has it in its books.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, runtime_checkable

log = logging.getLogger("fabricbios.planes")
AGAIN_SECONDS = 10.0
_LANE = "orphans"


@runtime_checkable
class Keeper(Protocol):
    """A data plane whose bindings outlive the daemon."""

    def orphans(self, known: set[int]) -> set[int]:
        """Return the leases that hold something and are not in `known`."""

    def release(self, lease_id: int) -> None:
        """Take back all that an orphan holds; nothing happens if it holds nothing. OSError: it holds on."""


InThread = Callable[[Callable[[], bool], Callable[[bool | None], None], Hashable], None]


class Orphans:
    """All of them: `planes` uppermost first, `known` the leases that are none."""

    def __init__(self, planes: Iterable[object], known: set[int]) -> None:
        keepers = [plane for plane in planes if isinstance(plane, Keeper)]
        self._left = [(plane, lease_id) for plane in keepers for lease_id in sorted(plane.orphans(known))]
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None

    def take_back(self) -> bool:
        """Take back what goes; return whether that was all.

        What one plane could not take back is left alone by those below: bytes that are still served may not be wiped.
        """
        stuck: set[int] = set()
        left = []
        for plane, lease_id in self._left:
            if self._stopped or lease_id in stuck or not _released(plane, lease_id):
                stuck.add(lease_id)
                left.append((plane, lease_id))
        self._left = left
        return not left

    def begin(self, in_thread: InThread) -> None:
        """Take them back beside the event loop, and what would not go every ten seconds again."""
        self._timer = None
        if self._left:
            in_thread(self.take_back, lambda done: self._again(in_thread, done), _LANE)

    def stop(self) -> None:
        """Begin nothing more; the next daemon finds what is left."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _again(self, in_thread: InThread, done: bool | None) -> None:
        if not done and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self.begin, in_thread)


def _released(plane: Keeper, lease_id: int) -> bool:
    try:
        plane.release(lease_id)
    except OSError as e:
        log.error("lease %032x of an earlier daemon cannot be taken back yet: %s", lease_id, e)
        return False
    log.warning("took back lease %032x, which no journal knows", lease_id)
    return True
