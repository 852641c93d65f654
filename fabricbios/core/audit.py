"""What happened, for people: bounded, drained by the daemon into its log.

Nothing here decides anything, and nothing secret (keys, tokens) ever enters.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fabricbios.model import Instant

MAX_UNREAD = 4096


class AuditEvent(NamedTuple):
    """`name` is stable and dotted (`lease.bound`, `token.granted`); `lease_id`, `peer` 0 where there is none."""

    unix_ms: int
    name: str
    lease_id: int = 0
    peer: int = 0
    detail: str = ""


class Audit:
    def __init__(self) -> None:
        self._events: deque[AuditEvent] = deque()
        self.dropped = 0

    def note(self, now: Instant, name: str, lease_id: int = 0, peer: int = 0, detail: str = "") -> None:
        """Remember one event; when nobody reads, the newest are counted instead of kept."""
        if len(self._events) >= MAX_UNREAD:
            self.dropped += 1
            return
        self._events.append(AuditEvent(now.unix_ms, name, lease_id, peer, detail))

    def take(self) -> list[AuditEvent]:
        events = list(self._events)
        self._events.clear()
        return events
