"""What every bench prints: rows of ours against a peer, on a machine that is named, as a table or a document.

A bench is `bench/NAME.py` with `main(argv)`; it measures, makes `Row`s and hands them to `run`.
Numbers are medians; `spread` is (largest - smallest) / median over the runs, so that a reader sees
how noisy the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` above 1 is better for us, whatever the unit."""

    case: str
    ours: float
    unit: str
    peer: str
    peer_value: float | None
    ratio: float | None
    runs: int
    spread: float


def document(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the one document of `./dev bench --json` (interfaces.md)."""
    return {"bench": name, **machine(), "rows": [asdict(row) for row in rows]}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, kernel, load."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "kernel": platform.release(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


@dataclass(frozen=True)
class Measured:
    """Calls a second: median and spread over the runs."""

    rate: float
    runs: int
    spread: float


def measure(works: dict[str, Callable[[], object]], *, seconds: float, runs: int) -> dict[str, Measured]:
    """Return how often a second each of `works` can be called, by CPU time.

    The works take turns, so that a busy neighbour hits all of them alike.
    """
    counts = {name: _calibrated(work, seconds / runs) for name, work in works.items()}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            rates[name].append(counts[name] / _cpu_seconds(work, counts[name]))
    return {name: _measured(values) for name, values in rates.items()}


def _measured(values: list[float]) -> Measured:
    median = statistics.median(values)
    return Measured(median, len(values), (max(values) - min(values)) / median)


def _calibrated(work: Callable[[], object], seconds: float) -> int:
    """Return how many calls take about `seconds`."""
    count = 1
    while (took := _cpu_seconds(work, count)) < seconds / 8:
        count *= 4
    return max(1, int(count * seconds / took))


def _cpu_seconds(work: Callable[[], object], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        work()
    return max(time.process_time() - start, 1e-9)


def table(name: str, rows: Sequence[Row]) -> str:
    """Return the rows for people."""
    facts = machine()
    lines = [f"{name}: {facts['machine']}, Linux {facts['kernel']}, load {facts['load']}"]
    cells = [("case", "ours", "peer's", "unit", "ratio", "spread", "peer")]
    cells += [
        (r.case, _figure(r.ours), _figure(r.peer_value), r.unit, _figure(r.ratio), f"{r.spread:.0%}", r.peer)
        for r in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join([*lines, *("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)])


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def run(name: str, rows: Callable[[bool], Sequence[Row]], argv: Sequence[str] | None = None) -> int:
    """Parse --quick and --json, measure with `rows(quick)`, print; return the exit code."""
    parser = argparse.ArgumentParser(prog=f"bench/{name}.py")
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", action="store_true", help="print one document")
    options = parser.parse_args(argv)
    measured = rows(options.quick)
    print(json.dumps(document(name, measured)) if options.json else table(name, measured))
    return 0
