"""What each part of the XDP program costs a READ of 64 bytes: the program stopped after one part more each time.

The parts are those of bench/c/repeat.bpf.c, run by BPF_PROG_TEST_RUN with repeats (xdp_repeat.py); a row is what its
part adds, the best of the runs against the best of the runs without it. The last is the shipped program, whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
# ruff: noqa: E402

from report import Row, run
from stage import go_first
from xdp_repeat import Part, Repeater, repeater

from fabricbios.model import DpAuth

MODES = (DpAuth.SIPHASH_FULL, DpAuth.BLAKE2S_FULL, DpAuth.HMAC_HEADER, DpAuth.HMAC_FULL)
SIZE = 64
STEPS = (
    ("frame, header, lease", Part.FOUND, Part.RESTORED),
    ("the question's tag", Part.TAG_HELD, Part.FOUND),
    ("state, clock, length, rights, range", Part.JUDGED, Part.TAG_HELD),
    ("the nonce in the window", Part.NONCE_TAKEN, Part.JUDGED),
    ("all heads of the answer", Part.HEADS_WRITTEN, Part.NONCE_TAKEN),
    ("the data, by itself", Part.DATA_COPIED, Part.HEADS_WRITTEN),
    ("the data and the answer's tag", Part.ANSWER_TAGGED, Part.HEADS_WRITTEN),
    ("counters", Part.COUNTED, Part.ANSWER_TAGGED),
    ("whole", Part.WHOLE, Part.RESTORED),
)


def rows(quick: bool) -> Sequence[Row]:
    go_first()
    with repeater() as repeats:
        return [row for auth in MODES for row in mode_rows(repeats, auth, 15 if quick else 60)]


def mode_rows(repeats: Repeater, auth: DpAuth, rounds: int) -> Iterator[Row]:
    """Yield what each part adds under one mode; `ratio` is its share of the whole."""
    found = repeats.measure(repeats.prepare(SIZE, auth), tuple(Part), rounds)
    best = {part: min(means) for part, means in found.items()}
    whole = best[Part.WHOLE] - best[Part.RESTORED]
    for name, part, without in STEPS:
        added = best[part] - best[without]
        yield Row(f"{auth.name}: {name}", added, "ns", "the whole", whole, added / whole, rounds, spread(found[part]))


def spread(means: list[int]) -> float:
    return (sorted(means)[len(means) // 2] - min(means)) / min(means)


def main(argv: Sequence[str] | None = None) -> int:
    return run("xdp_cost", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
