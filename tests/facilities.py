"""Skips that name the probe that failed, and their strict form. A module of its own: many folders have a conftest."""

import os
import shutil
import subprocess

import pytest

REQUIRED = set(filter(None, os.environ.get("FABRICBIOS_REQUIRE", "").split(",")))


def require(facility: str, ok: bool, why: str) -> None:
    """Skip when a facility is missing, or fail where FABRICBIOS_REQUIRE names it."""
    if ok:
        return
    if facility in REQUIRED:
        pytest.fail(f"{facility} is required here, but {why}", pytrace=False)
    pytest.skip(f"{facility}: {why}")


def netns_probe() -> str:
    """Return "" where network namespaces can be made, else why not."""
    if os.geteuid() != 0:
        return "geteuid() is not 0"
    if not shutil.which("ip"):
        return "ip (iproute2) is not installed"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return "" if probe.returncode == 0 else f"unshare -n: {probe.stderr.strip()}"
