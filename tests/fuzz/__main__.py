"""`python -m tests.fuzz`: see cli."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # as pytest has it: the rigs and vectors by their names

from fuzz import cli  # noqa: E402

cli.main(sys.argv[1:])
