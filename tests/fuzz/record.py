"""The record of all runs that were kept: executions add up, coverage is the last run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzz.corpus import kept
from fuzz.engine import Outcome

FILE = Path(__file__).parent / "record.json"
MOST_KEPT = 40  # inputs of a target, the smallest first


def read() -> dict[str, dict[str, Any]]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def add(target: str, outcome: Outcome) -> None:
    """Add a run without a finding to the record."""
    record = read()
    before = record.get(target, {"executions": 0, "seconds": 0})
    record[target] = {
        "executions": before["executions"] + outcome.executions,
        "seconds": before["seconds"] + outcome.seconds,
        "cov": outcome.cov,
        "features": outcome.features,
    }
    FILE.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def table() -> str:
    """Return the record as Markdown."""
    rows = ["| target | executions | s | cov | features | kept |", "|---|---|---|---|---|---|"]
    record = read()
    for name, r in record.items():
        rows.append(
            f"| {name} | {r['executions']:,} | {r['seconds']} | {r['cov']} | {r['features']} | {len(kept(name))} |"
        )
    total = sum(r["executions"] for r in record.values())
    rows.append(f"| **all {len(record)}** | **{total:,}** | {sum(r['seconds'] for r in record.values())} | | | |")
    return "\n".join(rows)
