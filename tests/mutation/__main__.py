"""`python -m tests.mutation`: see cli."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from mutation import cli  # noqa: E402

cli.main(sys.argv[1:])
