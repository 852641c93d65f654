"""Rates from two looks at counters."""

from typing import Any

from fabricbios.cli.rates import Look, rates


def look(seconds: float, requests: int, lease_bytes: int | None) -> Look:
    counters = (
        None if lease_bytes is None else {"reads": 0, "writes": lease_bytes // 10, "bytes": lease_bytes, "rejects": 0}
    )
    lease = {"lease_id": "0x1", "kind": "mem", "counters": counters}
    plane: dict[str, Any] = {
        "requests": {"read": requests},
        "drops": {"replayed": requests},
        "bytes": {"read": 0, "written": 0},
    }
    at = int(seconds * 1e9)
    return Look(
        {"node_id": "0x2", "at_ns": at, "left_out": 0, "leases": [lease]},
        {
            "planes": [
                {"plane": "fbmu", "path": "user", "why": "because", "counters": {"user": plane, "xdp_native": plane}}
            ]
        },
    )


def test_rates_are_differences_by_the_time_between():
    told = rates(look(1, 100, 1000), look(3, 300, 5000))
    (lease,) = told["leases"]
    assert (told["interval_secs"], lease["bytes_per_sec"], lease["writes_per_sec"]) == (2.0, 2000.0, 200.0)
    user, kernel = told["planes"]
    assert (user["requests_per_sec"], user["drops_per_sec"], user["drops"]) == (100.0, 100.0, {"replayed": 300})
    assert (user["serves"], user["why"], kernel["serves"], kernel["why"]) == (True, "because", False, "")


def test_a_counter_that_began_anew_counts_from_zero():
    """Another key is another slot, a server process that died another page of counters."""
    assert rates(look(0, 500, 9000), look(1, 7, 30))["leases"][0]["bytes_per_sec"] == 30.0


def test_a_lease_without_a_slot_moves_nothing_that_we_see():
    (lease,) = rates(look(0, 0, None), look(1, 0, None))["leases"]
    assert (lease["totals"], lease["bytes_per_sec"]) == (None, 0.0)


def test_no_time_at_all_is_no_division():
    assert rates(look(1, 0, 0), look(1, 5, 5))["leases"][0]["bytes_per_sec"] == 0.0
