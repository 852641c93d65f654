"""Many seeds through `sim.world`. FABRICBIOS_SIM_SEEDS runs more; FABRICBIOS_SIM_FIRST starts elsewhere."""

import os

import pytest
from effort import effort
from sim.world import World

FIRST = int(os.environ.get("FABRICBIOS_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("FABRICBIOS_SIM_SEEDS", effort(quick=200, full=1000)))
CHUNKS = 8


def play(seed: int, steps: int = 60) -> str:
    world = World(seed)
    try:
        world.run(steps)
        return world.finish()
    except Exception as e:
        e.add_note(f"FABRICBIOS_SIM_FIRST={seed} FABRICBIOS_SIM_SEEDS=1 replays it")
        raise


@pytest.mark.sim
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_luck_is_bad_enough(chunk: int) -> None:
    for seed in range(FIRST + chunk, FIRST + SEEDS, CHUNKS):
        play(seed)


@pytest.mark.sim
def test_a_long_life() -> None:
    play(FIRST + 1_000_003, steps=3000)


@pytest.mark.sim
def test_a_seed_replays_bit_for_bit() -> None:
    for seed in range(20):
        assert play(seed, 100) == play(seed, 100)


@pytest.mark.sim
def test_luck_reaches_the_dark_corners() -> None:
    """A simulator that never fences, crashes or adopts proves nothing."""
    seen: set[str] = set()
    crashes = compactions = 0
    for seed in range(100):
        world = World(seed)
        world.run(60)
        crashes += world.crashes
        compactions += world.compactions
        seen |= world.seen
    assert crashes > 20
    assert compactions > 20
    assert seen >= {
        "lease.bound", "lease.bind_failed", "lease.renewed", "lease.rekeyed", "lease.expired", "lease.fenced",
        "lease.freed", "lease.adopted", "lease.warned", "lease.change_failed", "lease.change_refused",
    }  # fmt: skip
