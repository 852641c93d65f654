"""Python's cycle collector, kept from walking through a hundred thousand leases every few seconds.

That takes 0.3 s, for nothing: no lease is in a cycle. A connection's engine is, and once it is old only a full
collection frees it. So full collections come when enough connections have ended, and else hardly ever.
"""

from __future__ import annotations

import gc

ENOUGH = 256  # ended connections, about 40 MiB of them
RARELY = 1000  # middle collections to one full one; Python's own is 10


def spare_the_living() -> None:
    """Let full collections be rare from now on, and let none look at what there is already. Call once all is made."""
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, RARELY)


class Ended:
    """Counts connections that ended."""

    def __init__(self) -> None:
        self.count = 0

    def collect(self) -> None:
        """Free them if they are enough to be worth it."""
        if self.count >= ENOUGH:
            self.count = 0
            gc.collect()
