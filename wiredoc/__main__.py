"""`python -m wiredoc --write | --check`."""

from __future__ import annotations

import argparse
import sys

from wiredoc.outputs import stale, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m wiredoc", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="bring the generated files up to date")
    what.add_argument("--check", action="store_true", help="exit 1 if one of them is stale")
    wants_write = parser.parse_args().write
    found = write() if wants_write else stale()
    for path in found:
        print(f"{'wrote' if wants_write else 'stale: run python -m wiredoc --write:'} {path}")
    return 0 if wants_write else bool(found)


if __name__ == "__main__":
    sys.exit(main())
