"""From two looks at a node's counters to rates: the document of `fabricbios top`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fabricbios.cli.output import document

_PER_LEASE = ("reads", "writes", "bytes", "rejects")
_NO_COUNTERS = dict.fromkeys(_PER_LEASE, 0)


class Look(NamedTuple):
    """What the admin socket said at one moment: its answers to `leases` and `paths`."""

    leases: Mapping[str, Any]
    paths: Mapping[str, Any]


def rates(before: Look, after: Look) -> dict[str, Any]:
    """Return what went on between two looks, by plane and path, and by lease, the busiest first."""
    passed = (after.leases["at_ns"] - before.leases["at_ns"]) / 1e9
    leases = sorted(_leases(before, after, passed), key=lambda lease: -lease["bytes_per_sec"])
    return document(
        "top",
        node_id=after.leases["node_id"],
        interval_secs=round(passed, 3),
        planes=list(_planes(before, after, passed)),
        leases=leases,
        left_out=after.leases["left_out"],
    )


def _rate(before: int, after: int, passed: float) -> float:
    """Per second; a counter that began anew (another key, another server process) counts from zero."""
    return round((after - before if after >= before else after) / passed, 1) if passed > 0 else 0.0


def _leases(before: Look, after: Look, passed: float) -> Iterator[dict[str, Any]]:
    old = {lease["lease_id"]: lease["counters"] or _NO_COUNTERS for lease in before.leases["leases"]}
    for lease in after.leases["leases"]:
        now, was = lease["counters"] or _NO_COUNTERS, old.get(lease["lease_id"], _NO_COUNTERS)
        moving = {f"{name}_per_sec": _rate(was[name], now[name], passed) for name in _PER_LEASE}
        yield {**{k: v for k, v in lease.items() if k != "counters"}, **moving, "totals": lease["counters"]}


def _planes(before: Look, after: Look, passed: float) -> Iterator[dict[str, Any]]:
    old = {plane["plane"]: plane["counters"] for plane in before.paths["planes"]}
    for plane in after.paths["planes"]:
        for path, now in plane["counters"].items():
            was = old.get(plane["plane"], {}).get(path, {})
            yield {
                "plane": plane["plane"],
                "path": path,
                "serves": path in (plane["path"], "quic"),
                "why": plane["why"] if path == plane["path"] else "",
                "requests_per_sec": _sum_rate(was, now, "requests", passed),
                "read_per_sec": _rate(_value(was, "bytes", "read"), _value(now, "bytes", "read"), passed),
                "written_per_sec": _rate(_value(was, "bytes", "written"), _value(now, "bytes", "written"), passed),
                "drops_per_sec": _sum_rate(was, now, "drops", passed),
                "drops": {reason: n for reason, n in now.get("drops", {}).items() if n},
            }


def _value(counters: Mapping[str, Mapping[str, int]], what: str, name: str) -> int:
    return counters.get(what, {}).get(name, 0)


def _sum_rate(was: Mapping[str, Any], now: Mapping[str, Any], what: str, passed: float) -> float:
    return _rate(sum(was.get(what, {}).values()), sum(now.get(what, {}).values()), passed)
