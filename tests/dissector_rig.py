"""What the dissector should show of a message, said by the codec's JSON form and the tables' names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pcap_rig import Sent, Shown

from fabricbios.errors import WireError
from fabricbios.model import Op
from fabricbios.wire import kinds
from fabricbios.wire.bindings import BindingTlvs, ErrorResult
from fabricbios.wire.control import Request, Response
from fabricbios.wire.dataplane import Datagram
from fabricbios.wire.description import Struct
from fabricbios.wire.discovery import Announce, SolicitResponse
from fabricbios.wire.fragmentation import inflate
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.intents import LeaseIntentTlvs
from fabricbios.wire.inventory import InventoryTlvs, ResourceSummary
from fabricbios.wire.pages import PageDatagram
from fabricbios.wire.registry import PAYLOADS, TYPES, params_of, result_of, wire_name
from fabricbios.wire.tlv import RawTlv, TlvTable
from fabricbios.wire.token import Token
from wiredoc.names import HEADER_NAME, payload_of, spec_name, table_key

QUIC_PORT = 9999  # shown as what stands in a QUIC stream: -d udp.port==9999,fabricbios_quic
AS_STREAM = ("-d", f"udp.port=={QUIC_PORT},fabricbios_quic")
_BLANK = (1, 2, 3, 4, 0, 5, 6, 7, bytes(32), bytes(16), 8, bytes(32), ())  # an ANNOUNCE of no account
_BY_PAYLOAD = {cls: kind for kind, cls in PAYLOADS.items()}


def carried(type_name: str, data: bytes) -> Sent | None:
    """Return the datagram in which the dissector meets this message; None where nothing carries it alone."""
    cls = TYPES[type_name]
    if cls is Frame:
        return Sent(data, 5700)
    if issubclass(cls, Datagram):
        return Sent(data, QUIC_PORT if type_name.startswith("page") else {b"FBBU": 5703}.get(data[:4], 5702))
    if cls is SolicitResponse:
        return Sent(Frame(MsgType.RESPONSE, 0, 1, 2, 3, data).pack("quic"), 5700)
    if cls in _BY_PAYLOAD:
        return Sent(Frame(_BY_PAYLOAD[cls], 0, 1, 2, 3, data).pack("quic"), QUIC_PORT)
    inside = _inside(cls, data)
    return inside and carried(*inside)


def _inside(cls: type[Struct], data: bytes) -> tuple[str, bytes] | None:
    """Return the REQUEST or RESPONSE that has the message in it."""
    if cls is Token:
        return "request", Request(Op.PING, token=data).pack()
    if cls is ResourceSummary:
        return "get_inventory_result", b"\0\1" + data
    if cls is InventoryTlvs:
        return "announce", Announce(*_BLANK).pack()[:-4] + len(data).to_bytes(4, "big") + data
    if cls is ErrorResult:
        return "response", Response(1, Op.PING, data).pack()
    if cls is LeaseIntentTlvs:
        return "request", Request(Op.LEASE_ALLOC, params=bytes(18) + data).pack()
    if cls is BindingTlvs:
        return "response", Response(0, Op.LEASE_ALLOC, bytes(24) + data).pack()
    for op in Op:
        if params_of(op) is cls:
            return "request", Request(op, params=data).pack()
        if result_of(op) is cls:
            return "response", Response(0, op, data).pack()
    return None


def unreadable(value: Struct) -> bool:
    """Whether the codec refuses something inside the message, which for itself is well-formed."""
    try:
        _read_inside(value)
    except WireError:
        return True
    return False


def _read_inside(value: Struct) -> None:
    if isinstance(value, Frame) and not value.fragmented:
        _read_payload(value)
    elif isinstance(value, Request):
        if value.token:
            Token.unpack(value.token)
        if value.op in set(Op):
            params_of(Op(value.op)).unpack(value.params)
    elif isinstance(value, Response) and value.status:
        ErrorResult.unpack(value.result)
    elif isinstance(value, Response) and value.op in set(Op):
        result_of(Op(value.op)).unpack(value.result)
    elif isinstance(value, SolicitResponse):
        for entry in value.announce_payload_bytes:
            Announce.unpack(entry)


def _read_payload(frame: Frame) -> None:
    cls = SolicitResponse if frame.msg_type == MsgType.RESPONSE else PAYLOADS.get(MsgType(frame.msg_type))
    if cls is not None:
        _read_inside(cls.unpack(inflate(frame.payload) if frame.flags & FrameFlag.COMPRESSED else frame.payload))


def expected(value: Struct) -> Iterator[tuple[str, Any]]:
    """Yield (field, value) in the order of the wire; numbers as int, all else as bytes or str."""
    if isinstance(value, Datagram):
        payload = value[-1]
        yield from _fields(HEADER_NAME, value, skip="payload")
        yield from _fields(_name_of(type(value)), payload)
    else:
        yield from _fields(spec_name(type(value)), value)


def _name_of(cls: type[Datagram]) -> str:
    assert payload_of(cls)
    return spec_name(cls)


def _fields(section: str, value: Struct, skip: str = "") -> Iterator[tuple[str, Any]]:
    for (name, field), held in zip(value.FIELDS.items(), value, strict=True):
        if field.tail and held == field.default:
            return  # a legacy form ends here
        if held is not None and name != skip:
            wire = "page_op" if isinstance(value, PageDatagram) and name == "op" else wire_name(name)
            yield from _held(f"fabricbios.{section}.{wire}", field.kind, held)


def _held(name: str, kind: kinds.Kind, held: Any) -> Iterator[tuple[str, Any]]:
    match kind:
        case kinds.Nested() | kinds.Choice():
            yield from expected(held)
        case kinds.Tlvs():
            for tlv in held:
                yield from _tlv(kind.table, tlv)
        case kinds.ListOf() | kinds.Array():
            for item in held:
                yield from expected(item) if isinstance(item, Struct) else _held(name, kind.item, item)
        case kinds.BytesList():
            yield from ((name, item) for item in held)
        case kinds.Text():
            yield name, held
        case _ if held != b"" and not (isinstance(kind, kinds.Padding) and held == 0):
            yield name, held.to_bytes(16, "big") if isinstance(kind, kinds.U128) else held


def _tlv(table: TlvTable, tlv: Any) -> Iterator[tuple[str, Any]]:
    key = f"fabricbios.{table_key(table.name)}"
    if isinstance(tlv, RawTlv):
        yield f"{key}.tag", tlv.tag
        if tlv.raw:
            yield f"{key}.raw", tlv.raw
    else:
        yield f"{key}.tag", tlv.TAG
        yield from expected(tlv)


def agrees(shown: Shown, value: Any) -> bool:
    """Whether tshark shows this very value."""
    if isinstance(value, str):
        return shown.raw == value.encode()
    if isinstance(value, bytes):
        return shown.raw == value
    return int(shown.show, 0) == value
