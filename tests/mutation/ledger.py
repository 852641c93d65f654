"""Verdicts, kept while a run goes on so that it can be continued, and printed as docs/testing.md has them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mutation.suite import MODULES, ROOT
from mutation.trial import Verdict

REASONS = Path(__file__).parent / "survivors.json"  # what survives for good: {"module: what": why}


class Entry(NamedTuple):
    module: str
    line: int
    what: str
    verdict: Verdict

    @property
    def key(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {self.what}"


class Ledger:
    """The last run's entries, one JSON line each."""

    def __init__(self, path: Path = ROOT / ".cache" / "mutation.jsonl") -> None:
        self._path = path
        self.entries: dict[tuple[str, str], Entry] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                name, *fields = json.loads(line)
                self.entries[fields[0], name] = Entry(*fields[:3], Verdict(fields[3]))

    def forget(self) -> None:
        self.entries.clear()
        self._path.unlink(missing_ok=True)

    def add(self, name: str, entry: Entry) -> None:
        """`name` is the mutant's in its module."""
        self.entries[entry.module, name] = entry
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps([name, *entry]) + "\n")


def table(entries: Iterable[Entry]) -> str:
    """Return the score by module as Markdown."""
    counts: dict[str, Counter[Verdict]] = {m: Counter() for m in MODULES}
    for entry in entries:
        counts[entry.module][entry.verdict] += 1
    rows = ["| module | mutants | killed | at import | timeout | survived | score |", "|---|---|---|---|---|---|---|"]
    rows += [_row(module.removeprefix("fabricbios."), c) for module, c in counts.items() if c]
    return "\n".join([*rows, _row("**all**", sum(counts.values(), Counter()))])


def _row(name: str, c: Counter[Verdict]) -> str:
    shown = " | ".join(str(c[v]) for v in (Verdict.KILLED, Verdict.AT_IMPORT, Verdict.TIMEOUT, Verdict.SURVIVED))
    return f"| {name} | {c.total()} | {shown} | {score(c):.1f} % |"


def score(c: Counter[Verdict]) -> float:
    return 100 * (1 - c[Verdict.SURVIVED] / c.total()) if c else 0.0


def survivors(entries: Iterable[Entry]) -> str:
    """Return who lives, where, and why as far as somebody said."""
    reasons: dict[str, str] = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    alive = [e for e in entries if e.verdict is Verdict.SURVIVED]
    return "\n".join(f"* {e.module.rpartition('.')[2]}.py:{e.line} {e.what}: {reasons.get(e.key, '?')}" for e in alive)
