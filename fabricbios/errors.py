"""Whose fault is it? Every exception this project raises on purpose.

`WireError` is all that decoding raises. `Refused` travels on the wire as a status. `LocalMisuse`
says that our own caller broke a contract, `Unsupported` that this kernel or box lacks something.
Kernel failures stay `OSError`, with errno and path intact. The client's failures are kinds of
`Refused` or of `Disconnected`, so that one `except FabricError` is enough for who does not care.
"""

from __future__ import annotations

from fabricbios.model import Status


class FabricError(Exception):
    """Root of everything below."""


class WireError(FabricError):
    """Bytes that are not what they claim to be. `offset` is where in the message, in bytes."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


class LocalMisuse(FabricError):
    """Our own caller broke a contract; never caused by a peer."""


class Unsupported(FabricError):
    """This kernel or machine lacks a facility; `probe` is the test that found out, `remedy` what helps."""

    def __init__(self, facility: str, probe: str, remedy: str = "") -> None:
        super().__init__(f"{facility} is not available here: {probe}" + (f" ({remedy})" if remedy else ""))
        self.facility = facility
        self.probe = probe
        self.remedy = remedy


class ConfigError(FabricError):
    """The admin's configuration is wrong: names file, key and remedy."""


class Refused(FabricError):
    """A request answered with a status other than OK (D6). `reason` is for people, never a secret."""

    status: Status

    def __init__(self, status: Status, reason: str = "") -> None:
        super().__init__(f"{status.name}: {reason}" if reason else status.name)
        self.status = status
        self.reason = reason

    @staticmethod
    def of(status: Status, reason: str = "") -> Refused:
        """Return the most specific exception for `status`."""
        return _BY_STATUS.get(status, Refused)(status, reason)


class InvalidToken(Refused):
    """The token is malformed, expired, revoked, or for somebody else."""


class InsufficientPermission(Refused):
    """The peer is not trusted, is not the holder, or its token lacks a permission."""


class NotFound(Refused):
    """No such lease or resource, or it ended and was forgotten."""


class CapacityExceeded(Refused):
    """The node or the peer's quota has no room for this."""


class LeaseExpired(Refused):
    """The lease is over."""


class Revoked(Refused):
    """The lease was taken back by its node."""


class Fenced(Refused):
    """The resource is fenced: its teardown failed and nobody gets it until FENCE_CLEAR."""


class Disconnected(FabricError):
    """The node cannot be reached, or went away in the middle of a question."""


class TimedOut(Disconnected):
    """No answer in time, after all retries."""


class Untrusted(FabricError):
    """The node's key is not the one that was pinned, or nobody vouches for it."""


_BY_STATUS: dict[Status, type[Refused]] = {
    Status.INVALID_TOKEN: InvalidToken,
    Status.INSUFFICIENT_PERM: InsufficientPermission,
    Status.RESOURCE_NOT_FOUND: NotFound,
    Status.CAPACITY_EXCEEDED: CapacityExceeded,
    Status.LEASE_EXPIRED: LeaseExpired,
    Status.RESOURCE_FENCED: Fenced,
}
