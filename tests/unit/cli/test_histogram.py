"""Percentiles and rows out of buckets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricbios.cli.histogram import Row, nanoseconds, octaves, percentile, rows
from fabricbios.dataplane.trace import bucket_of, lowest_of


def bucketed(durations: list[int]) -> list[list[int]]:
    """Return the buckets that the daemon would tell."""
    counts: dict[int, int] = {}
    for ns in durations:
        counts[bucket_of(ns)] = counts.get(bucket_of(ns), 0) + 1
    return [[lowest_of(b), lowest_of(b + 1), counts[b]] for b in sorted(counts)]


@given(st.lists(st.integers(1, 1 << 30), min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_right_within_an_eighth(durations: list[int], share: float) -> None:
    ranked = sorted(durations)
    exact = ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
    told = percentile(bucketed(durations), share, ranked[-1])
    assert exact * 7 / 8 - 1 <= told <= exact * 9 / 8 + 1
    assert told <= ranked[-1]


def test_an_even_spread_is_read_between_the_bounds_of_its_bucket() -> None:
    assert percentile([[1000, 1100, 100]], 0.5, 5000) == 1050
    assert percentile([[1000, 1100, 100]], 0.5, 1020) == 1020


def test_without_any_there_is_no_percentile() -> None:
    assert percentile([], 0.5, 0) == 0
    assert list(rows([])) == []


def test_octaves_have_no_gaps() -> None:
    assert list(octaves([[0, 1, 4], [2, 3, 1], [8, 9, 5], [9, 10, 6]])) == [
        Row(0, 1, 4), Row(1, 2, 0), Row(2, 4, 1), Row(4, 8, 0), Row(8, 16, 11),
    ]  # fmt: skip


def test_no_duration_is_lost_in_the_rows() -> None:
    some = random.Random(7)
    durations = [int(some.lognormvariate(7, 1)) for _ in range(1000)]
    assert sum(row.n for row in octaves(bucketed(durations))) == 1000


def test_the_longest_bar_is_as_long_as_bars_are_and_no_count_is_without() -> None:
    first, second, third = rows([[1024, 1152, 4000], [2048, 2304, 1], [4096, 4608, 2000]])
    assert [line.count("█") for line in (first, second, third)] == [40, 1, 20]
    assert first.startswith("  1.0 µs -   2.0 µs         4,000  █")


@pytest.mark.parametrize(
    ("ns", "said"), [(0, "0 ns"), (999, "999 ns"), (1000, "1.0 µs"), (1_500_000, "1.5 ms"), (17_179_869_184, "17.2 s")]
)
def test_durations_as_people_read_them(ns: int, said: str) -> None:
    assert nanoseconds(ns) == said
