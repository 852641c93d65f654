"""Histograms for people: percentiles, and rows with bars. No I/O.

Buckets are what the admin socket tells: [from, to, count], ascending, `to` excluded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Buckets = Sequence[Sequence[int]]
BAR = 40
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))


class Row(NamedTuple):
    """The durations of one octave: `low` <= ns < `high`."""

    low: int
    high: int
    n: int


def percentile(buckets: Buckets, share: float, longest: int) -> int:
    """Return the duration that `share` (0 to 1) of all do not exceed: within its bucket they count as spread evenly.

    `longest` is the longest of all, which no percentile can be above; 0 without any.
    """
    wanted = max(1, math.ceil(share * sum(count for _, _, count in buckets)))
    before = 0
    for low, high, count in buckets:
        if before + count >= wanted:
            return min(low + math.ceil((high - low) * (wanted - before) / count), longest)
        before += count
    return 0


def octaves(buckets: Buckets) -> Iterator[Row]:
    """Yield a row for each octave, from the first that has any to the last, empty ones between them too."""
    counts: dict[int, int] = {}
    for low, _, count in buckets:
        octave = low.bit_length()
        counts[octave] = counts.get(octave, 0) + count
    for octave in range(min(counts, default=0), max(counts, default=-1) + 1):
        yield Row(1 << octave >> 1, 1 << octave, counts.get(octave, 0))


def rows(buckets: Buckets) -> Iterator[str]:
    """Yield a line an octave: its bounds, the count, and a bar."""
    drawn = list(octaves(buckets))
    most = max((row.n for row in drawn), default=0)
    for row in drawn:
        bar = "█" * math.ceil(BAR * row.n / most)
        yield f"{nanoseconds(row.low):>8} - {nanoseconds(row.high):>8}  {row.n:>12,}  {bar}".rstrip()


def nanoseconds(ns: float) -> str:
    """Return a duration as people read it: 640 ns, 1.3 µs."""
    for size, unit in _UNITS:
        if ns >= size:
            return f"{ns / size:.1f} {unit}"
    return f"{ns:.0f} ns"
