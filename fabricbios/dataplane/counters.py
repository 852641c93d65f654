"""What a data path counts: one table of names for Python, C and the metrics.

A path (the user-space server of one plane, or the XDP program of one CPU) owns one `dp_counters`
record and only ever adds to it; whoever reports sums the records of a path.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from fabricbios.layout import Field, Layout
from fabricbios.model import DpOp


class DropReason(IntEnum):
    """Why a datagram drew no answer: the `reason` of fabricbios_dp_drops_total, in lower case (D10)."""

    MALFORMED = 0  # too short, too long, magic, version, flags, payload_len, nonce 0, request_id 0, unknown op
    UNKNOWN_LEASE = 1
    WRONG_PLANE = 2  # the lease is another plane's
    BAD_TAG = 3
    REPLAYED = 4  # seen before
    TOO_OLD = 5  # 1024 or more below the highest seen
    FRAGMENT = 6  # an IP fragment (kernel path)
    CHECKSUM = 7  # a wrong UDP checksum (kernel path)
    INTERNAL = 8  # our own fault: a map that is missing, an answer that could not be sent


class CountedOp(IntEnum):
    """Which request counter an op has; the `op` of fabricbios_dp_requests_total."""

    HELLO = 0
    READ = 1
    WRITE = 2
    PING = 3


COUNTED_OPS = {
    DpOp.HELLO: CountedOp.HELLO,
    DpOp.READ: CountedOp.READ,
    DpOp.WRITE: CountedOp.WRITE,
    DpOp.PING: CountedOp.PING,
}

COUNTERS = Layout(
    "dp_counters",
    "counters of one data path (fabricbios/dataplane/counters.py)",
    (
        Field("requests", "u64", "authentic questions, by enum CountedOp", 8),
        Field("drops", "u64", "datagrams without an answer, by enum DropReason", 16),
        Field("statuses", "u64", "answers, by DpStatus", 16),
        Field("bytes_read", "u64", "data bytes answered to READ"),
        Field("bytes_written", "u64", "data bytes taken from WRITE"),
        Field("batch", "u64", "odd while a user-space server works on a batch (quiescence)"),
        Field("passed", "u64", "authentic questions that the kernel path left to the socket, where they are counted"),
        Field("reserved", "u64", "zero", 4),
    ),
)


def enum_to_c(enum: type[IntEnum], prefix: str) -> str:
    """Return an enum as C text: `enum prefix { PREFIX_NAME = value, ... };`."""
    rows = "\n".join(f"\t{prefix.upper()}_{member.name} = {member.value}," for member in enum)
    return f"/* fabricbios/dataplane/counters.py: {enum.__name__} */\nenum {prefix} {{\n{rows}\n}};\n"


def read_counters(buffer: Any, base: int = 0) -> dict[str, dict[str, int]]:
    """Return one record by name: {"requests": {"read": n, ...}, "drops": {...}, "bytes": {"read": n, "written": n},
    "passed": {"socket": n}}."""
    requests, drops = COUNTERS.get(buffer, base, "requests"), COUNTERS.get(buffer, base, "drops")
    return {
        "requests": {op.name.lower(): requests[op] for op in CountedOp},
        "drops": {reason.name.lower(): drops[reason] for reason in DropReason},
        "bytes": {
            "read": COUNTERS.get(buffer, base, "bytes_read"),
            "written": COUNTERS.get(buffer, base, "bytes_written"),
        },
        "passed": {"socket": COUNTERS.get(buffer, base, "passed")},
    }
