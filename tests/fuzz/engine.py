"""The fuzzer's process: one target, instrumented before it is imported, until its time or its runs are over.

The messages' codecs are Python that the compiler writes at first use; they are instrumented as they are
written, or the fuzzer would be blind to the very branches it is to find.
"""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from fuzz.corpus import LONGEST

ROOT = Path(__file__).resolve().parents[2]
ONE_INPUT_SECONDS, MEMORY_MB = 10, 768  # what stops a run as a finding: an input that takes so long, or so much


class Outcome(NamedTuple):
    """What a run reached. `cov` and `features` are libFuzzer's counters; `finding` is "" or its last words."""

    executions: int
    seconds: int
    cov: int
    features: int
    finding: str


def fuzz(target: str, directory: Path, runs: int, seconds: int) -> Outcome:
    """Run the fuzzer on one target in a process of its own; what it finds new goes to `directory`."""
    limits = [f"-runs={runs or -1}", f"-max_total_time={seconds}", f"-timeout={ONE_INPUT_SECONDS}"]
    return _outcome(_run(target, [*limits, f"-rss_limit_mb={MEMORY_MB}", str(directory)], directory))


def merge(target: str, into: Path, source: Path) -> None:
    """Copy from `source` what reaches branches that `into` does not; how often one is reached does not count."""
    _run(target, ["-merge=1", "-use_counters=0", str(into), str(source)], into)


def _run(target: str, arguments: list[str], directory: Path) -> str:
    found = directory.parent / "findings"
    found.mkdir(exist_ok=True)
    options = [f"-max_len={LONGEST}", f"-artifact_prefix={found}/{target}-", "-print_final_stats=1", "-seed=1"]
    command = [sys.executable, "-m", "tests.fuzz", "--inside", target, "--", *options, *arguments]
    env = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ).stdout


def _outcome(log: str) -> Outcome:
    progress = re.findall(r"cov: (\d+) ft: (\d+)", log)
    cov, features = map(int, progress[-1]) if progress else (0, 0)
    done = re.search(r"Done (\d+) runs in (\d+) second", log)
    if done is None:
        count = re.findall(r"^#(\d+)", log, re.MULTILINE)
        return Outcome(int(count[-1]) if count else 0, 0, cov, features, log[-3000:] or "it said nothing")
    return Outcome(int(done[1]), int(done[2]), cov, features, "")


def inside(target: str, options: list[str]) -> None:
    """Be the fuzzer's process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["fabricbios"]):
        from fabricbios.wire import compiler

        _instrument_what_it_writes(compiler, atheris.patch_code)
        from fuzz.targets import TARGETS
    run = TARGETS[target].run
    again = f"{sys.executable} -m tests.fuzz --inside {target} --"  # a merge starts itself anew, through a shell
    atheris.Setup([again, *options], run)
    atheris.Fuzz()


def _instrument_what_it_writes(compiler: Any, patch_code: Any) -> None:
    def instrumented(*args: Any) -> Any:
        return patch_code(builtins.compile(*args), True)

    compiler.compile = instrumented
