"""The codec against `construct`, the field's declarative parser, with msgspec's msgpack as what C can do.

Three messages: a REQUEST with token and params, an ANNOUNCE with 16 resources, an FBMU READ. The
layouts in construct are the same byte for byte (that is asserted before anything is measured), with
the same checks of magic, version and flags. construct has a compiled form for parsing; both forms
are shown. msgspec carries the same fields in its own format: u128 as two u64, for msgpack has none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import construct as c
import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from report import Row, measure, run

from fabricbios.model import Op, ResourceType
from fabricbios.wire import Announce, FbmuRead, Message, Read, Request, ResourceSummary

U128 = c.BytesInteger(16)


class Case(NamedTuple):
    """One message in three codecs."""

    name: str
    value: Message
    layout: Any  # construct
    fields: dict[str, Any]  # what construct builds from
    packed: Any  # msgspec struct


def request() -> Case:
    token, params = bytes(range(150)), bytes(26)
    value = Request(op=Op.LEASE_ALLOC, resource_id=1 << 100, token=token, params=params)
    layout = c.Struct(
        "op" / c.Int16ub,
        "resource_id" / U128,
        "token" / c.Prefixed(c.Int32ub, c.GreedyBytes),
        "params" / c.Prefixed(c.Int32ub, c.GreedyBytes),
        "has_presenter" / c.Int8ub,
        "presenter" / c.If(c.this.has_presenter == 1, c.Struct("id" / U128, "sig" / c.Bytes(64))),
        c.Terminated,
    )
    fields = {"op": int(Op.LEASE_ALLOC), "resource_id": 1 << 100, "token": token, "params": params}
    struct = msgspec.defstruct(
        "Request", [("op", int), ("id_h", int), ("id_l", int), ("token", bytes), ("params", bytes), ("has", int)],
        array_like=True,
    )  # fmt: skip
    packed = struct(int(Op.LEASE_ALLOC), 1 << 36, 0, token, params, 0)
    return Case("REQUEST", value, layout, {**fields, "has_presenter": 0, "presenter": None}, packed)


def announce() -> Case:
    resources = [((1 << 120) + i, int(ResourceType.MEM), 0, i << 30, i << 29) for i in range(16)]
    numbers = {"node_id": 1 << 99, "sequence": 1 << 40, "timestamp": 1_800_000_000, "ttl_secs": 90, "health": 0}
    places = {"site_id": 1, "row_id": 2, "rack_id": 3, "custom": bytes(32), "control_addr": bytes(16)}
    fields: dict[str, Any] = {**numbers, **places, "control_port": 5701, "public_key": bytes(32)}
    value = Announce(**fields, resources=tuple(ResourceSummary(*r) for r in resources))
    names = ("resource_id", "resource_type", "flags", "capacity", "available")
    resource = c.Struct(
        "resource_id" / U128, "resource_type" / c.Int16ub, "flags" / c.Int16ub, "capacity" / c.Int64ub,
        "available" / c.Int64ub,
    )  # fmt: skip
    layout = c.Struct(
        "node_id" / U128, "sequence" / c.Int64ub, "timestamp" / c.Int64ub, "ttl_secs" / c.Int32ub,
        "health" / c.Int16ub, "site_id" / c.Int32ub, "row_id" / c.Int32ub, "rack_id" / c.Int32ub,
        "custom" / c.Bytes(32), "control_addr" / c.Bytes(16), "control_port" / c.Int16ub, "public_key" / c.Bytes(32),
        "resources" / c.PrefixedArray(c.Int16ub, resource),
        "extensions" / c.Prefixed(c.Int32ub, c.GreedyBytes),
        c.Terminated,
    )  # fmt: skip
    item = msgspec.defstruct(
        "Resource", [(n, int) for n in ("id_h", "id_l", "type", "flags", "cap", "avail")], array_like=True
    )
    kinds = [(n, bytes if isinstance(v, bytes) else int) for n, v in fields.items()]
    whole = msgspec.defstruct("Announce", [*kinds, ("resources", list[item]), ("ext", bytes)], array_like=True)
    small = {**fields, "node_id": 1 << 60}
    packed = whole(
        **small, resources=[item(1 << 56, *r) for r in [(i, 2, 0, i << 30, i << 29) for i in range(16)]], ext=b""
    )
    listed = [dict(zip(names, r, strict=True)) for r in resources]
    return Case("ANNOUNCE, 16 resources", value, layout, {**fields, "resources": listed, "extensions": b""}, packed)


def read() -> Case:
    value = FbmuRead(request_id=7, lease_id=1 << 90, nonce=9, payload=Read(4096, 512, 448), auth_tag=bytes(16))
    layout = c.Struct(
        "magic" / c.Const(b"FBMU"), "version" / c.Const(1, c.Int8ub), "op" / c.Const(0x10, c.Int8ub),
        "flags" / c.Const(0, c.Int16ub), "payload_len" / c.Int32ub, "request_id" / c.Int32ub, "lease_id" / U128,
        "nonce" / c.Int64ub, "auth_tag" / c.Bytes(16), "offset" / c.Int64ub, "length" / c.Int32ub,
        "padding" / c.GreedyBytes,
    )  # fmt: skip
    fields = {"payload_len": 460, "request_id": 7, "lease_id": 1 << 90, "nonce": 9, "auth_tag": bytes(16)}
    names = ("request_id", "lease_h", "lease_l", "nonce", "offset", "length")
    struct = msgspec.defstruct("Read", [*((n, int) for n in names), ("tag", bytes), ("pad", bytes)], array_like=True)
    packed = struct(7, 1 << 26, 0, 9, 4096, 512, bytes(16), bytes(448))
    return Case("FBMU READ", value, layout, {**fields, "offset": 4096, "length": 512, "padding": bytes(448)}, packed)


def works(case: Case) -> dict[str, dict[str, Callable[[], object]]]:
    """Return decode and encode of every codec, after asserting that the bytes are the same."""
    cls, data, value = type(case.value), case.value.pack(), case.value
    compiled = case.layout.compile()
    assert case.layout.build(case.fields) == data
    assert cls.unpack(data) == value
    assert compiled.parse(data) == case.layout.parse(data)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(type(case.packed))
    packed = encoder.encode(case.packed)
    return {
        "decode": {
            "ours": lambda: cls.unpack(data),
            "construct": lambda: case.layout.parse(data),
            "construct, compiled": lambda: compiled.parse(data),
            "msgspec msgpack": lambda: decoder.decode(packed),
        },
        "encode": {
            "ours": value.pack,
            "construct": lambda: case.layout.build(case.fields),
            "construct, compiled": lambda: compiled.build(case.fields),
            "msgspec msgpack": lambda: encoder.encode(case.packed),
        },
    }


def rows(quick: bool) -> list[Row]:
    """Measure every message both ways."""
    found = []
    for case in (request(), announce(), read()):
        for way, codecs in works(case).items():
            measured = measure(codecs, seconds=0.4 if quick else 3.0, runs=5 if quick else 9)
            ours = measured.pop("ours")
            for peer, theirs in measured.items():
                ratio = ours.rate / theirs.rate
                name = f"{way} {case.name}"
                found.append(Row(name, ours.rate, "messages/s", peer, theirs.rate, ratio, ours.runs, ours.spread))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench."""
    return run("wire", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
