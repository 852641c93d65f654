"""Where slow work runs: what holds up whom."""

from __future__ import annotations

import threading
from typing import Any, cast

from fabricbios.core.effects import Record, Rekey, Undo
from fabricbios.daemon.effects import IO_THREADS, THREADS, Effects
from fabricbios.model import Binding, DpAuth, ResourceType
from fabricbios.ports import LeaseSpec

LEASE = LeaseSpec(33, 8, ResourceType.MEM, Binding.UDP, 4096, 5, 1, DpAuth.HMAC_HEADER, b"", 3, 0)


def test_a_lane_that_is_stuck_holds_up_no_other() -> None:
    effects, go = Effects(cast(Any, None), {}), threading.Event()
    free = threading.Event()
    for _ in range(2 * IO_THREADS):
        effects.run(lambda: cast(None, go.wait(60)), "slow disk")
    effects.run(free.set, "another")
    assert free.wait(60)
    assert effects.stuck
    go.set()
    effects.close()


def test_a_store_that_hangs_holds_up_no_effect_of_another_store_or_of_memory() -> None:
    effects, go, done = Effects(cast(Any, None), {}), threading.Event(), threading.Semaphore(0)
    hung, well = (LEASE._replace(kind=ResourceType.BLOCK, resource_id=resource_id) for resource_id in (1, 2))
    for _ in range(2 * THREADS):
        effects.submit(Undo(hung, "block.extent"), lambda: cast(None, go.wait(60)))
    for effect in (Undo(well, "block.extent"), Undo(LEASE, "memory.slot"), Record(hung, {}, durable=True)):
        effects.submit(effect, lambda: cast(None, done.release()))
    assert all(done.acquire(timeout=60) for _ in range(3))
    go.set()
    effects.close()


def test_a_new_key_waits_beside_the_loop_where_waiting_takes_long() -> None:
    for slow_steps, quick in ((frozenset({"memory.slot"}), False), (frozenset[str](), True)):
        effects = Effects(cast(Any, None), {}, slow_steps)
        assert effects.is_quick(Rekey(LEASE)) is quick
        effects.close()
