"""How long answers take, while somebody watches: what `fabricbios trace` reads of every data path.

A path that is traced adds each datagram to one series, by op and by what became of it. A series is a histogram whose
buckets are an eighth of an octave wide, so that a percentile is right within an eighth. The XDP program (bpf/trace) and
the user-space servers write the same records; whoever reads sums them.

Nobody records after `until_ns`, which the daemon keeps moving on while somebody watches. So a trace ends by itself,
whoever is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from fabricbios.dataplane.counters import enum_to_c
from fabricbios.dataplane.xdp_layout import BPF_DIR
from fabricbios.layout import Field, Layout

TRACE_DIR = BPF_DIR / "trace"
HEADER_FILE = TRACE_DIR / "trace_gen.h"
ANY_LEASE = bytes(16)
FINE_BITS = 3
"""Buckets an octave, as a power of two."""
OCTAVES = 32
BUCKETS = OCTAVES << FINE_BITS
"""Up to 2^34 ns, 17 s; what takes longer is in the last one."""


class TracedPlane(IntEnum):
    """Whose datagram it is. OTHER is what XDP sees and leaves alone: the price that everybody else pays."""

    FBMU = 0
    FBBU = 1
    OTHER = 2


class TracedOp(IntEnum):
    """What a datagram asks. OTHER is no question at all."""

    HELLO = 0
    READ = 1
    WRITE = 2
    PING = 3
    OTHER = 4


class Outcome(IntEnum):
    """What became of a datagram. PASSED: XDP left it to the network stack."""

    ANSWERED = 0
    REFUSED = 1  # answered with another status than OK
    DROPPED = 2
    PASSED = 3


SERIES_COUNT = len(TracedPlane) * len(TracedOp) * len(Outcome)

TRACE_PARAMS = Layout(
    "trace_params",
    "what is recorded (fabricbios/dataplane/trace.py)",
    (
        Field("until_ns", "u64", "CLOCK_BOOTTIME; nothing is recorded from then on"),
        Field("lease_id", "u8", "u128 as on the wire; zero: every lease", 16),
    ),
)

TRACE_SERIES = Layout(
    "trace_series",
    "one histogram (fabricbios/dataplane/trace.py)",
    (
        Field("sum_ns", "u64", "of all durations"),
        Field("max_ns", "u64", "the longest duration"),
        Field("buckets", "u64", "datagrams by duration", BUCKETS),
    ),
)

_SERIES_WORDS = TRACE_SERIES.size // 8


class Series(NamedTuple):
    """What one path did with datagrams of one plane and op that came to one end; `buckets` has BUCKETS counts."""

    plane: TracedPlane
    op: TracedOp
    outcome: Outcome
    sum_ns: int
    max_ns: int
    buckets: tuple[int, ...]


class Traced(Protocol):
    """A data path that can be traced: one trace at a time, each from zero."""

    def load(self) -> None:
        """Make what takes long, in any thread. OSError where the kernel refuses."""

    def start(self, lease_id: bytes, until_ns: int) -> None:
        """Record, all leases (ANY_LEASE) or one, until CLOCK_BOOTTIME says `until_ns`. OSError as for load()."""

    def extend(self, until_ns: int) -> None:
        """Record for longer."""

    def read(self) -> list[Series]:
        """Return the series that are not empty, as they stand since start()."""

    def stop(self) -> None:
        """Take off everything that start() and load() put on; nothing happens without them."""


def series_of(plane: int, op: int, outcome: int) -> int:
    """Return the number of a series."""
    return (plane * len(TracedOp) + op) * len(Outcome) + outcome


def bucket_of(ns: int) -> int:
    """Return the bucket of a duration: below 8 ns one a nanosecond, then eight an octave."""
    if ns < 1 << FINE_BITS:
        return ns
    octave = ns.bit_length() - 1 - FINE_BITS
    return min((octave << FINE_BITS) + (ns >> octave), BUCKETS - 1)


def lowest_of(bucket: int) -> int:
    """Return the shortest duration that is counted in a bucket."""
    octave = max((bucket >> FINE_BITS) - 1, 0)
    return bucket - (octave << FINE_BITS) << octave


def summed(records: Sequence[Sequence[int]], number: int) -> Series | None:
    """Return one series out of what each CPU has of it, as words of TRACE_SERIES; None if nothing was counted."""
    buckets = tuple(map(sum, zip(*(words[2:] for words in records), strict=True)))
    if not any(buckets):
        return None
    rest, outcome = divmod(number, len(Outcome))
    plane, op = divmod(rest, len(TracedOp))
    total, longest = sum(words[0] for words in records), max(words[1] for words in records)
    return Series(TracedPlane(plane), TracedOp(op), Outcome(outcome), total, longest, buckets)


def found(records_of: Callable[[int], Sequence[Sequence[int]]]) -> list[Series]:
    """Return every series that is not empty; `records_of` gives the records of one."""
    summaries = (summed(records_of(number), number) for number in range(SERIES_COUNT))
    return [series for series in summaries if series is not None]


def words_of(raw: bytes | memoryview) -> Iterator[memoryview]:
    """Yield record by record the words of TRACE_SERIES."""
    words = memoryview(raw).cast("B").cast("Q")
    for at in range(0, len(words), _SERIES_WORDS):
        yield words[at : at + _SERIES_WORDS]


def generated_header() -> str:
    """Return the text that `bpf/trace/trace_gen.h` must have."""
    numbers = {
        "TRACE_FINE_BITS": FINE_BITS,
        "TRACE_BUCKETS": BUCKETS,
        "TRACE_OPS": len(TracedOp),
        "TRACE_OUTCOMES": len(Outcome),
    }
    return "\n".join(
        [
            "/* SPDX-License-Identifier: Apache-2.0 */\n"
            "/* Generated by `python -m fabricbios.dataplane.build` from fabricbios/dataplane/trace.py. */\n"
            "#ifndef FABRICBIOS_TRACE_GEN_H\n#define FABRICBIOS_TRACE_GEN_H\n\n#include <linux/types.h>\n",
            _defines(numbers.items()),
            enum_to_c(TracedPlane, "traced_plane"),
            enum_to_c(TracedOp, "traced"),
            enum_to_c(Outcome, "outcome"),
            TRACE_PARAMS.to_c(),
            TRACE_SERIES.to_c(),
            "#endif\n",
        ]
    )


def _defines(numbers: Iterable[tuple[str, int]]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in numbers)
