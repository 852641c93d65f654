"""`python -m tests.fuzz`: fuzz targets one after the other, keep what they found, or replay what is kept."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz import engine, record

CACHE = engine.ROOT / ".cache" / "fuzz"


def main(arguments: Sequence[str]) -> None:
    """Exit 0 without findings, 1 with one, 2 for wrong usage."""
    options = _options(arguments)
    if options.inside:
        engine.inside(options.inside, options.targets)
        return
    from fuzz.targets import TARGETS

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        sys.exit(f"fuzz: no target {', '.join(sorted(unknown))}; --list has them")
    chosen = options.targets or list(TARGETS)
    if options.list:
        print("\n".join(chosen))
    elif options.replay:
        replay(chosen)
    elif options.report:
        print(record.table())
    elif not importlib.util.find_spec("atheris"):
        sys.exit("fuzz: atheris is not installed: ./dev fuzz does it, or pip install -e .[fuzz] (Python up to 3.13)")
    else:
        sys.exit(1 if [t for t in chosen if not fuzz(t, options.runs, options.seconds, options.keep)] else 0)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them without any")
    parser.add_argument("--seconds", type=int, default=10, help="of each target (10)")
    parser.add_argument("--runs", type=int, default=0, help="of each target, if the time suffices")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--replay", action="store_true", help="run what is kept, without the fuzzer")
    parser.add_argument("--keep", action="store_true", help="minimise the corpus, keep it, and add to the record")
    parser.add_argument("--report", action="store_true", help="print the record as docs/testing.md has it")
    parser.add_argument("--inside", metavar="TARGET", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def fuzz(target: str, runs: int, seconds: int, keep: bool) -> bool:
    """Fuzz one target from its seeds and its kept corpus on; False for a finding."""
    from fuzz import corpus
    from fuzz.targets import TARGETS

    here = CACHE / target
    corpus.write_out(here, [*TARGETS[target].seeds(), *corpus.kept(target), b""])
    outcome = engine.fuzz(target, here, runs, seconds)
    size = _keep(target, here) if keep and not outcome.finding else len(corpus.kept(target))
    print(
        f"{target}: {outcome.executions} executions in {outcome.seconds} s, cov {outcome.cov}, "
        f"features {outcome.features}, kept {size}{', FINDING' if outcome.finding else ''}",
        flush=True,
    )
    if outcome.finding:
        print(f"{outcome.finding}\nthe input is under {CACHE / 'findings'}", file=sys.stderr)
    elif keep:
        record.add(target, outcome)
    return not outcome.finding


def _keep(target: str, found: Path) -> int:
    """Keep of what was found only what the seeds do not reach."""
    from fuzz import corpus
    from fuzz.targets import TARGETS

    small = found.with_name(f"{target}.min")
    shutil.rmtree(small, ignore_errors=True)
    seeds = {*TARGETS[target].seeds(), b""}
    corpus.write_out(small, seeds)
    engine.merge(target, small, found)
    new = sorted(set(corpus.read_in(small)) - seeds, key=len)
    return corpus.keep(target, new[: record.MOST_KEPT])


def replay(targets: Sequence[str]) -> None:
    """Run seeds and kept inputs of each target once."""
    from fuzz import corpus
    from fuzz.targets import TARGETS

    for name in targets:
        inputs = [*TARGETS[name].seeds(), *corpus.kept(name)]
        for data in inputs:
            TARGETS[name].run(data)
        print(f"{name}: {len(inputs)} inputs")
