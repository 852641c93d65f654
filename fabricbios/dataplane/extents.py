"""Who has which part of the memory: first fit in granules of a page, neighbours merged when they come back."""

from __future__ import annotations

import errno
from bisect import bisect

from fabricbios.errors import LocalMisuse

GRANULE = 4096


class Extents:
    """`capacity` bytes given out by lease id. Sizes are rounded up to GRANULE; bases are multiples of it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity // GRANULE * GRANULE
        self._free = [(0, self.capacity)] if self.capacity else []
        self._held: dict[int, tuple[int, int]] = {}

    @property
    def available(self) -> int:
        """Bytes that nobody has; not necessarily in one piece."""
        return sum(length for _, length in self._free)

    def gaps(self) -> list[tuple[int, int]]:
        """Return (base, length) of everything that nobody has."""
        return list(self._free)

    def of(self, lease_id: int) -> tuple[int, int] | None:
        """Return (base, length) of what a lease holds, or None."""
        return self._held.get(lease_id)

    def allocate(self, lease_id: int, size: int) -> tuple[int, int]:
        """Return (base, length) of the first gap that fits; the same one if asked again. OSError(ENOSPC) if none."""
        if size <= 0:
            raise LocalMisuse(f"an extent of {size} bytes")
        held = self._held.get(lease_id)
        if held:
            return held
        wanted = -(-size // GRANULE) * GRANULE
        for at, (base, length) in enumerate(self._free):
            if length >= wanted:
                self._free[at : at + 1] = [(base + wanted, length - wanted)] if length > wanted else []
                self._held[lease_id] = held = (base, wanted)
                return held
        raise OSError(errno.ENOSPC, f"no {wanted} bytes of memory in one piece")

    def claim(self, lease_id: int, base: int, length: int) -> None:
        """Note what a lease held before a restart; LocalMisuse if it is not free."""
        end = -(-(base + length) // GRANULE) * GRANULE
        if base % GRANULE or not any(b <= base and end <= b + n for b, n in self._free):
            raise LocalMisuse(f"{length} bytes from {base} are not free")
        self._take(base, end - base)
        self._held[lease_id] = (base, end - base)

    def free(self, lease_id: int) -> None:
        """Take an extent back; nothing happens if there is none."""
        held = self._held.pop(lease_id, None)
        if held is None:
            return
        base, end = held[0], sum(held)
        first = last = bisect(self._free, held)  # the gaps from first up to last, not included, become one with it
        if last < len(self._free) and self._free[last][0] == end:
            end, last = sum(self._free[last]), last + 1
        if first and sum(self._free[first - 1]) == base:
            base, first = self._free[first - 1][0], first - 1
        self._free[first:last] = [(base, end - base)]

    def _take(self, base: int, length: int) -> None:
        """Cut a range out of the gap that holds it."""
        at = bisect(self._free, (base, self.capacity + 1)) - 1
        start, size = self._free.pop(at)
        rest = [(start, base - start), (base + length, start + size - base - length)]
        self._free[at:at] = [gap for gap in rest if gap[1]]
