"""Signed frames count once (D2, Replay).

A nonce is Unix time in milliseconds. One outside the skew is refused by the clock alone; one inside it
is refused if it was seen, and what was seen is kept for as long as the clock would accept it.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

from fabricbios.model import NS, Instant

SKEW_MS = 30_000
KEEP_NS = 60 * NS
RESERVED_NS = 2 * NS  # as long as a reassembly may take
MAX_SENDERS = 4096
MAX_NONCES = 1024  # a sender, in 60 s: more than an honest one ever needs
MAX_HELD = 65_536  # all senders together: what bounds our memory


def is_skewed(nonce: int, now: Instant) -> bool:
    """Whether the clock alone refuses a nonce."""
    return abs(nonce - now.unix_ms) > SKEW_MS


class Freshness(Enum):
    """What the replay check says. Everything but FRESH drops the frame."""

    FRESH = "fresh"
    REPLAYED = "replayed"
    SKEWED = "skewed"
    TOO_MANY = "too_many"


class _Seen:
    """One nonce. `request_id` is None once spent; a reservation ends by itself after 2 s."""

    __slots__ = ("at_ns", "request_id")

    def __init__(self, at_ns: int, request_id: int | None) -> None:
        self.at_ns = at_ns
        self.request_id = request_id


class ReplayWindow:
    """Nonces seen, by sender; the sender heard longest ago makes room for a new one."""

    def __init__(self, senders: int = MAX_SENDERS, nonces: int = MAX_NONCES, held: int = MAX_HELD) -> None:
        self._max_senders, self._max_nonces, self._max_held = senders, nonces, held
        self._senders: OrderedDict[int, dict[int, _Seen]] = OrderedDict()
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def admit(self, sender: int, nonce: int, now: Instant) -> Freshness:
        """Judge a whole message, of an authentic sender, and spend its nonce."""
        return self._check(sender, nonce, None, now)

    def reserve(self, sender: int, request_id: int, nonce: int, now: Instant) -> Freshness:
        """Judge one authentic fragment: the first takes the nonce for its message, the others share it."""
        return self._check(sender, nonce, request_id, now)

    def spend(self, sender: int, nonce: int) -> None:
        """The message is complete, or given up: its nonce is good for nothing more."""
        seen = self._senders.get(sender, {}).get(nonce)
        if seen is not None:
            seen.request_id = None

    def _check(self, sender: int, nonce: int, request_id: int | None, now: Instant) -> Freshness:
        if is_skewed(nonce, now):
            return Freshness.SKEWED
        nonces = self._nonces_of(sender, now)
        seen = nonces.get(nonce)
        if seen is not None:
            shared = request_id is not None and seen.request_id == request_id
            return Freshness.FRESH if shared and now.boot_ns - seen.at_ns <= RESERVED_NS else Freshness.REPLAYED
        if len(nonces) >= self._max_nonces:
            return Freshness.TOO_MANY
        nonces[nonce] = _Seen(now.boot_ns, request_id)
        self._held += 1
        self._make_room()
        return Freshness.FRESH

    def _nonces_of(self, sender: int, now: Instant) -> dict[int, _Seen]:
        nonces = self._senders.setdefault(sender, {})
        self._senders.move_to_end(sender)
        while nonces:  # in order of arrival, so the oldest stands first
            oldest = next(iter(nonces))
            if now.boot_ns - nonces[oldest].at_ns <= KEEP_NS:
                break
            del nonces[oldest]
            self._held -= 1
        return nonces

    def _make_room(self) -> None:
        while len(self._senders) > self._max_senders or self._held > self._max_held:
            _, nonces = self._senders.popitem(last=False)
            self._held -= len(nonces)
