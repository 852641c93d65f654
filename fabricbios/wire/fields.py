"""Field specifiers: the words in which a message is described.

Each returns a `Field` that says what stands at one place of a message and how it is judged; type
checkers see the annotated type. Beside its kind a field may carry:

* `enum` names the values for people; `closed` refuses every other value (D1).
* `flags` is a mask's enum; bits without a name are refused.
* `low`, `high` bound a number.
* `when` makes a field present only where another one says so, `tail` where the message goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, NamedTuple

from fabricbios.wire import kinds

if TYPE_CHECKING:
    from fabricbios.wire.description import Struct
    from fabricbios.wire.tlv import TlvTable


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


class When(NamedTuple):
    """Presence: the earlier field `name` equals `value`, or has one of the bits of `mask`."""

    name: str
    value: int = 0
    mask: int = 0

    @property
    def condition(self) -> str:
        """As Python source over the field's variable."""
        return f"f_{self.name} & {self.mask}" if self.mask else f"f_{self.name} == {self.value}"


class Field(NamedTuple):
    """One place in a message. A name that starts with _ is on the wire but no field of the value."""

    kind: kinds.Kind
    doc: str = ""
    default: Any = REQUIRED
    kw_only: bool = False
    enum: type[IntEnum] | None = None
    closed: bool = False
    flags: type[IntFlag] | None = None
    only: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    when: When | None = None
    tail: bool = False

    @property
    def allowed(self) -> tuple[int, ...]:
        """The only values it may have; () if any."""
        return self.only or (tuple(int(v) for v in self.enum) if self.closed and self.enum else ())

    @property
    def mask(self) -> int | None:
        """The bits it may have; None if any."""
        return None if self.flags is None else sum(int(v) for v in self.flags)


U8, U16, U32 = kinds.Int("u8", "B"), kinds.Int("u16", "H"), kinds.Int("u32", "I")
U64, I32 = kinds.Int("u64", "Q"), kinds.Int("i32", "i")
U128 = kinds.U128()


def u8(doc: str = "", **options: Any) -> Any:
    """An unsigned byte; options are those of `Field`."""
    return Field(U8, doc, **options)


def u16(doc: str = "", **options: Any) -> Any:
    return Field(U16, doc, **options)


def u32(doc: str = "", **options: Any) -> Any:
    return Field(U32, doc, **options)


def u64(doc: str = "", **options: Any) -> Any:
    return Field(U64, doc, **options)


def i32(doc: str = "", **options: Any) -> Any:
    return Field(I32, doc, **options)


def u128(doc: str = "", **options: Any) -> Any:
    """An id: one int, 16 bytes."""
    return Field(U128, doc, **options)


def boolean(doc: str = "", **options: Any) -> Any:
    """A u8 that is 0 or 1 and nothing else (present, has_*, installed, query_type: D1)."""
    return Field(U8, doc, only=(0, 1), **options)


def fixed(size: int, doc: str = "", **options: Any) -> Any:
    """Exactly `size` bytes."""
    return Field(kinds.Octets(size), doc, **options)


def u32s(count: int, doc: str = "", **options: Any) -> Any:
    """`[u32; count]`."""
    return Field(kinds.Array(U32, count), doc, **options)


def reserved(size: int) -> Any:
    """Bytes sent zero and ignored; assign to a name that starts with _."""
    return Field(kinds.Reserved(size))


def magic(value: bytes) -> Any:
    """These bytes or another protocol; assign to a name that starts with _."""
    return Field(kinds.Magic(value))


def length_of(target: str) -> Any:
    """A u32 that counts the bytes of a later field; assign to a name that starts with _."""
    return Field(kinds.LengthOf(target))


def bytes_(doc: str = "", **options: Any) -> Any:
    """`bytes` of D1: u32 length, limited by transport."""
    return Field(kinds.Bytes("I"), doc, **options)


def bytes16(doc: str = "", **options: Any) -> Any:
    """u16 length and data."""
    return Field(kinds.Bytes("H"), doc, **options)


def str16(doc: str = "", **options: Any) -> Any:
    """u16 length and UTF-8."""
    return Field(kinds.Text("H"), doc, **options)


def text32(doc: str = "", **options: Any) -> Any:
    """`bytes` that are UTF-8."""
    return Field(kinds.Text("I"), doc, **options)


def text(doc: str = "", **options: Any) -> Any:
    """UTF-8 to the end of the buffer."""
    return Field(kinds.Text(""), doc, **options)


def rest(doc: str = "", **options: Any) -> Any:
    """All that is left."""
    return Field(kinds.Rest(), doc, **options)


def zeros(doc: str = "", **options: Any) -> Any:
    """Zeros to the end; the value is how many."""
    return Field(kinds.Padding(), doc, **options)


def counted(by: str, doc: str = "", *, blocks: bool = False, **options: Any) -> Any:
    """As many bytes as the field `by` says (times the block size)."""
    return Field(kinds.Counted(by, blocks), doc, **options)


def list_of(item: type[Struct] | kinds.FixedKind, doc: str = "", **options: Any) -> Any:
    """u16 count and items."""
    return Field(kinds.ListOf(item), doc, **options)


def list_of_bytes(doc: str = "", **options: Any) -> Any:
    """u16 count and `bytes`."""
    return Field(kinds.BytesList(), doc, **options)


def list8_of(item: kinds.FixedKind, doc: str = "", **options: Any) -> Any:
    """u8 count and items."""
    return Field(kinds.ListOf(item, "B"), doc, **options)


def nested(item: type[Struct], doc: str = "", *, by: str = "", **options: Any) -> Any:
    """Another struct in place, filling exactly the hidden length `by` if one is named."""
    return Field(kinds.Nested(item, by), doc, **options)


def choice(by: str, table: Mapping[int, type[Struct]], doc: str = "", **options: Any) -> Any:
    """`bytes` laid out as the value of the field `by` says."""
    return Field(kinds.Choice(by, table), doc, **options)


def tlv_seq(table: TlvTable, doc: str = "", **options: Any) -> Any:
    """A TLV sequence to the end of the buffer."""
    return Field(kinds.Tlvs(table), doc, **options)


def tlvs_in_bytes(table: TlvTable, doc: str = "", **options: Any) -> Any:
    """A TLV sequence inside `bytes`."""
    return Field(kinds.Tlvs(table, "I"), doc, **options)


def tlv_list(table: TlvTable, doc: str = "", **options: Any) -> Any:
    """A counted list of TLVs."""
    return Field(kinds.Tlvs(table, "H"), doc, **options)
