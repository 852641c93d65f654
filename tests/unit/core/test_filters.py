import pytest
from discovery_rig import key, memory, node_id, raw

from fabricbios.core.filters import matches
from fabricbios.model import ResourceFlags, ResourceType
from fabricbios.wire.discovery import Announce, Filter, FilterField, FilterOp
from fabricbios.wire.inventory import ResourceSummary

NODE = Announce(
    node_id(key(1)), 1, 1, 90, 0, 10, 20, 30, b"rack-a" + bytes(26), bytes(16), 5701, raw(key(1)),
    (memory(), ResourceSummary(8, ResourceType.BLOCK, ResourceFlags.FENCED, 1, 1)),
)  # fmt: skip


def wanted(field: int, op: FilterOp, value: int | bytes, width: int = 4) -> Filter:
    data = value if isinstance(value, bytes) else value.to_bytes(width, "big")
    return Filter(field, op, data.ljust(32, b"\0"))


EQ, GT, LT, CONTAINS = FilterOp
TYPE, ID, SITE, ROW, RACK, CUSTOM, FLAGS = FilterField


@pytest.mark.parametrize(
    ("filters", "hit"),
    [
        ([], True),
        ([wanted(TYPE, EQ, ResourceType.MEM, 2)], True),
        ([wanted(TYPE, EQ, ResourceType.GPU, 2)], False),
        ([wanted(ID, EQ, node_id(key(1)), 16)], True),
        ([wanted(ID, EQ, node_id(key(2)), 16)], False),
        ([wanted(SITE, EQ, 10)], True),
        ([wanted(SITE, GT, 9)], True),
        ([wanted(SITE, GT, 10)], False),
        ([wanted(ROW, LT, 21)], True),
        ([wanted(RACK, LT, 30)], False),
        ([wanted(CUSTOM, EQ, b"rack-a")], True),
        ([wanted(CUSTOM, EQ, b"rack")], False),
        ([wanted(CUSTOM, CONTAINS, b"\0\0ck")], True),
        ([wanted(CUSTOM, CONTAINS, b"\0\0cx")], False),
        ([wanted(FLAGS, EQ, 0, 2)], True),
        ([wanted(FLAGS, CONTAINS, ResourceFlags.FENCED, 2)], True),
        ([wanted(FLAGS, CONTAINS, ResourceFlags.DEGRADED, 2)], False),
        ([wanted(TYPE, EQ, ResourceType.BLOCK, 2), wanted(FLAGS, CONTAINS, 1, 2)], True),
        ([wanted(TYPE, EQ, ResourceType.MEM, 2), wanted(FLAGS, CONTAINS, 1, 2)], False),  # not on the same resource
        ([wanted(SITE, EQ, 10), wanted(ROW, EQ, 21)], False),
        ([wanted(0x40, EQ, 0)], False),
        ([wanted(0xFF, CONTAINS, 0)], False),
    ],
)
def test_filters(filters: list[Filter], hit: bool) -> None:
    assert matches(NODE, filters) is hit
