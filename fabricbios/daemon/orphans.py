"""What a predecessor bound and no journal knows: taken back at start, above before below, and again until it goes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

log = logging.getLogger("fabricbios.planes")


@runtime_checkable
class Keeper(Protocol):
    """A data plane whose bindings outlive the daemon."""

    def orphans(self, known: set[int]) -> set[int]:
        """Return the leases that hold something and are not in `known`."""

    def release(self, lease_id: int) -> None:
        """Take back all that an orphan holds. OSError: it holds on."""


def release_orphans(planes: Iterable[object], known: set[int]) -> set[int]:
    """Take back orphans, plane by plane, uppermost first; return the leases that would not go.

    What one plane could not take back is left alone by those below: bytes that are still served may not be wiped.
    """
    stuck: set[int] = set()
    for plane in planes:
        if not isinstance(plane, Keeper):
            continue
        for lease_id in plane.orphans(known) - stuck:
            try:
                plane.release(lease_id)
            except OSError as e:
                stuck.add(lease_id)
                log.error("lease %032x of an earlier daemon cannot be taken back yet: %s", lease_id, e)
            else:
                log.warning("took back lease %032x, which no journal knows", lease_id)
    return stuck
