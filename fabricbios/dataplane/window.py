"""The replay window of one lease, in its slot (D10); layout and reasons: slots.py.

BPF does the same with compare-and-swap. Here one process serves a plane and nobody else marks the
window of a datagram that came to it, so loads and stores are enough. XDP, where it checks a block lease's
datagrams, looks at the window and marks it only when no process has the socket (bpf/socket.h).
"""

from __future__ import annotations

from fabricbios.dataplane.counters import DropReason
from fabricbios.dataplane.slots import SLOT, WINDOW

_REPLAYED, _TOO_OLD = DropReason.REPLAYED, DropReason.TOO_OLD  # naming an enum member costs a lookup each time


class Window:
    """`words` is the slot table as u64."""

    __slots__ = ("_words", "first_at", "highest_at")

    def __init__(self, words: memoryview, slot: int) -> None:
        self._words = words
        self.highest_at = (slot * SLOT.size + SLOT.offset["highest"]) // 8
        self.first_at = (slot * SLOT.size + SLOT.offset["window"]) // 8

    def take(self, nonce: int) -> DropReason | None:
        """Mark an authentic nonce (1 .. 2^64-1) as seen; say why if it may not be used any more."""
        words = self._words
        highest = words[self.highest_at]
        if nonce + WINDOW <= highest:
            return _TOO_OLD
        at = self.first_at + (nonce >> 3 & 127)
        word, generation, bit = words[at], nonce >> 10, 1 << (nonce & 7)
        if word >> 8 == generation:
            if word & bit:
                return _REPLAYED
            words[at] = word | bit
        elif word >> 8 < generation:
            words[at] = generation << 8 | bit
        else:
            return _TOO_OLD
        if nonce > highest:
            words[self.highest_at] = nonce
        return None

    def take_all(self, nonces: tuple[int, ...]) -> tuple[DropReason | None, ...]:
        """Return what take() would say of each in turn. What counts up, as a client does, is taken word by word."""
        counts_up = bool(nonces) and nonces == tuple(range(nonces[0], nonces[0] + len(nonces)))
        taken = self._take_row(nonces[0], len(nonces)) if counts_up else 0
        return (None,) * taken + tuple(map(self.take, nonces[taken:]))

    def _take_row(self, first: int, count: int) -> int:
        """Mark `count` nonces from `first` on until a word has something against it; return how many were marked."""
        if first + WINDOW <= self._words[self.highest_at]:
            return 0
        nonce, end = first, first + count
        while nonce < end:
            upto = min((nonce | 7) + 1, end)
            if not self._take_bits(nonce, (1 << upto - nonce) - 1 << (nonce & 7)):
                break
            nonce = upto
        if nonce > first and nonce - 1 > self._words[self.highest_at]:
            self._words[self.highest_at] = nonce - 1
        return nonce - first

    def _take_bits(self, nonce: int, bits: int) -> bool:
        """Mark `bits` of the word that `nonce` is in, if none of them is and the word is not of a later generation."""
        at, generation = self.first_at + (nonce >> 3 & 127), nonce >> 10
        word = self._words[at]
        if word >> 8 < generation:
            word = generation << 8
        elif word >> 8 > generation or word & bits:
            return False
        self._words[at] = word | bits
        return True
