"""A fleet without hardware: real cores under one simulated clock, a wire that loses, drivers that fail, crashes.

    summary = Fleet(Settings(nodes=5, seconds=60, seed=1)).run()

Everything is drawn from the seed: one seed gives one event log, bit for bit, and `summary.digest` is its SHA-256.
The invariants are checked after everything that happens on a node (`invariants.py`); a broken one is `Broken`.
"""

from fabricbios.simulation.fleet import Fleet, Settings, Summary, to_json
from fabricbios.simulation.invariants import Broken

__all__ = ["Broken", "Fleet", "Settings", "Summary", "to_json"]
