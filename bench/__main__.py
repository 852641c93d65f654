"""`./dev bench [NAME...] [--quick] [--json]`: one bench, several, or all; each in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_A_BENCH = {"__init__", "__main__", "fbmu_flood", "fbmu_peers", "report", "stage", "xdp_repeat"}


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NOT_A_BENCH)


def run_one(name: str, quick: bool) -> dict[str, object] | None:
    """Return a bench's document, None if it failed; what it says for people goes to standard error."""
    command = [sys.executable, "-m", f"bench.{name}", "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    if done.returncode:
        print(f"bench {name}: exit {done.returncode}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--quick", action="store_true", help="end within a minute a bench")
    parser.add_argument("--json", action="store_true", help="print one document")
    options = parser.parse_args()
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    asked = options.names or names()
    if not options.json:
        flags = ["--quick"] if options.quick else []
        codes = [
            subprocess.run([sys.executable, "-m", f"bench.{n}", *flags], cwd=HERE.parent).returncode for n in asked
        ]
        return max(codes)
    documents = {name: run_one(name, options.quick) for name in asked}
    good = {name: d for name, d in documents.items() if d is not None}
    if good:
        print(json.dumps(_together(good)))
    return 0 if len(good) == len(asked) else 1


def _together(documents: dict[str, dict[str, object]]) -> dict[str, object]:
    """Return one document; the cases of several benches carry their bench's name."""
    if len(documents) == 1:
        return next(iter(documents.values()))
    first = next(iter(documents.values()))
    rows = [
        {**row, "case": f"{name}: {row['case']}"}
        for name, d in documents.items()
        for row in d["rows"]  # type: ignore[attr-defined]
    ]
    return {**first, "bench": ",".join(documents), "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
