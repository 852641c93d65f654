"""Fixed-layout records: one table gives the Python codec and the C header (design.md, "One table per struct").

A big-endian record is a wire header; a native one is shared with a BPF program through a map.
Field order is memory order and padding is always spelled out, so both sides agree by construction.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

_CODE = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "be16": "H", "be32": "I", "be64": "Q"}


class Field(NamedTuple):
    """`kind` is u8/u16/u32/u64 (native) or be16/be32/be64; `items` > 1 makes an array (u8 arrays are bytes)."""

    name: str
    kind: str
    doc: str
    items: int = 1


class Layout:
    """A record without implied padding.

    Wire records are all u8/be*, shared ones all u8/u*; mixing raises ValueError, as does a native
    field that is not naturally aligned.
    """

    def __init__(self, name: str, doc: str, fields: tuple[Field, ...]) -> None:
        big = {f.kind[0] == "b" for f in fields if f.kind != "u8"}
        if len(big) > 1:
            raise ValueError(f"{name}: native and big-endian fields in one record")
        self.name, self.doc, self.fields = name, doc, fields
        self.big_endian = True in big
        order = ">" if self.big_endian else "="
        self.offset: dict[str, int] = {}
        codes, at = [order], 0
        for f in fields:
            width = struct.calcsize("=" + _CODE[f.kind])
            if not self.big_endian and at % width:
                raise ValueError(f"{name}.{f.name} is not aligned")
            self.offset[f.name] = at
            at += width * f.items
            codes.append(f"{f.items}s" if f.kind == "u8" and f.items > 1 else f"{f.items}{_CODE[f.kind]}")
        self.struct = struct.Struct("".join(codes))
        self.size = self.struct.size
        self._nothing = self.struct.unpack(bytes(self.size))
        self._place, at = {}, 0
        for f in fields:
            width = 1 if f.kind == "u8" else f.items
            self._place[f.name] = slice(at, at + width)
            at += width
        self._order = order
        self._field_struct = {f.name: struct.Struct(order + c) for f, c in zip(fields, codes[1:], strict=True)}

    def pack(self, **values: Any) -> bytes:
        """Missing fields are zero; an array is a sequence, a u8 array is bytes."""
        out = list(self._nothing)
        for name, value in values.items():
            out[self._place[name]] = value if isinstance(value, (tuple, list)) else (value,)
        return self.struct.pack(*out)

    def excerpt(self, *names: str) -> struct.Struct:
        """Return the struct of these fields alone, in their order, as long as the record; it packs zeros elsewhere.

        For what is packed or unpacked often: values are given and taken by place. ValueError for another order.
        """
        if list(names) != [name for name in self.offset if name in names]:
            raise ValueError(f"{self.name} has no such fields in that order: {', '.join(names)}")
        parts = (one.format[1:] if name in names else f"{one.size}x" for name, one in self._field_struct.items())
        return struct.Struct(self._order + "".join(parts))

    def set(self, buffer: Any, base: int, name: str, value: Any) -> None:
        """Store one field of the record that starts at `base` of a writable buffer."""
        args = value if isinstance(value, (tuple, list)) else (value,)
        self._field_struct[name].pack_into(buffer, base + self.offset[name], *args)

    def get(self, buffer: Any, base: int, name: str) -> Any:
        """Return one field of the record that starts at `base`: an int, bytes, or a tuple of ints."""
        values = self._field_struct[name].unpack_from(buffer, base + self.offset[name])
        return values[0] if len(values) == 1 else values

    def to_c(self) -> str:
        """Return the struct and its static asserts as C text."""
        ctype = {k: f"__{k}" for k in _CODE}
        rows = "\n".join(
            f"\t{ctype[f.kind]} {f.name}{f'[{f.items}]' if f.items > 1 else ''}; /* {f.doc} */" for f in self.fields
        )
        packed = " __attribute__((packed))" if self.big_endian else ""
        asserts = "\n".join(
            f'_Static_assert(__builtin_offsetof(struct {self.name}, {n}) == {o}, "{self.name}.{n}");'
            for n, o in self.offset.items()
        )
        return (
            f"/* {self.doc} */\nstruct {self.name} {{\n{rows}\n}}{packed};\n"
            f'_Static_assert(sizeof(struct {self.name}) == {self.size}, "{self.name}");\n{asserts}\n'
        )
