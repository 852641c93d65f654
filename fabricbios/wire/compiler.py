"""Turn a description into Python: decoder, encoder and constructor of one struct.

Each is written out as source, straight-line and without dispatch by kind: runs of fixed-size fields
become one `struct.Struct` call, checks become plain comparisons. That is what makes a declarative
codec as quick as one written by hand; `source_of` shows the text. A struct is compiled when it is
first used, so importing the protocol costs only its class bodies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire.fields import REQUIRED, Field
from fabricbios.wire.kinds import PREFIX_SIZE, FixedKind, Magic, Variable
from fabricbios.wire.rules import LIST_LIMIT, Rules

if TYPE_CHECKING:
    from fabricbios.wire.description import Struct

INDENT = "    "


class Codec(NamedTuple):
    """What a description compiles to."""

    decode: Callable[[bytes, int, int, Rules], tuple[Any, int]]
    encode: Callable[[Any, Rules], bytes]
    construct: Callable[..., Any]
    source: str


class _Text:
    """Source under construction, with the names that it refers to."""

    def __init__(self, cls: type[Struct]) -> None:
        self.cls = cls
        self.lines: list[str] = []
        self.depth = 1
        self.scope: dict[str, Any] = {
            "WireError": WireError, "LocalMisuse": LocalMisuse, "LIST_LIMIT": LIST_LIMIT,
            "new": tuple.__new__, "cls": cls, "short": short,
        }  # fmt: skip

    def add(self, *lines: str) -> None:
        self.lines += [INDENT * self.depth + line for line in lines]

    def name(self, stem: str, value: Any) -> str:
        """Bind `value` to a new global of the text and return its name."""
        name = f"{stem}{len(self.scope)}"
        self.scope[name] = value
        return name

    def function(self, name: str, parameters: str) -> tuple[Callable[..., Any], str]:
        """Return the function that the lines are the body of, and its source."""
        source = "\n".join([f"def {name}({parameters}):", *self.lines, ""])
        exec(compile(source, f"<{self.cls.__name__}.{name}>", "exec"), self.scope)
        made: Callable[..., Any] = self.scope[name]
        return made, source


def short(at: int, end: int, places: tuple[tuple[int, str], ...]) -> WireError:
    """Return the error of a buffer that ends inside a run of fields; `places` are their offsets and labels."""
    offset, label = next((p for p in reversed(places) if p[0] <= end - at), places[0])
    return WireError(f"truncated: ends inside {label}", at + offset)


def _groups(cls: type[Struct]) -> Iterator[tuple[Any, list[tuple[str, Field]]]]:
    """Yield the items of `cls` in runs with the same condition of presence."""
    for when, items in groupby(cls.ITEMS.items(), key=lambda item: item[1].when):
        yield when, list(items)


def _judge(var: str, label: str, field: Field, text: _Text, error: str) -> list[str]:
    """Return lines that refuse values outside the field's table, mask or bounds."""
    lines = []
    if len(field.allowed) == 1:
        lines.append(f"if {var} != {field.allowed[0]}: {error.format(f'{label} has an unknown value')}")
    elif field.allowed:
        ok = text.name("ok", frozenset(field.allowed))
        lines.append(f"if {var} not in {ok}: {error.format(f'{label} has an unknown value')}")
    if field.mask is not None:
        lines.append(f"if {var} & {~field.mask}: {error.format(f'{label} has an unknown bit')}")
    if field.low is not None:
        lines.append(f"if {var} < {field.low}: {error.format(f'{label} is below {field.low}')}")
    if field.high is not None:
        lines.append(f"if {var} > {field.high}: {error.format(f'{label} is above {field.high}')}")
    return lines


def _complains(cls: type[Struct]) -> bool:
    """True if `cls` has a judgement across fields of its own."""
    owner = next(c for c in cls.__mro__ if "complaint" in vars(c))
    return owner.__name__ != "Struct"


class _Run:
    """Neighbouring fixed-size pieces that share one struct."""

    def __init__(self) -> None:
        self.codes, self.size = ">", 0
        self.places: list[tuple[int, str]] = []
        self.names: list[str] = []
        self.after: list[Callable[[str], list[str]]] = []
        self.values: list[str] = []

    def put(self, codes: str, size: int, label: str) -> int:
        """Append a piece and return its offset."""
        offset = self.size
        self.codes += codes
        self.size += size
        self.places.append((offset, label))
        return offset


class _Decoding:
    """Writes the decoder of one struct."""

    def __init__(self, cls: type[Struct]) -> None:
        self.cls, self.text, self.run = cls, _Text(cls), _Run()

    def function(self) -> tuple[Callable[..., Any], str]:
        self._open()
        for when, items in _groups(self.cls):
            if when is None:
                self._items(items)
            else:
                self._optional(when.condition, items)
        self._flush()
        self._make({})
        return self.text.function("decode", "b, at, end, rules")

    def _open(self) -> None:
        if _complains(self.cls) or self.cls.LIMIT:
            self.text.add("start = at")

    def _optional(self, condition: str, items: list[tuple[str, Field]]) -> None:
        self._flush()
        self.text.add(f"if {condition}:")
        self.text.depth += 1
        self._items(items)
        self._flush()
        self.text.depth -= 1
        self.text.add("else:", *[f"{INDENT}f_{n} = {self._default(n, f)}" for n, f in items])

    def _default(self, name: str, field: Field) -> str:
        if field.default is REQUIRED or field.default is None:
            return "None"
        return self.text.name("default", field.default)

    def _items(self, items: list[tuple[str, Field]]) -> None:
        for name, field in items:
            if field.tail:
                self._stop_before(name)
            if isinstance(field.kind, FixedKind):
                self._fixed(name, field, field.kind)
            else:
                assert isinstance(field.kind, Variable)
                self._variable(name, field.kind)

    def _stop_before(self, name: str) -> None:
        """The message may end here; the rest has its defaults."""
        self._flush()
        names = list(self.cls.FIELDS)
        absent = {n: self._default(n, self.cls.FIELDS[n]) for n in names[names.index(name) :]}
        self.text.add("if at == end:")
        self.text.depth += 1
        self._make(absent)
        self.text.depth -= 1

    def _fixed(self, name: str, field: Field, kind: FixedKind) -> None:
        var, label = f"f_{name}", self._label(name)
        offset = self.run.put(kind.codes, kind.size, label)
        self.run.names += kind.names(var)

        def after(where: str) -> list[str]:
            error = f"raise WireError('{{}}', {where}{offset})".replace(" + 0)", ")")
            join = [f"{var} = {kind.join(var)}"] if kind.join(var) else []
            if isinstance(kind, Magic):
                return [f"if {var} != {kind.value!r}: {error.format(f'another magic than {kind.value.decode()}')}"]
            return join + _judge(var, label, field, self.text, error)

        self.run.after.append(after)

    def _variable(self, name: str, kind: Variable) -> None:
        var, label = f"f_{name}", self._label(name)
        if kind.prefix:
            self.run.put(kind.prefix, PREFIX_SIZE[kind.prefix], label)
            self.run.names.append(f"{var}_n")
        self._flush()
        self.text.scope.update(kind.scope(var))
        self.text.add(*kind.read(var, label))

    def _flush(self) -> None:
        run, self.run = self.run, _Run()
        if not run.size:
            return
        places = self.text.name("places", tuple(run.places))
        self.text.add(f"if end - at < {run.size}: raise short(at, end, {places})")
        if run.codes == ">B" and run.names:
            self.text.add(f"{run.names[0]} = b[at]")
        elif run.names:
            unpack = self.text.name("unpack", struct.Struct(run.codes).unpack_from)
            self.text.add(f"{', '.join(run.names)}, = {unpack}(b, at)")
        self.text.add(f"at += {run.size}")
        for after in run.after:
            self.text.add(*after(f"at - {run.size} + "))

    def _make(self, absent: dict[str, str]) -> None:
        values = "".join(f"{absent.get(n, f'f_{n}')}, " for n in self.cls.FIELDS)
        if self.cls.LIMIT:
            what = f"{self.cls.__name__} is over the size limit"
            self.text.add(f"if at - start > rules.{self.cls.LIMIT}: raise WireError('{what}', start)")
        if not _complains(self.cls):
            self.text.add(f"return new(cls, ({values})), at")
            return
        self.text.add(f"v = new(cls, ({values}))", "why = v.complaint(rules)")
        self.text.add("if why: raise WireError(why, start)", "return v, at")

    def _label(self, name: str) -> str:
        return f"{self.cls.__name__}.{name.strip('_')}"


class _Encoding:
    """Writes the encoder of one struct: checks first, then one join of packed runs and byte strings.

    The first run begins with what was `put` there before.
    """

    def __init__(self, cls: type[Struct]) -> None:
        self.cls, self.text, self.run = cls, _Text(cls), _Run()
        self.parts: list[str] = []
        self.sections = 0

    def put(self, codes: str, *values: int) -> None:
        """Begin with these numbers."""
        self.run.put(codes, struct.calcsize(">" + codes), "header")
        self.run.values += map(str, values)

    def function(self) -> tuple[Callable[..., Any], str]:
        names = "".join(f"f_{n}, " for n in self.cls.FIELDS)
        if names:
            self.text.add(f"{names} = v")
        if _complains(self.cls):
            self.text.add("why = v.complaint(rules)", "if why: raise LocalMisuse(why)")
        for when, items in _groups(self.cls):
            if when is None:
                self._items(items)
            else:
                self._optional(when.condition, items)
        self._finish()
        return self.text.function("encode", "v, rules")

    def _finish(self) -> None:
        self._flush()
        if not self.cls.LIMIT:
            self.text.add(f"return {self._joined()}")
            return
        self.text.add(f"out = {self._joined()}")
        what = f"{self.cls.__name__} is over the size limit"
        self.text.add(f"if len(out) > rules.{self.cls.LIMIT}: raise LocalMisuse('{what}')", "return out")

    def _joined(self) -> str:
        if len(self.parts) == 1 and self.parts[0].startswith("pack"):
            return self.parts[0]
        return f"b''.join(({''.join(p + ', ' for p in self.parts)}))"

    def _optional(self, condition: str, items: list[tuple[str, Field]]) -> None:
        self._flush()
        outer, self.parts = self.parts, []
        self.sections += 1
        section = f"section{self.sections}"
        self.text.add(f"if {condition}:")
        self.text.depth += 1
        for name, _ in items:
            self.text.add(f"if f_{name} is None: raise LocalMisuse('{self._label(name)} is missing')")
        self._items(items)
        self._flush()
        self.text.add(f"{section} = {self._joined()}")
        self.text.depth -= 1
        self.text.add("else:")
        for name, _ in items:
            self.text.add(
                f"{INDENT}if f_{name} is not None: raise LocalMisuse('{self._label(name)} has no place here')"
            )
        self.text.add(f"{INDENT}{section} = b''")
        self.parts = [*outer, section]

    def _items(self, items: list[tuple[str, Field]]) -> None:
        for name, field in items:
            if field.tail and field.default is None:
                self._stop_before(name)
            if isinstance(field.kind, FixedKind):
                self._fixed(name, field, field.kind)
            else:
                assert isinstance(field.kind, Variable)
                self._variable(name, field.kind)

    def _stop_before(self, name: str) -> None:
        """None here ends the message, and all that follows must be absent too."""
        self._flush()
        names = list(self.cls.FIELDS)
        later = names[names.index(name) + 1 :]
        self.text.add(f"if f_{name} is None:")
        for other in later:
            self.text.add(f"{INDENT}if f_{other}: raise LocalMisuse('{self._label(other)} has no place here')")
        self.text.add(f"{INDENT}return {self._joined()}")

    def _fixed(self, name: str, field: Field, kind: FixedKind) -> None:
        var, label = f"f_{name}", self._label(name)
        self.text.add(*_judge(var, label, field, self.text, "raise LocalMisuse('{}')"))
        if kind.guard(var):
            self.text.add(f"if {kind.guard(var)}: raise LocalMisuse('{label} is not {kind.size} bytes')")
        self.run.put(kind.codes, kind.size, label)
        self.run.values += kind.split(var)

    def _variable(self, name: str, kind: Variable) -> None:
        var = f"f_{name}"
        self.text.scope.update(kind.scope(var))
        lines, prefix, body = kind.write(var, self._label(name))
        self.text.add(*lines)
        if kind.prefix:
            self.run.put(kind.prefix, PREFIX_SIZE[kind.prefix], name)
            self.run.values.append(prefix)
        self._flush()
        self.parts.append(body)

    def _flush(self) -> None:
        run, self.run = self.run, _Run()
        if run.size:
            pack = self.text.name("pack", struct.Struct(run.codes).pack)
            self.parts.append(f"{pack}({', '.join(run.values)})")

    def _label(self, name: str) -> str:
        return f"{self.cls.__name__}.{name.strip('_')}"


def _constructor(cls: type[Struct]) -> tuple[Callable[..., Any], str]:
    """Write `__new__` with the fields as parameters, keyword-only ones last."""
    text = _Text(cls)
    places: list[str] = []
    keywords: list[str] = []
    for name, field in cls.FIELDS.items():
        default = "" if field.default is REQUIRED else f"={text.name('default', field.default)}"
        (keywords if field.kw_only else places).append(f"{name}{default}")
    star = ["*", *keywords] if keywords else []
    text.add(f"return new(_cls, ({''.join(n + ', ' for n in cls.FIELDS)}))")
    return text.function("__new__", ", ".join(["_cls", *places, *star]))


def codec(cls: type[Struct]) -> Codec:
    """Compile `cls` if that was not done yet, put the results into it, and return them."""
    made: Codec | None = vars(cls).get("_codec")
    if made is not None:
        return made
    (decode, *read), (encode, *write), (construct, *build) = (
        _Decoding(cls).function(), _Encoding(cls).function(), _constructor(cls),
    )  # fmt: skip
    made = Codec(decode, encode, construct, "\n".join([*read, *write, *build]))
    cls._codec = made  # type: ignore[attr-defined]
    cls._decode = staticmethod(made.decode)  # type: ignore[method-assign, assignment]
    cls._encode = staticmethod(made.encode)  # type: ignore[method-assign, assignment]
    cls.__new__ = made.construct  # type: ignore[method-assign]
    return made


def tagged_encoder(cls: type[Struct], codes: str, tag: int) -> Callable[[Any, Rules], bytes]:
    """Return the encoder of a TLV with its header: `codes` are struct's, of the tag and of the length. A value that is
    always as long is packed together with its header."""
    if all(isinstance(f.kind, FixedKind) and not f.when and not f.tail for f in cls.ITEMS.values()) and not cls.LIMIT:
        whole = _Encoding(cls)
        whole.put(codes, tag, cls.least())
        return whole.function()[0]
    header, encode = struct.Struct(">" + codes).pack, codec(cls).encode

    def tagged(value: Any, rules: Rules) -> bytes:
        body = encode(value, rules)
        return header(tag, len(body)) + body

    return tagged


def source_of(cls: type[Struct]) -> str:
    """Return the Python text that `cls` compiles to, for people who wonder."""
    return codec(cls).source
