"""How long the messages over QUIC are, and how many of them are under way. No I/O, no clock.

The node resets a message that is not whole within 10 s (D1), and what came of it is lost. So a slow path wants few and
short ones, a quick one much at once. How long a message takes says which it is.
"""

from __future__ import annotations

FIRST_SIZE, SMALLEST_SIZE = 64 << 10, 16 << 10
FIRST_AT_ONCE, MOST_AT_ONCE = 2, 8  # of the largest messages that is 8 MiB
QUICK_SECONDS, SLOW_SECONDS = 1.0, 5.0


class MessagePace:
    """`size` is bytes of data a message, `at_once` how many messages may be under way."""

    def __init__(self) -> None:
        self.size, self.at_once = FIRST_SIZE, FIRST_AT_ONCE

    def took(self, seconds: float, largest: int) -> None:
        """A message was answered; `largest` is what the node takes in one."""
        if seconds > SLOW_SECONDS:
            self.less()
        elif seconds < QUICK_SECONDS and self.size < largest:
            self.size *= 2
        elif seconds < QUICK_SECONDS:
            self.at_once = min(self.at_once + 1, MOST_AT_ONCE)

    def less(self) -> bool:
        """A message took too long. Return False where there is nothing left to make smaller."""
        if self.at_once == 1 and self.size == SMALLEST_SIZE:
            return False
        if self.at_once > 1:
            self.at_once //= 2
        else:
            self.size = max(self.size // 2, SMALLEST_SIZE)
        return True
