"""Where slow work runs: what holds up whom."""

from __future__ import annotations

import threading
from typing import Any, cast

from fabricbios.daemon.effects import IO_THREADS, Effects


def test_a_lane_that_is_stuck_holds_up_no_other() -> None:
    effects, go = Effects(cast(Any, None), {}), threading.Event()
    free = threading.Event()
    for _ in range(2 * IO_THREADS):
        effects.run(lambda: cast(None, go.wait(10)), "slow disk")
    effects.run(free.set, "another")
    assert free.wait(10)
    assert effects.stuck
    go.set()
    effects.close()
