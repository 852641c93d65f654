"""The words in which a lease tells what happened to it, and the little it remembers while it changes or ends."""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from typing import Any, NamedTuple

from fabricbios.ports import LeaseSpec


class Cause(Enum):
    """Why a lease ends."""

    EXPIRED = "expired"
    REVOKED = "revoked"
    FREED = "freed"
    FAILED = "failed"  # it never came to be


class What(IntEnum):  # which hashes without a call; Enum does not
    BOUND = auto()  # the holder may have its answer; tlvs
    ADOPTED = auto()
    BIND_FAILED = auto()  # ended before it was bound; error if a step failed
    RENEWED = auto()  # job
    REKEYED = auto()  # job, tlvs
    CHANGE_FAILED = auto()  # job, error: the data plane would not; the lease goes on as it was
    CHANGE_REFUSED = auto()  # job: the lease ended first
    EXPIRED = auto()  # reached its end; held on in GRACE, or torn down
    ENDING = auto()  # teardown begins
    FREED = auto()
    FENCED = auto()  # recorded, and the data plane knows it, which answers so from now on
    CLEAR_FAILED = auto()  # FENCE_CLEAR's probe: the step still fails
    FORGOTTEN = auto()  # nothing at all is left of it


class Job:
    """A change of a bound lease. `asker` is the caller's own and comes back with the result."""

    __slots__ = ("asker", "dp_key", "ends_unix", "expires_ns", "reached", "recorded", "renewed", "reverting")

    def __init__(self, asker: Any, expires_ns: int = 0, ends_unix: int = 0, dp_key: bytes = b"", reached: str = ""):
        self.asker, self.expires_ns, self.ends_unix = asker, expires_ns, ends_unix
        self.dp_key, self.reached = dp_key, reached
        self.recorded = False
        self.renewed: tuple[LeaseSpec, int] | None = None  # what it makes of the lease, once its turn has come
        self.reverting = (
            False  # a Renew that failed may have half happened: the old values are put back, recorded first
        )


class Happened(NamedTuple):
    what: What
    job: Job | None = None
    tlvs: tuple[Any, ...] = ()
    error: OSError | None = None


class Teardown:
    """What only an ending lease needs to remember."""

    __slots__ = ("began_ns", "clearing", "failing_since_ns", "fenced_by", "retry_ns", "told", "tries")

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self.failing_since_ns = -1  # of the step at hand
        self.retry_ns = -1
        self.tries = 0
        self.told = False  # the data plane knows that this lease is fenced
        self.fenced_by: OSError | None = None  # until those who wait are told, too
        self.clearing = False
