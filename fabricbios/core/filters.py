"""Which nodes a SOLICIT is after (D5 and the wire encoding, "SOLICIT filters").

All filters must hold. Those about a resource must hold for one and the same resource. Which ops a
field takes is the decoder's business; a field of the extension or vendor ranges matches nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabricbios.wire.discovery import Announce, Filter, FilterField, FilterOp
from fabricbios.wire.inventory import ResourceSummary


def matches(announce: Announce, filters: Sequence[Filter]) -> bool:
    """Whether a node is among those asked for; no filters ask for all."""
    of_resource = [f for f in filters if f.field in _RESOURCE]
    of_node = [f for f in filters if f.field not in _RESOURCE]
    if not all(f.field in _NODE and _NODE[f.field](announce, f) for f in of_node):
        return False
    return not of_resource or any(all(_RESOURCE[f.field](r, f) for f in of_resource) for r in announce.resources)


def _number(filter_: Filter, width: int) -> int:
    return int.from_bytes(filter_.value[:width], "big")


def _ordered(have: int, filter_: Filter) -> bool:
    want = _number(filter_, 4)
    return {FilterOp.EQ: have == want, FilterOp.GT: have > want, FilterOp.LT: have < want}.get(
        FilterOp(filter_.op), False
    )


def _custom(announce: Announce, filter_: Filter) -> bool:
    """For CONTAINS the non-zero bytes must be the same at their places."""
    if filter_.op == FilterOp.EQ:
        return announce.custom == filter_.value
    return all(want in (0, have) for have, want in zip(announce.custom, filter_.value, strict=True))


def _flags(resource: ResourceSummary, filter_: Filter) -> bool:
    want = _number(filter_, 2)
    return resource.flags == want if filter_.op == FilterOp.EQ else resource.flags & want == want


_NODE: dict[int, Callable[[Announce, Filter], bool]] = {
    FilterField.NODE_ID: lambda a, f: a.node_id == _number(f, 16),
    FilterField.SITE_ID: lambda a, f: _ordered(a.site_id, f),
    FilterField.ROW_ID: lambda a, f: _ordered(a.row_id, f),
    FilterField.RACK_ID: lambda a, f: _ordered(a.rack_id, f),
    FilterField.LOCALITY_CUSTOM: _custom,
}
_RESOURCE: dict[int, Callable[[ResourceSummary, Filter], bool]] = {
    FilterField.RESOURCE_TYPE: lambda r, f: r.resource_type == _number(f, 2),
    FilterField.RESOURCE_FLAGS: _flags,
}
