"""`python -m tests.mutation`: mutate the wire and the tokens, and say what the tests did not notice."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from mutation import trial
from mutation.ledger import Entry, Ledger, survivors, table
from mutation.suite import MODULES, tests_of
from mutation.trial import Verdict


def main(arguments: Sequence[str]) -> None:
    """Exit 0 at or above the score wanted, 1 below it or if the tests fail without any mutant."""
    options = _options(arguments)
    trial.prepare()
    chosen = [m for m in MODULES if not options.modules or m.rpartition(".")[2] in options.modules]
    ledger = Ledger()
    if not options.report:
        _check_suite(chosen)
        if not (options.again or options.resume):
            ledger.forget()
        _run(ledger, chosen, options)
    entries = [e for e in ledger.entries.values() if e.module in chosen]
    print(table(entries), survivors(entries), sep="\n\n")
    alive = sum(e.verdict is Verdict.SURVIVED for e in entries)
    sys.exit(0 if alive * 100 <= (100 - options.least) * len(entries) else 1)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as kinds or token; all without any")
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="try last time's survivors again")
    parser.add_argument("--resume", action="store_true", help="go on where a run was broken off")
    parser.add_argument("--report", action="store_true", help="print the last run")
    parser.add_argument("--least", type=float, default=85, metavar="PERCENT", help="the score wanted (85)")
    return parser.parse_args(arguments)


def _check_suite(chosen: Sequence[str]) -> None:
    """Without a mutant all must pass, or everything would look killed."""
    by_tests = {frozenset(tests_of(module)): module for module in chosen}
    for module in by_tests.values():
        tree, _ = trial.mutants_of(module)
        if trial.verdict(module, tree, None) is not Verdict.SURVIVED:
            sys.exit(f"mutation: the tests of {module} fail without a mutant")


def _run(ledger: Ledger, chosen: Sequence[str], options: argparse.Namespace) -> None:
    made = {module: trial.mutants_of(module) for module in chosen}
    todo = [(module, name) for module, (_, named) in made.items() for name in named]
    if options.again:
        todo = [key for key in todo if (e := ledger.entries.get(key)) and e.verdict is Verdict.SURVIVED]
    random.Random(options.seed).shuffle(todo)  # so that a part of a run is a fair sample of it
    todo = todo[: options.sample]
    if options.resume:
        todo = [key for key in todo if key not in ledger.entries]
    for module, name in todo:
        tree, named = made[module]
        mutant = named[name]
        entry = Entry(module, mutant.line, mutant.what, trial.verdict(module, tree, mutant))
        ledger.add(name, entry)
        if entry.verdict is Verdict.SURVIVED:
            print(f"{entry.module.rpartition('.')[2]}.py:{entry.line} {entry.what}", file=sys.stderr, flush=True)
