"""Allocated code computes what the ops say, whatever was put away meanwhile."""

import random
import re

import pytest

from fabricbios.dataplane.straight_line import Home, Op, StraightLine

NAMES = [f"v{i}" for i in range(20)]
HOMES = {name: Home(-4 * (i + 1)) for i, name in enumerate(NAMES)}
_LOAD, _STORE = r"r(\d) = \*\(u32 \*\)\(r10 - (\d+)\)", r"\*\(u32 \*\)\(r10 - (\d+)\) = r(\d)"
_ADD, _COPY = r"w(\d) \+= w(\d)", r"w(\d) = w(\d)"


def run(instructions: list[str], frame: dict[int, int]) -> None:
    """Execute what the allocator and these ops emit; a KeyError is a register or a place that nobody wrote."""
    registers: dict[str, int] = {}
    for text in instructions:
        if found := re.fullmatch(_LOAD, text):
            registers[found[1]] = frame[int(found[2])]
        elif found := re.fullmatch(_STORE, text):
            frame[int(found[1])] = registers[found[2]]
        elif found := re.fullmatch(_ADD, text):
            registers[found[1]] = registers[found[1]] + registers[found[2]] & 0xFFFFFFFF
        elif found := re.fullmatch(_COPY, text):
            registers[found[1]] = registers[found[2]]
        else:
            raise ValueError(text)


def random_ops(rng: random.Random, count: int) -> list[Op]:
    pairs = (rng.sample(NAMES, 2) for _ in range(count))
    return [Op("w{d} += w{s}", d, s) if rng.random() < 0.7 else Op("", d, s, reads_d=False) for d, s in pairs]


def expected(ops: list[Op]) -> dict[str, int]:
    values = {name: i + 1 for i, name in enumerate(NAMES)}
    for op in ops:
        values[op.d] = values[op.s] + (values[op.d] if op.reads_d else 0) & 0xFFFFFFFF
    return values


@pytest.mark.parametrize("seed", range(50))
def test_code_of_twenty_values_in_ten_registers(seed: int) -> None:
    ops = random_ops(random.Random(seed), 200)
    frame = {-HOMES[name].at: i + 1 for i, name in enumerate(NAMES)}
    run(StraightLine(ops, HOMES, NAMES).instructions(), frame)
    assert {name: frame[-HOMES[name].at] for name in NAMES} == expected(ops)


def test_what_fits_is_loaded_once_and_stored_once() -> None:
    ops = [Op("w{d} += w{s}", "v0", "v1")] * 9
    assert len(StraightLine(ops, HOMES, ["v0"]).instructions()) == 9 + 2 + 1


def test_a_copy_of_what_is_not_needed_any_more_is_free() -> None:
    assert len(StraightLine([Op("", "v0", "v1", reads_d=False)], HOMES, ["v0"]).instructions()) == 2


def test_a_value_without_a_home_is_named() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        StraightLine([Op("w{d} += w{s}", "v0", "nowhere")], HOMES).instructions()
