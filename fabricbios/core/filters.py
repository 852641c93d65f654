"""Which nodes a SOLICIT is after (D5 and the wire encoding, "SOLICIT filters").

All filters must hold. Those about a resource must hold for one and the same resource. Which ops a
field takes is the decoder's business; a field of the extension or vendor ranges matches nothing here.

Anybody may ask, with as many filters as a question holds, of as many nodes as a relay has heard. So filters are
folded into one demand a field before any node is looked at: a range, or bits that must have certain values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fabricbios.wire.discovery import Announce, Filter, FilterField, FilterOp

_BYTES = {
    FilterField.RESOURCE_TYPE: 2,
    FilterField.RESOURCE_FLAGS: 2,
    FilterField.NODE_ID: 16,
    FilterField.LOCALITY_CUSTOM: 32,
    FilterField.SITE_ID: 4,
    FilterField.ROW_ID: 4,
    FilterField.RACK_ID: 4,
}
_OF_RESOURCE = frozenset((FilterField.RESOURCE_TYPE, FilterField.RESOURCE_FLAGS))
_RANGED = frozenset((FilterField.SITE_ID, FilterField.ROW_ID, FilterField.RACK_ID))


class Bits(NamedTuple):
    """A number has the bits of `want` where `mask` has ones."""

    mask: int = 0
    want: int = 0

    def of(self, number: int) -> bool:
        return number & self.mask == self.want


class Range(NamedTuple):
    """A number of 32 bits is neither below `low` nor above `high`."""

    low: int = 0
    high: int = 0xFFFFFFFF

    def of(self, number: int) -> bool:
        return self.low <= number <= self.high


class Wanted:
    """All filters of one question. `nobody` means that they contradict each other, or are of no field that we know."""

    def __init__(self, filters: Iterable[Filter]) -> None:
        self.nobody = False
        self._bits: dict[int, Bits] = {}
        self._ranges: dict[int, Range] = {}
        for f in filters:
            self._fold(f)
        self._kind = self._bits.get(FilterField.RESOURCE_TYPE, Bits())
        self._flags = self._bits.get(FilterField.RESOURCE_FLAGS, Bits())
        self._about_node = any(field not in _OF_RESOURCE for field in (*self._bits, *self._ranges))
        self._about_resource = any(field in _OF_RESOURCE for field in self._bits)

    @property
    def node_id(self) -> int | None:
        """The only node that can match, None where filters name none."""
        bits = self._bits.get(FilterField.NODE_ID)
        return None if bits is None else bits.want

    def matches(self, announce: Announce) -> bool:
        """Whether a node is among those asked for; no filters ask for all."""
        if self.nobody or (self._about_node and not self._matches_node(announce)):
            return False
        return not self._about_resource or self._matches_resource(announce)

    def _matches_node(self, a: Announce) -> bool:
        if self._ranges:
            have = {FilterField.SITE_ID: a.site_id, FilterField.ROW_ID: a.row_id, FilterField.RACK_ID: a.rack_id}
            if not all(demand.of(have[FilterField(field)]) for field, demand in self._ranges.items()):
                return False
        custom = self._bits.get(FilterField.LOCALITY_CUSTOM)
        if custom is not None and not custom.of(int.from_bytes(a.custom, "big")):
            return False
        return self.node_id in (None, a.node_id)

    def _matches_resource(self, announce: Announce) -> bool:
        return any(self._kind.of(r.resource_type) and self._flags.of(r.flags) for r in announce.resources)

    def _fold(self, f: Filter) -> None:
        width = _BYTES.get(FilterField(f.field)) if f.field in _KNOWN else None
        if width is None:
            self.nobody = True
            return
        value = int.from_bytes(f.value[:width], "big")
        if f.field in _RANGED:
            self._narrow(f.field, FilterOp(f.op), value)
        else:
            self._demand(f.field, Bits(_mask(f, width, value), value))

    def _narrow(self, field: int, op: FilterOp, value: int) -> None:
        low, high = self._ranges.get(field, Range())
        if op != FilterOp.LT:
            low = max(low, value + (op == FilterOp.GT))
        if op != FilterOp.GT:
            high = min(high, value - (op == FilterOp.LT))
        self._ranges[field] = Range(low, high)
        self.nobody |= low > high

    def _demand(self, field: int, more: Bits) -> None:
        had = self._bits.get(field, Bits())
        self.nobody |= bool((had.want ^ more.want) & had.mask & more.mask)
        self._bits[field] = Bits(had.mask | more.mask, had.want | more.want)


_KNOWN = frozenset(map(int, _BYTES))


def _mask(f: Filter, width: int, value: int) -> int:
    """EQ: all bits. CONTAINS: the flags that are named; of a custom locality the bytes that are not zero."""
    if f.op == FilterOp.EQ:
        return (1 << 8 * width) - 1
    if f.field == FilterField.RESOURCE_FLAGS:
        return value
    return int.from_bytes(bytes(0xFF if byte else 0 for byte in f.value), "big")


def matches(announce: Announce, filters: Iterable[Filter]) -> bool:
    """Whether one node is among those asked for."""
    return Wanted(filters).matches(announce)
