"""As much of the BPF Type Format as building and testing our object wants (Documentation/bpf/btf.rst).

Type ids count from 1 in file order, so a type that has to go is replaced, never removed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, header length, types at, length, strings at, length
_INT, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 3, 4, 5, 6
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
_BYTES_A_MEMBER = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}
_BYTES_AFTER = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_ONE_BYTE = struct.pack("<IIII", 0, _INT << 24, 1, 8)


class Type(NamedTuple):
    """One type: where its name is, its kind, how many members, and its bytes."""

    name_at: int
    kind: int
    members: int
    raw: bytes


def types(btf: bytes) -> Iterator[Type]:
    """Yield all types in order of their ids, the first of which is 1."""
    _, _, _, header, at, length, _, _ = _HEADER.unpack_from(btf)
    at += header
    end = at + length
    while at < end:
        name_at, info, _ = struct.unpack_from("<III", btf, at)
        kind, members = info >> 24 & 31, info & 0xFFFF
        size = 12 + _BYTES_AFTER.get(kind, 0) + members * _BYTES_A_MEMBER.get(kind, 0)
        yield Type(name_at, kind, members, btf[at : at + size])
        at += size


def btf_string(btf: bytes, at: int) -> str:
    """Return the name that stands at an offset of the string section."""
    header = _HEADER.unpack_from(btf)
    start = header[3] + header[6] + at
    return btf[start : btf.index(b"\0", start)].decode()


def struct_offsets(btf: bytes, name: str) -> dict[str, int]:
    """Return the byte offset of every member of a struct; KeyError without such a struct."""
    for found in types(btf):
        if found.kind == _STRUCT and btf_string(btf, found.name_at) == name:
            rows = [struct.unpack_from("<III", found.raw, 12 + 12 * i) for i in range(found.members)]
            return {btf_string(btf, name_at): (bits & 0xFFFFFF) // 8 for name_at, _, bits in rows}
    raise KeyError(name)


def without_datasecs(btf: bytes) -> bytes:
    """Return BTF that the kernel takes as it is: a linker would fill in the sizes of sections, which nobody needs."""
    body = b"".join(_ONE_BYTE if found.kind == _DATASEC else found.raw for found in types(btf))
    magic, version, flags, header, _, _, strings_at, strings_length = _HEADER.unpack_from(btf)
    strings = btf[header + strings_at : header + strings_at + strings_length]
    head = _HEADER.pack(magic, version, flags, header, 0, len(body), len(body), len(strings))
    return head + body + strings
