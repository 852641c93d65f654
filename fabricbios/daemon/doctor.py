"""What this machine can do, for whoever may not import `hw`: the CLI's `doctor` command."""

from __future__ import annotations

from typing import Any

from fabricbios.hw import probes
from fabricbios.hw.sysfs import Sysfs


def diagnose(root: str = "/", needed: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Return every probe as an object; those named in `needed` count as required besides the always required."""
    found = probes.probe_all(Sysfs(root))
    return [probe._replace(required=probe.required or probe.name in needed)._asdict() for probe in found]


def facilities() -> tuple[str, ...]:
    """Return the names that `needed` may hold."""
    return tuple(facility.name for facility in probes.FACILITIES)
