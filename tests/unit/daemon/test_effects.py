"""Where slow work runs: what holds up whom."""

from __future__ import annotations

import threading
from typing import Any, cast

from fabricbios.core.effects import Rekey
from fabricbios.daemon.effects import IO_THREADS, Effects
from fabricbios.model import Binding, DpAuth, ResourceType
from fabricbios.ports import LeaseSpec

LEASE = LeaseSpec(33, 8, ResourceType.MEM, Binding.UDP, 4096, 5, 1, DpAuth.HMAC_HEADER, b"", 3, 0)


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


def test_a_new_key_waits_beside_the_loop_where_waiting_takes_long() -> None:
    for slow_steps, quick in ((frozenset({"memory.slot"}), False), (frozenset[str](), True)):
        effects = Effects(cast(Any, None), {}, slow_steps)
        assert effects.is_quick(Rekey(LEASE)) is quick
        effects.close()
