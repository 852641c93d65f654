"""Linters and the type checker are tests, so that pytest is the one command."""

import subprocess
import sys
from pathlib import Path

import pytest
from facilities import require

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["ruff-check", "ruff-format", "mypy"],
)
def test_clean(command):
    probe = subprocess.run([sys.executable, "-m", command[0], "--version"], capture_output=True, text=True)
    require("tools", probe.returncode == 0, f"{command[0]}: {probe.stderr.strip()}")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
