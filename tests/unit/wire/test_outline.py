"""The protocol at one glance, as outline.txt has it: what is not meant to change does not change unseen.

Vectors show most slips, but not that an enum became open, a bound moved, or a default went. Who changes the
protocol changes outline.txt by hand, line by line, with the spec beside it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fabricbios.wire.description import Struct
from fabricbios.wire.fields import REQUIRED, Field
from fabricbios.wire.kinds import Nested
from fabricbios.wire.registry import structs
from fabricbios.wire.tlv import Tlv

OUTLINE = Path(__file__).parent / "outline.txt"


def outline() -> Iterator[str]:
    """Yield a line for each struct, and one for each of its items."""
    for cls in structs():
        yield cls.__name__ + "".join(f" {word}" for word in words_of_struct(cls))
        yield from (f"  {name}: {' '.join(words_of(field))}" for name, field in cls.ITEMS.items())


def words_of_struct(cls: type[Struct]) -> Iterator[str]:
    if issubclass(cls, Tlv):
        yield f"0x{cls.TAG:04x} {cls.NAME}"
    if cls.LIMIT:
        yield f"at most rules.{cls.LIMIT}"
    if cls.TRANSPORT:
        yield f"on {cls.TRANSPORT}"
    yield f"from {cls.least()} bytes"


def words_of(field: Field) -> Iterator[str]:
    yield field.kind.text
    if field.allowed:
        yield "of " + ",".join(str(int(v)) for v in field.allowed)
    if field.mask is not None:
        yield f"bits 0x{field.mask:x}"
    if field.low is not None:
        yield f"from {field.low}"
    if field.high is not None:
        yield f"to {field.high}"
    if field.when:
        yield f"if {field.when.condition}"
    if field.tail:
        yield "or the end"
    if isinstance(field.kind, Nested) and field.kind.by:
        yield f"in {field.kind.by} bytes"
    if field.default is not REQUIRED:
        yield f"default {default(field.default)}"
    if field.kw_only:
        yield "by name only"


def default(value: Any) -> str:
    """Return a default for people: an enum is its number, a key's worth of zeros their number."""
    if isinstance(value, bytes):
        return f"{len(value)} zeros" if value and not any(value) else repr(value)
    return str(int(value)) if isinstance(value, int) else repr(value)


def test_the_protocol_is_what_it_was() -> None:
    assert list(outline()) == OUTLINE.read_text().splitlines()
