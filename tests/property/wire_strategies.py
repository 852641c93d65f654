"""Hypothesis strategies for every message, derived from the descriptions that the codec is made of.

What a description cannot say (rules across fields) is put right afterwards, in REPAIRS.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import strategies as st

from fabricbios.model import Perm
from fabricbios.wire import kinds
from fabricbios.wire.bindings import ErrorResult, Reason
from fabricbios.wire.dataplane import Datagram, ReadBlockResp, ReadResp
from fabricbios.wire.description import Struct
from fabricbios.wire.discovery import FILTER_OPS, FIRST_EXTENSION_FIELD, Filter, Solicit, SolicitRetry
from fabricbios.wire.fields import Field, When
from fabricbios.wire.frame import Frame, FrameFlag
from fabricbios.wire.gpu import GpuSubmitParams
from fabricbios.wire.intents import AffinityTarget, LeaseAffinity
from fabricbios.wire.ofi import OP_SHIFT, OfiOp, OfiRequest
from fabricbios.wire.params import SchedulerFenceGetResult
from fabricbios.wire.rules import ANY
from fabricbios.wire.tlv import RawTlv, TlvTable
from fabricbios.wire.token import SourceIp, Token

Draw = Callable[[Any], Any]
SMALL = st.binary(max_size=24)
BLOCKS = st.sampled_from([bytes(ANY.block_size * n) for n in range(3)])
ENDS = st.booleans()


@cache
def values_of(cls: type[Struct]) -> st.SearchStrategy[Any]:
    """Return a strategy of valid values of `cls`."""
    return st.composite(lambda draw: _draw(draw, cls))()


def _draw(draw: Draw, cls: type[Struct]) -> Struct:
    values: dict[str, Any] = {}
    ended = False
    for name, field in cls.FIELDS.items():
        ended = ended or (field.tail and draw(ENDS))
        values[name] = field.default if ended else _draw_field(draw, field, values)
    for name, field in cls.FIELDS.items():
        if isinstance(field.kind, kinds.Counted) and not field.kind.hidden:
            values[field.kind.by] = len(values[name]) // (ANY.block_size if field.kind.unit else 1)
    for base in cls.__mro__:
        if base in REPAIRS:
            REPAIRS[base](draw, values)
    return cls(**values)


def _draw_field(draw: Draw, field: Field, before: dict[str, Any]) -> Any:
    if field.when and not _present(field.when, before):
        return None
    kind = field.kind
    if isinstance(kind, kinds.Choice):
        return draw(values_of(kind.table[before[kind.by]]))
    if isinstance(kind, kinds.Counted):
        return draw(BLOCKS if kind.unit else SMALL)
    return draw(of_kind(kind, field))


def _present(when: When, before: dict[str, Any]) -> bool:
    value = before[when.name]
    return bool(value & when.mask) if when.mask else bool(value == when.value)


@cache
def of_kind(kind: kinds.Kind, field: Field) -> st.SearchStrategy[Any]:
    """Return a strategy of the values that a field of this kind may have by itself."""
    if isinstance(kind, (kinds.Int, kinds.U128)):
        return _numbers(kind, field)
    if isinstance(kind, kinds.Octets):
        return st.binary(min_size=kind.size, max_size=kind.size)
    if isinstance(kind, kinds.Array):
        return st.tuples(*[st.integers(0, 2**32 - 1)] * kind.count)
    if isinstance(kind, kinds.Text):
        return st.text(max_size=12)
    if isinstance(kind, (kinds.Bytes, kinds.Rest)):
        return SMALL
    if isinstance(kind, kinds.Padding):
        return st.integers(0, 24)
    if isinstance(kind, kinds.Nested):
        return values_of(kind.item)
    if isinstance(kind, kinds.Tlvs):
        return st.lists(tlvs_of(kind.table), max_size=3).map(tuple)
    if isinstance(kind, kinds.BytesList):
        return st.lists(SMALL, max_size=3).map(tuple)
    assert isinstance(kind, kinds.ListOf), kind
    item = kind.item
    each = of_kind(item, Field(item)) if isinstance(item, kinds.FixedKind) else values_of(item)
    return st.lists(each, max_size=3).map(tuple)


def _numbers(kind: Any, field: Field) -> st.SearchStrategy[int]:
    if field.allowed:
        return st.sampled_from(field.allowed)
    if field.mask is not None:
        mask = field.mask
        return st.integers(0, mask).map(lambda bits: bits & mask)
    low = -(1 << kind.bits - 1) if kind.signed else 0
    high = (1 << kind.bits - kind.signed) - 1
    return st.integers(low if field.low is None else field.low, high if field.high is None else field.high)


@cache
def tlvs_of(table: TlvTable) -> st.SearchStrategy[Any]:
    """Return a strategy of the TLVs that may stand in `table`."""
    known = [values_of(t) for t in table.by_tag.values()]
    if table.strict:
        return st.one_of(known)
    tags = st.integers(0, 255 if table.narrow else 65535).filter(lambda tag: tag not in table.by_tag)
    return st.one_of(*known, st.builds(RawTlv, tags, SMALL))


def _repair_frame(draw: Draw, values: dict[str, Any]) -> None:
    if not values["flags"] & FrameFlag.FRAG_V2:
        values["flags"] &= ~FrameFlag.FINAL
        return
    size, flags = len(values["payload"]), values["flags"] & ~(FrameFlag.FINAL | FrameFlag.CONTINUED)
    before = draw(st.integers(0, 100))
    after = draw(st.integers(0, 100))
    piece = FrameFlag.CONTINUED if after else FrameFlag.FINAL
    whole = draw(st.booleans())
    values["flags"] = flags if whole else flags | piece
    values["frag_offset"], values["frag_total_len"] = (0, size) if whole else (before, before + size + after)


def _repair_filter(draw: Draw, values: dict[str, Any]) -> None:
    if values["field"] < FIRST_EXTENSION_FIELD:
        values["field"] = draw(st.sampled_from(sorted(FILTER_OPS)))
        values["op"] = draw(st.sampled_from(sorted(FILTER_OPS[values["field"]])))


def _repair_affinity(draw: Draw, values: dict[str, Any]) -> None:
    size = {AffinityTarget.TRUST_DOMAIN: None, AffinityTarget.RACK_ID: 4}.get(values["target_type"], 16)
    values["target"] = (
        draw(st.text(max_size=9)).encode() if size is None else draw(st.binary(min_size=size, max_size=size))
    )


def _repair_token(draw: Draw, values: dict[str, Any]) -> None:
    if values["caveats"]:
        values["perms"] |= Perm.DELEGATE
        values["caveats"] = tuple(c for c in values["caveats"] if type(c).__name__ != "Depth")


def _repair_datagram(draw: Draw, values: dict[str, Any]) -> None:
    values["lease_id"] = getattr(values["payload"], "lease_id", values["lease_id"])
    if values.get("payload") and "status" in values["payload"].FIELDS and values["payload"].status == 8:
        values["payload"] = values["payload"].replace(status=7)  # BAD_AUTH is for QUIC


def _repair_read(draw: Draw, values: dict[str, Any]) -> None:
    if values.get("data") or values.get("block_data"):
        values["status"] = 0


def _repair_ofi(draw: Draw, values: dict[str, Any]) -> None:
    op = draw(st.sampled_from(OfiOp))
    values["generation"] = values["generation"] & ((1 << OP_SHIFT) - 1) | op << OP_SHIFT
    values["payload"] = values["payload"] if op == OfiOp.WRITE else b""
    values["len"] = len(values["payload"]) if op == OfiOp.WRITE else values["len"]


def _set(name: str, make: Callable[[dict[str, Any]], Any]) -> Callable[[Draw, dict[str, Any]], None]:
    def repair(draw: Draw, values: dict[str, Any]) -> None:
        values[name] = make(values)

    return repair


REPAIRS: dict[type, Callable[[Draw, dict[str, Any]], None]] = {
    Frame: _repair_frame,
    Filter: _repair_filter,
    Solicit: _set("query_type", lambda v: 1 if v["filters"] else v["query_type"]),
    SolicitRetry: _set("cookie", lambda v: v["cookie"][:32].ljust(32, b"c")),
    ErrorResult: _set("tlvs", lambda v: (*v["tlvs"], Reason("because"))),
    LeaseAffinity: _repair_affinity,
    SchedulerFenceGetResult: _set("epoch", lambda v: v["epoch"] if v["installed"] else 0),
    GpuSubmitParams: _set("arg_sizes", lambda v: (len(v["args"]),)),
    SourceIp: _set("source_ip", lambda v: v["source_ip"][:4].ljust(4, b"\0")),
    Token: _repair_token,
    Datagram: _repair_datagram,
    ReadResp: _repair_read,
    ReadBlockResp: _repair_read,
    OfiRequest: _repair_ofi,
}
