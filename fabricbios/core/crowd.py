"""Entries counted by where they came from, so that the source with the most of them is known at any time.

Adding, removing and finding the fullest source take the same time however many there are: what a flood of sources
makes us do for each datagram must not grow with the flood.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection


class Crowd:
    """Ids by source, each source's in the order in which they came."""

    def __init__(self) -> None:
        self._of: dict[str, OrderedDict[int, None]] = {}
        self._sized: dict[int, dict[str, None]] = {}  # how many -> the sources with so many
        self._most = 0

    def add(self, source: str, node_id: int) -> None:
        """Count an id that is not in the crowd."""
        theirs = self._of.setdefault(source, OrderedDict())
        theirs[node_id] = None
        self._resize(source, len(theirs) - 1, len(theirs))

    def remove(self, source: str, node_id: int) -> None:
        """Forget an id that is."""
        theirs = self._of[source]
        del theirs[node_id]
        self._resize(source, len(theirs) + 1, len(theirs))
        if not theirs:
            del self._of[source]

    def of(self, source: str) -> Collection[int]:
        """Return the ids of a source, the one that came first in front."""
        return self._of.get(source, ())

    def fullest(self) -> Collection[int]:
        """Return the ids of a source that has as many as any; empty if nobody is here."""
        return self._of[next(iter(self._sized[self._most]))] if self._most else ()

    def _resize(self, source: str, before: int, after: int) -> None:
        if after:
            self._sized.setdefault(after, {})[source] = None
        if before:
            del self._sized[before][source]
            if not self._sized[before]:
                del self._sized[before]
        if after > self._most or self._most not in self._sized:
            self._most = after  # it moved by one, so nobody has more
