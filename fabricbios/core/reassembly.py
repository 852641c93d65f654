"""Messages that arrive in pieces, many at a time and bounded (D2): 256 messages, 8 a sender, 1 MiB each, 2 s.

What the pieces of one message must obey stands in `wire/fragmentation.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from fabricbios.errors import WireError
from fabricbios.model import NS, Instant
from fabricbios.ports import UdpPeer
from fabricbios.wire.fragmentation import Assembly
from fabricbios.wire.frame import Frame

MAX_MESSAGES = 256
MAX_OF_A_SENDER = 8
MAX_HELD = 16 << 20  # our bound on all messages together: nobody has proved anything yet
TIMEOUT_NS = 2 * NS


class Key(NamedTuple):
    """What makes fragments belong together (D2)."""

    host: str
    port: int
    sender: int
    request_id: int


class _Pending(NamedTuple):
    assembly: Assembly
    deadline_ns: int


class Reassembler:
    """Holds fragments until a message is complete. When a bound is reached the oldest message goes."""

    def __init__(self, messages: int = MAX_MESSAGES, of_a_sender: int = MAX_OF_A_SENDER, held: int = MAX_HELD) -> None:
        self._max_messages, self._max_of_a_sender, self._max_held = messages, of_a_sender, held
        self._pending: dict[Key, _Pending] = {}  # in order of their deadlines, which is that of their arrival
        self._held = 0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def held(self) -> int:
        """Payload bytes held."""
        return self._held

    def add(self, frame: Frame, peer: UdpPeer, now: Instant) -> tuple[Frame, ...] | None:
        """Take a fragment in. Return all frames of its message, in order, if that completes it.

        Raises WireError, and drops the message, when a rule is broken.
        """
        key = Key(peer.host, peer.port, frame.sender, frame.request_id)
        pending = self._pending.get(key) or self._open(key, frame, now)
        before = pending.assembly.size
        try:
            complete = pending.assembly.add(frame)
        except WireError:
            self._close(key)
            raise
        self._held += pending.assembly.size - before
        if complete:
            self._close(key)
            return pending.assembly.frames
        self._keep_below_the_bounds(key)
        return None

    def handle_timer(self, now: Instant) -> int:
        """Give up the messages that took too long; return how many. Their nonces' reservations end by themselves."""
        late = [key for key, pending in self._pending.items() if pending.deadline_ns <= now.boot_ns]
        for key in late:
            self._close(key)
        return len(late)

    def next_deadline(self) -> int | None:
        """Return when `handle_timer` is due, CLOCK_BOOTTIME in ns, or None."""
        return next((p.deadline_ns for p in self._pending.values()), None)

    def _open(self, key: Key, frame: Frame, now: Instant) -> _Pending:
        siblings = [k for k in self._pending if k.sender == key.sender and k.host == key.host]
        if len(siblings) >= self._max_of_a_sender:
            self._close(siblings[0])
        pending = _Pending(Assembly(frame), now.boot_ns + TIMEOUT_NS)
        self._pending[key] = pending
        return pending

    def _close(self, key: Key) -> None:
        self._held -= self._pending.pop(key).assembly.size

    def _keep_below_the_bounds(self, newest: Key) -> None:
        while len(self._pending) > self._max_messages or self._held > self._max_held:
            oldest = next(iter(self._pending))
            self._close(oldest)
            if oldest == newest:
                return
