"""How hard to try: plain `pytest` is quick, `./dev test` (and with it CI) says FABRICBIOS_TESTS=full."""

import os

FULL = os.environ.get("FABRICBIOS_TESTS", "quick") == "full"


def effort(quick: int, full: int) -> int:
    """Return how many examples, seeds or rounds to go through."""
    return full if FULL else quick
