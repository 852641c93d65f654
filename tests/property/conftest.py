"""Hypothesis profiles: as `effort` says by default, HYPOTHESIS_PROFILE=long for a night."""

import os

from effort import effort
from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("usual", max_examples=effort(quick=5, full=15), **COMMON)
settings.register_profile("long", max_examples=5000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))
