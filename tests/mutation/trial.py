"""One mutant on trial: a forked process imports the project with the mutated module, and runs the tests.

The parent has imported what the tests need, and nothing of the project, so that a trial costs little more
than its tests. Time is CPU time, so that a busy machine kills no mutant.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import os
import resource
import sys
from collections import Counter
from enum import StrEnum
from types import CodeType
from typing import Any

import pytest

from mutation.operators import Mutant, mutants
from mutation.suite import MODULES, ROOT, WRITES_SOURCE, tests_of

CPU_SECONDS = 30  # the suite takes about three
MEMORY = 3 << 30
_SURVIVED, _BY_TEST, _AT_IMPORT = 0, 10, 11


class Verdict(StrEnum):
    KILLED = "killed"
    AT_IMPORT = "killed at import"
    TIMEOUT = "timeout"
    SURVIVED = "survived"


_VERDICTS = {_SURVIVED: Verdict.SURVIVED, _BY_TEST: Verdict.KILLED, _AT_IMPORT: Verdict.AT_IMPORT}


def mutants_of(module: str) -> tuple[ast.Module, dict[str, Mutant]]:
    """Return a module's tree and its mutants, by names that stay when lines move: what is done, and the how-manieth."""
    tree = ast.parse(MODULES[module].read_text())
    made = sorted(mutants(tree, writes_source=module in WRITES_SOURCE), key=lambda m: (m.line, m.what))
    seen: Counter[str] = Counter()
    named = {}
    for mutant in made:
        seen[mutant.what] += 1
        named[f"{mutant.what} #{seen[mutant.what]}"] = mutant
    return tree, named


def verdict(module: str, tree: ast.Module, mutant: Mutant | None) -> Verdict:
    """Try one mutant; None tries the module as it is."""
    child = os.fork()
    if child == 0:
        _confined(module, tree, mutant)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Verdict.TIMEOUT
    return _VERDICTS.get(os.WEXITSTATUS(status), Verdict.KILLED)


def _confined(module: str, tree: ast.Module, mutant: Mutant | None) -> None:
    """Be the process that tries it; ends in _exit, whatever the mutant does."""
    code = _BY_TEST
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        silent = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(silent, fd)
        if mutant is not None:
            mutant.apply()
        code = _try(module, compile(ast.fix_missing_locations(tree), str(MODULES[module]), "exec"))
    finally:
        os._exit(code)


def _try(module: str, code: CodeType) -> int:
    sys.dont_write_bytecode = True
    _load_instead(module, code)
    try:
        importlib.import_module("fabricbios.wire.registry")
        importlib.import_module(module)
    except Exception:
        return _AT_IMPORT
    try:
        if module.startswith("fabricbios.wire"):
            _outline()
            _golden(module)
    except BaseException:
        return _BY_TEST
    quiet = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:terminalreporter"]
    return _SURVIVED if pytest.main([*quiet, *tests_of(module)]) == pytest.ExitCode.OK else _BY_TEST


def _outline() -> None:
    """Compare the descriptions with what they are to be, without pytest."""
    values, outline = (importlib.import_module(name) for name in ("test_enum_values", "test_outline"))
    for name in values.EXPECTED:
        values.test_numbers_are_those_of_the_spec(name)
    outline.test_the_protocol_is_what_it_was()


def _golden(module: str) -> None:
    """Run the vectors without pytest, those of the module's own types first: nearly all mutants end right there."""
    golden: Any = importlib.import_module("vectors.test_wire_golden")
    types = importlib.import_module("fabricbios.wire.registry").TYPES
    own = {name for name, cls in types.items() if cls.__module__ == module}
    for name in sorted(golden.FAMILIES, key=lambda f: not any(c["type"] in own for c in golden.family(f)["cases"])):
        golden.test_decoding_gives_the_fields(name)
        golden.test_encoding_gives_the_bytes(name)
        golden.test_sealing_needs_no_seal_in_the_fields(name)
        golden.test_invalid_ones_are_refused_for_the_right_reason(name)


def _load_instead(module: str, code: CodeType) -> None:
    """Let the import of `module` run `code`."""
    loader: Any = importlib.machinery.SourceFileLoader
    get_code = loader.get_code
    loader.get_code = lambda self, name: code if name == module else get_code(self, name)


def prepare() -> None:
    """Import what the tests need and the mutants are not, once for all; stand where pytest finds its configuration."""
    for name in (
        "hypothesis.strategies",
        "nacl.bindings",
        "cryptography.hazmat.primitives.asymmetric.ed25519",
        "click",
    ):
        importlib.import_module(name)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/unit/wire")]
