"""Who asked to be enrolled and waits for the admin: bounded, and shared by where they ask from.

Keys cost strangers nothing, but QUIC has proved their addresses. When the list is full, who asked longest ago at the
address that most ask from makes room: whoever fills the list from one address pushes out nobody but itself.
"""

from __future__ import annotations

from typing import NamedTuple

from fabricbios.core.crowd import Crowd
from fabricbios.core.heard import source_of


class _Waiting(NamedTuple):
    public_key: bytes
    source: str


class Enrolments:
    """Public keys by node id; at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[int, _Waiting] = {}
        self._crowd = Crowd()

    def ask(self, node_id: int, public_key: bytes, host: str) -> bool:
        """List who asks; True if it was not listed. Who asks again counts as having asked now."""
        is_new = self.pop(node_id) is None
        source = source_of(host)
        self._waiting[node_id] = _Waiting(public_key, source)
        self._crowd.add(source, node_id)
        fullest = self._crowd.fullest()
        if len(self._waiting) > self._most and fullest is not None:
            self.pop(next(iter(self._crowd.of(fullest))))
        return is_new

    def get(self, node_id: int) -> bytes | None:
        """Return the key of who waits under this id."""
        waiting = self._waiting.get(node_id)
        return None if waiting is None else waiting.public_key

    def pop(self, node_id: int) -> bytes | None:
        """Forget one; return its key."""
        waiting = self._waiting.pop(node_id, None)
        if waiting is None:
            return None
        self._crowd.remove(waiting.source, node_id)
        return waiting.public_key

    def keys(self) -> dict[int, bytes]:
        """Return all, by id."""
        return {node_id: waiting.public_key for node_id, waiting in self._waiting.items()}
