"""What every test folder shares: a test whose facility is missing is skipped by its marker."""

import os
import signal

import pytest
from facilities import REQUIRED, netns_probe, require
from hypothesis import HealthCheck, settings

os.umask(0o022)  # what others may write is not believed, and tests write such files

__all__ = ["REQUIRED", "netns_probe", "require"]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: what we start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is told to end takes down what he made, too
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup(1): we still take no notice, what we start does
    signal.signal(signal.SIGHUP, lambda *_: None)

# An example that takes 200 ms on a busy machine is no finding; what hangs is ended by pytest-timeout.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _facilities(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("netns"):
        why = netns_probe()
        require("netns", not why, why)
