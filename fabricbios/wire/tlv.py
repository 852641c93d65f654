"""TLVs: tagged values that a reader may skip (D1), and the tables that say which tags stand where.

A table belongs to a place, not to a number: 0x0901 is a temperature in a GET_THERMAL result and a
lease intent in LEASE_ALLOC's params. Unknown tags are kept as `RawTlv`, so that a message can be
passed on byte for byte; a known tag must be exactly as long as its value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire.description import PACK_ERRORS, Struct
from fabricbios.wire.rules import ANY, LIST_LIMIT, Rules


class Tlv(Struct):
    """A value with a tag. TAG is its number, NAME the spec's name for it."""

    TAG: ClassVar[int] = 0
    NAME: ClassVar[str] = ""

    def __init_subclass__(cls, tag: int = 0, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.TAG, cls.NAME = tag, name


class RawTlv(NamedTuple):
    """A tag that its table does not know, with its bytes."""

    tag: int
    raw: bytes


TlvValue = Tlv | RawTlv


class TlvTable:
    """The tags that are known at one place; `narrow` has u8 tags (tlv8), otherwise u16 (tlv16).

    A `strict` table refuses unknown tags, in both directions.
    """

    def __init__(self, name: str, types: Iterable[type[Tlv]], *, narrow: bool = False, strict: bool = False) -> None:
        self.name, self.narrow, self.strict = name, narrow, strict
        self.by_tag: dict[int, type[Tlv]] = {t.TAG: t for t in types}
        self.by_name: dict[str, type[Tlv]] = {t.NAME: t for t in self.by_tag.values()}
        self._header = struct.Struct(">BH" if narrow else ">HH")

    def decode(self, data: bytes, at: int, end: int, rules: Rules) -> tuple[TlvValue, ...]:
        """Return the TLVs of a sequence that fills `data[at:end]`."""
        found: list[TlvValue] = []
        while at < end:
            value, at = self._one(data, at, end, rules)
            found.append(value)
        return tuple(found)

    def decode_list(self, data: bytes, at: int, end: int, rules: Rules, count: int) -> tuple[tuple[TlvValue, ...], int]:
        """Return the `count` TLVs from `at` on and where they end."""
        if count > LIST_LIMIT:
            raise WireError(f"{self.name}: more than {LIST_LIMIT} TLVs", at)
        if count * self._header.size > end - at:
            raise WireError(f"{self.name}: a count beyond what is left", at)
        found: list[TlvValue] = []
        for _ in range(count):
            value, at = self._one(data, at, end, rules)
            found.append(value)
        return tuple(found), at

    def _one(self, data: bytes, at: int, end: int, rules: Rules) -> tuple[TlvValue, int]:
        size = self._header.size
        if end - at < size:
            raise WireError(f"{self.name}: truncated TLV header", at)
        tag, length = self._header.unpack_from(data, at)
        start, stop = at + size, at + size + length
        if stop > end:
            raise WireError(f"{self.name}: TLV 0x{tag:04x} is longer than its buffer", at)
        known = self.by_tag.get(tag)
        if known is None:
            if self.strict:
                raise WireError(f"{self.name}: unknown type {tag}", at)
            return RawTlv(tag, data[start:stop]), stop
        value, used = known._decode(data, start, stop, rules)
        if used != stop:
            raise WireError(f"{self.name}: {known.NAME} is longer than its value", used)
        return value, stop

    def encode(self, values: Iterable[TlvValue], rules: Rules) -> bytes:
        """Return the sequence. Raise LocalMisuse for a value that has no place in this table."""
        return b"".join([self.encode_one(value, rules) for value in values])

    def pack_one(self, value: TlvValue) -> bytes:
        """Return one TLV with its header, outside of any message. Raise LocalMisuse if it cannot be sent."""
        try:
            return self.encode_one(value, ANY)
        except PACK_ERRORS as e:
            raise LocalMisuse(f"{self.name}: {value!r} cannot be packed: {e}") from e

    def encode_one(self, value: TlvValue, rules: Rules) -> bytes:
        """Return one TLV with its header."""
        if isinstance(value, RawTlv):
            if self.strict or value.tag in self.by_tag:
                raise LocalMisuse(f"{self.name}: tag 0x{value.tag:04x} cannot be sent raw")
            return self._header.pack(value.tag, len(value.raw)) + value.raw
        if self.by_tag.get(value.TAG) is not type(value):
            raise LocalMisuse(f"{self.name}: {type(value).__name__} has no place here")
        body = value._encode(value, rules)
        return self._header.pack(value.TAG, len(body)) + body
