"""The kinds of field that messages are made of, each with the source text of its codec.

A kind never touches bytes itself: `compiler` asks it for lines of Python, once a message, and the
lines run without any dispatch by kind. `Fixed` kinds share one precompiled `struct.Struct` with
their neighbours; the others put their length prefix, if any, into that same struct.

In the text that kinds make, `b` is the message (bytes), `at` the read position, `end` where the
enclosing buffer ends, `rules` the limits. The names in `scope` are the text's globals.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabricbios.wire.description import Struct
    from fabricbios.wire.tlv import TlvTable

PREFIX_SIZE = {"": 0, "B": 1, "H": 2, "I": 4}
M64 = (1 << 64) - 1


class Kind:
    """`text` is the kind in the words of the spec; `size` the fewest bytes it can take."""

    text = ""
    size = 0


class FixedKind(Kind):
    """Always `size` bytes: `codes` of struct, read into `names(var)` and made a value by `join`."""

    codes = ""

    def names(self, var: str) -> list[str]:
        """Return the names that one unpacking assigns."""
        return [var]

    def join(self, var: str) -> str:
        """Return the expression that makes the value out of `names`, "" where they are the value."""
        return ""

    def split(self, var: str) -> list[str]:
        """Return the arguments of struct.pack for the value in `var`."""
        return [var]

    def guard(self, var: str) -> str:
        """Return a condition that is true where `var` cannot be packed without loss, or ""."""
        return ""


class Int(FixedKind):
    """u8, u16, u32, u64 and i32."""

    def __init__(self, text: str, code: str) -> None:
        self.text, self.codes, self.size = text, code, struct.calcsize(">" + code)
        self.signed = text[0] == "i"
        self.bits = 8 * self.size


class U128(FixedKind):
    """Two u64 to struct, one int to everybody else."""

    text, codes, size, bits, signed = "u128", "QQ", 16, 128, False

    def names(self, var: str) -> list[str]:
        return [f"{var}_h", f"{var}_l"]

    def join(self, var: str) -> str:
        return f"{var}_h << 64 | {var}_l"

    def split(self, var: str) -> list[str]:
        return [f"{var} >> 64", f"{var} & {M64}"]


class Octets(FixedKind):
    """`[u8; n]`: bytes of one length."""

    def __init__(self, size: int) -> None:
        self.text, self.codes, self.size = f"[{size}]", f"{size}s", size

    def guard(self, var: str) -> str:
        return f"len({var}) != {self.size}"


class Array(FixedKind):
    """`[u32; n]`: a tuple of one length."""

    def __init__(self, item: Int, count: int) -> None:
        self.item, self.count = item, count
        self.text, self.codes, self.size = f"[{item.text}; {count}]", f"{count}{item.codes}", item.size * count

    def names(self, var: str) -> list[str]:
        return [f"{var}_{i}" for i in range(self.count)]

    def join(self, var: str) -> str:
        return f"({', '.join(self.names(var))})"

    def split(self, var: str) -> list[str]:
        return [f"*{var}"]

    def guard(self, var: str) -> str:
        return f"len({var}) != {self.count}"


class Reserved(FixedKind):
    """Sent zero, ignored when read (D1); no field."""

    def __init__(self, size: int) -> None:
        self.text, self.codes, self.size = f"reserved [{size}]", f"{size}x", size

    def names(self, var: str) -> list[str]:
        return []

    def split(self, var: str) -> list[str]:
        return []


class Magic(FixedKind):
    """These very bytes; no field."""

    def __init__(self, value: bytes) -> None:
        self.value, self.size = value, len(value)
        self.text, self.codes = f'"{value.decode()}"', f"{len(value)}s"

    def split(self, var: str) -> list[str]:
        return [repr(self.value)]


class LengthOf(FixedKind):
    """How many bytes the field named `target` takes; no field."""

    def __init__(self, target: str) -> None:
        self.target, self.text, self.codes, self.size = target, "u32", "I", 4

    def split(self, var: str) -> list[str]:
        return [f"len(f_{self.target}_e)"]


class Variable(Kind):
    """Anything whose length is only known when it is read. `prefix` is the struct code of its length or count."""

    prefix = ""

    def read(self, var: str, label: str) -> list[str]:
        """Return the lines that leave the value in `var` and move `at`; the prefix is in `{var}_n`."""
        raise NotImplementedError

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        """Return lines to run first, the value of the prefix, and the expression of the bytes."""
        raise NotImplementedError

    def scope(self, var: str) -> dict[str, Any]:
        """Return what the lines refer to by name."""
        return {}


def room(var: str, label: str) -> list[str]:
    """A length that goes past what is left is an error before anything is allocated (D1)."""
    return [f"if {var}_n > end - at: raise WireError('{label} is longer than what is left', at)"]


class Bytes(Variable):
    """A length and that many bytes. `limited` holds it to the transport's limit for `bytes` (D1)."""

    def __init__(self, prefix: str = "I") -> None:
        self.prefix, self.size = prefix, PREFIX_SIZE[prefix]
        self.limited = prefix == "I"
        self.text = "bytes" if self.limited else "u16 len + data"

    def read(self, var: str, label: str) -> list[str]:
        return [
            *([f"if {var}_n > rules.bytes: raise WireError('{label} is over the limit', at)"] if self.limited else []),
            *room(var, label),
            f"{var} = b[at:at + {var}_n]",
            f"at += {var}_n",
        ]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        limit = [f"if len({var}) > rules.bytes: raise LocalMisuse('{label} is over the limit')"]
        return limit if self.limited else [], f"len({var})", var


class Text(Bytes):
    """UTF-8 after a length, or to the end of the buffer where there is no prefix."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.text = {"H": "str16", "I": "bytes, UTF-8", "": "UTF-8"}[prefix]

    def read(self, var: str, label: str) -> list[str]:
        length = [] if self.prefix else [f"{var}_n = end - at"]
        raw = super().read(var, label)[:-2]
        return [
            *length,
            *raw,
            f"try: {var} = str(b[at:at + {var}_n], 'utf-8')",
            f"except UnicodeDecodeError as e: raise WireError('{label} is not UTF-8', at + e.start) from None",
            f"at += {var}_n",
        ]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        limit = [f"if len({var}_e) > rules.bytes: raise LocalMisuse('{label} is over the limit')"]
        encode = [f"{var}_e = {var}.encode('utf-8')", *(limit if self.limited else [])]
        return encode, f"len({var}_e)", f"{var}_e"


class Rest(Variable):
    """All bytes to the end of the buffer."""

    text = "to the end"

    def read(self, var: str, label: str) -> list[str]:
        return [f"{var} = b[at:end]", "at = end"]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        return [], "", var


class Padding(Variable):
    """Zeros to the end of the buffer, ignored when read; the value is their number."""

    text = "zeros to the end"

    def read(self, var: str, label: str) -> list[str]:
        return [f"{var} = end - at", "at = end"]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        return (
            [f"if not 0 <= {var} <= rules.bytes: raise LocalMisuse('{label} is over the limit')"],
            "",
            f"bytes({var})",
        )


class Counted(Variable):
    """As many bytes as another field says, times the block size where `blocks`."""

    def __init__(self, by: str, blocks: bool) -> None:
        self.by, self.unit = by, " * rules.block_size" if blocks else ""
        self.hidden = by.startswith("_")
        self.text = f"[{by}{' * block_size' if blocks else ''}]"

    def read(self, var: str, label: str) -> list[str]:
        size = [f"{var}_n = f_{self.by}{self.unit}"]
        return [*size, *room(var, label), f"{var} = b[at:at + {var}_n]", f"at += {var}_n"]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        if self.hidden:
            return [f"{var}_e = {var}"], "", var
        return (
            [f"if len({var}) != f_{self.by}{self.unit}: raise LocalMisuse('{label} is not as long as told')"],
            "",
            var,
        )


class ListOf(Variable):
    """A count and that many fixed-size numbers or structs; at most `LIST_LIMIT` (D1)."""

    def __init__(self, item: FixedKind | type[Struct], prefix: str = "H") -> None:
        self.item, self.prefix, self.size = item, prefix, PREFIX_SIZE[prefix]
        self.text = f"list({item.text if isinstance(item, FixedKind) else item.__name__})"
        if prefix == "B":
            self.text = f"[{self.text[5:-1]}; u8 count]"

    @property
    def item_size(self) -> int:
        return self.item.size if isinstance(self.item, FixedKind) else self.item.least()

    def read(self, var: str, label: str) -> list[str]:
        step = self.item_size
        bounds = [
            f"if {var}_n > LIST_LIMIT: raise WireError('{label} has too many items', at)",
            f"if {var}_n * {step} > end - at: raise WireError('{label} is longer than what is left', at)",
        ]
        if isinstance(self.item, FixedKind):
            got = ", ".join(self.item.names("i"))
            value = self.item.join("i") or "i"
            take = f"{var} = tuple([{value} for {got}, in {var}_s.iter_unpack(b[at:at + {var}_n * {step}])])"
            return [*bounds, take, f"at += {var}_n * {step}"]
        return [
            *bounds,
            f"{var} = []",
            f"for _ in range({var}_n):",
            f"    i, at = {var}_d(b, at, end, rules)",
            f"    {var}.append(i)",
            f"{var} = tuple({var})",
        ]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        bound = [f"if len({var}) > LIST_LIMIT: raise LocalMisuse('{label} has too many items')"]
        if isinstance(self.item, FixedKind):
            each = f"{var}_s.pack({', '.join(self.item.split('i'))})"
        else:
            bound.append(f"for i in {var}: {var}_t(i)")
            each = f"{var}_c(i, rules)"
        return bound, f"len({var})", f"b''.join([{each} for i in {var}])"

    def scope(self, var: str) -> dict[str, Any]:
        if isinstance(self.item, FixedKind):
            return {f"{var}_s": struct.Struct(">" + self.item.codes)}
        return {f"{var}_d": self.item.decoder(), f"{var}_c": self.item.encoder(), f"{var}_t": self.item.expect}


class BytesList(Variable):
    """A count and that many `bytes`."""

    prefix, size, text = "H", 2, "list(bytes)"

    def read(self, var: str, label: str) -> list[str]:
        return [
            f"if {var}_n > LIST_LIMIT: raise WireError('{label} has too many items', at)",
            f"if {var}_n * 4 > end - at: raise WireError('{label} is longer than what is left', at)",
            f"{var} = []",
            f"for _ in range({var}_n):",
            f"    if end - at < 4: raise WireError('truncated: ends inside {label}', at)",
            "    n = int.from_bytes(b[at:at + 4], 'big')",
            f"    if n > rules.bytes: raise WireError('{label} has an item over the limit', at)",
            f"    if n > end - at - 4: raise WireError('{label} has an item longer than what is left', at)",
            f"    {var}.append(b[at + 4:at + 4 + n])",
            "    at += 4 + n",
            f"{var} = tuple({var})",
        ]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        bounds = [
            f"if len({var}) > LIST_LIMIT: raise LocalMisuse('{label} has too many items')",
            f"if any(len(i) > rules.bytes for i in {var}): raise LocalMisuse('{label} has an item over the limit')",
        ]
        return bounds, f"len({var})", f"b''.join([len(i).to_bytes(4, 'big') + i for i in {var}])"


class Nested(Variable):
    """Another struct in place, or in exactly as many bytes as the hidden field `by` says."""

    def __init__(self, item: type[Struct], by: str = "") -> None:
        self.item, self.by, self.text = item, by, item.__name__

    def read(self, var: str, label: str) -> list[str]:
        if not self.by:
            return [f"{var}, at = {var}_d(b, at, end, rules)"]
        return [
            f"{var}_n = f_{self.by}",
            *room(var, label),
            f"{var}, {var}_stop = {var}_d(b, at, at + {var}_n, rules)",
            f"at += {var}_n",
            f"if {var}_stop != at: raise WireError('{label} is longer than its fields', {var}_stop)",
        ]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        return [f"{var}_t({var})", f"{var}_e = {var}_c({var}, rules)"], "", f"{var}_e"

    def scope(self, var: str) -> dict[str, Any]:
        return {f"{var}_d": self.item.decoder(), f"{var}_c": self.item.encoder(), f"{var}_t": self.item.expect}


class Choice(Variable):
    """`bytes` whose layout another field chooses; an unknown choice is an error (fail closed)."""

    prefix, size = "I", 4

    def __init__(self, by: str, table: Mapping[int, type[Struct]]) -> None:
        self.by, self.table = by, table
        self.text = "bytes(" + "; ".join(f"{k}: {v.__name__}" for k, v in table.items()) + ")"

    def read(self, var: str, label: str) -> list[str]:
        return [
            *room(var, label),
            f"if f_{self.by} not in {var}_d: raise WireError('unknown {self.by}', at)",
            f"{var}, {var}_stop = {var}_d[f_{self.by}](b, at, at + {var}_n, rules)",
            f"at += {var}_n",
            f"if {var}_stop != at: raise WireError('{label} is longer than its fields', {var}_stop)",
        ]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        check = [
            f"if f_{self.by} not in {var}_c: raise LocalMisuse('unknown {self.by}')",
            f"{var}_t[f_{self.by}]({var})",
        ]
        return [*check, f"{var}_e = {var}_c[f_{self.by}]({var}, rules)"], f"len({var}_e)", f"{var}_e"

    def scope(self, var: str) -> dict[str, Any]:
        return {
            f"{var}_d": {k: v.decoder() for k, v in self.table.items()},
            f"{var}_c": {k: v.encoder() for k, v in self.table.items()},
            f"{var}_t": {k: v.expect for k, v in self.table.items()},
        }


class Tlvs(Variable):
    """A TLV sequence: to the end (`prefix` ""), inside `bytes` ("I"), or a counted list ("H")."""

    def __init__(self, table: TlvTable, prefix: str = "") -> None:
        self.table, self.prefix, self.size = table, prefix, PREFIX_SIZE[prefix]
        shape = f"tlv{8 if table.narrow else 16}"
        self.text = {"": f"{shape}...", "I": f"bytes({shape}...)", "H": f"list({shape})"}[prefix] + f" ({table.name})"

    def read(self, var: str, label: str) -> list[str]:
        if self.prefix == "":
            return [f"{var} = {var}_table.decode(b, at, end, rules)", "at = end"]
        if self.prefix == "H":
            return [f"{var}, at = {var}_table.decode_list(b, at, end, rules, {var}_n)"]
        over = f"if {var}_n > rules.bytes: raise WireError('{label} is over the limit', at)"
        take = [f"{var} = {var}_table.decode(b, at, at + {var}_n, rules)", f"at += {var}_n"]
        return [over, *room(var, label), *take]

    def write(self, var: str, label: str) -> tuple[list[str], str, str]:
        lines = [f"{var}_e = {var}_table.encode({var}, rules)"]
        if self.prefix == "I":
            lines.append(f"if len({var}_e) > rules.bytes: raise LocalMisuse('{label} is over the limit')")
        if self.prefix == "H":
            lines.append(f"if len({var}) > LIST_LIMIT: raise LocalMisuse('{label} has too many items')")
        return lines, f"len({var}{'' if self.prefix == 'H' else '_e'})", f"{var}_e"

    def scope(self, var: str) -> dict[str, Any]:
        return {f"{var}_table": self.table}
