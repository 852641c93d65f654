"""Waiting for questions: asleep, or with open eyes for a moment where that is cheaper.

A client that waits for each answer asks again within microseconds. To fall asleep and be woken costs both sides more
than to look again a few times, so that is what follows a lone question. It pays for a client that is near; after looks
in vain the next questions are waited for asleep, more of them each time, so that one far away costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable

_LOOKS = 48
"""Looks at the descriptors before sleep: about as long as a client on this machine takes to ask again."""
_MOST_SLEEPS = 7
"""Sleeps in a row without looks before them, at most; after so many it is tried again."""

Poll = Callable[[float | None], list[tuple[int, int]]]
"""poll(seconds) returns (descriptor, events) of what is ready; None waits for ever (select.epoll.poll)."""


class Lookout:
    """Waits with `poll`."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._sleeps = self._sleeps_left = 0

    def wait(self, is_expecting: bool, seconds: float | None) -> list[int]:
        """Return the descriptors that are ready, none after `seconds`. `is_expecting`: a lone question was answered."""
        found = (self._look() if is_expecting else None) or self._poll(seconds)
        return [fd for fd, _ in found]

    def _look(self) -> list[tuple[int, int]] | None:
        if self._sleeps_left:
            self._sleeps_left -= 1
            return None
        for _ in range(_LOOKS):
            if found := self._poll(0):
                self._sleeps = 0
                return found
        self._sleeps = self._sleeps_left = min(2 * self._sleeps + 1, _MOST_SLEEPS)
        return None
