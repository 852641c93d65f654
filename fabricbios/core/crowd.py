"""Entries counted by where they came from, so that the source with the most of them is known at any time.

Adding, removing and finding the fullest source take the same time however many there are: what a flood of sources
makes us do for each datagram must not grow with the flood.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection


class Crowd:
    """Ids by source, each source's in the order in which they came. An id may count for several."""

    def __init__(self) -> None:
        self._of: dict[str, OrderedDict[int, int]] = {}  # source -> ids, and for how many each counts
        self._count: dict[str, int] = {}
        self._sized: dict[int, dict[str, None]] = {}  # how many -> the sources with so many
        self._most = 0

    def add(self, source: str, node_id: int, places: int = 1) -> None:
        """Count an id that is not in the crowd."""
        self._of.setdefault(source, OrderedDict())[node_id] = places
        self._resize(source, places)

    def remove(self, source: str, node_id: int) -> None:
        """Forget an id that is."""
        theirs = self._of[source]
        places = theirs.pop(node_id)
        if not theirs:
            del self._of[source]
        self._resize(source, -places)

    def of(self, source: str) -> Collection[int]:
        """Return the ids of a source, the one that came first in front."""
        return self._of.get(source, ())

    def count(self, source: str) -> int:
        """Return for how many the ids of a source count."""
        return self._count.get(source, 0)

    def fullest(self) -> str | None:
        """Return a source that counts for as many as any; None if nobody is here."""
        return next(iter(self._sized[self._most])) if self._most else None

    def _resize(self, source: str, by: int) -> None:
        before = self._count.pop(source, 0)
        if before:
            del self._sized[before][source]
            if not self._sized[before]:
                del self._sized[before]
        if after := before + by:
            self._count[source] = after
            self._sized.setdefault(after, {})[source] = None
        self._most = max(self._most, after)
        while self._most and self._most not in self._sized:  # no further down than the source itself went
            self._most -= 1
