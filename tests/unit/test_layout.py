"""Records: one table, and what is packed and read by it."""

import pytest

from fabricbios.layout import Field, Layout

PAIR = Layout(
    "pair",
    "for this test",
    (
        Field("state", "u64", ""),
        Field("name", "u8", "", 4),
        Field("small", "u32", ""),
        Field("many", "u32", "", 2),
        Field("last", "u64", ""),
    ),
)


def test_a_record_is_what_its_fields_say() -> None:
    record = bytearray(PAIR.pack(state=7, name=b"abcd", many=(1, 2)))
    PAIR.set(record, 0, "last", 9)
    assert [PAIR.get(record, 0, name) for name in PAIR.offset] == [7, b"abcd", 0, (1, 2), 9]


def test_an_excerpt_packs_what_the_record_packs() -> None:
    some = PAIR.excerpt("name", "many", "last")
    assert some.pack(b"abcd", 1, 2, 3) == PAIR.pack(name=b"abcd", many=(1, 2), last=3)


def test_an_excerpt_reads_its_fields_and_no_others() -> None:
    record = PAIR.pack(state=7, name=b"abcd", small=8, many=(1, 2), last=9)
    assert PAIR.excerpt("state", "small").unpack(record) == (7, 8)


@pytest.mark.parametrize("names", [("last", "state"), ("state", "state"), ("state", "stranger")])
def test_an_excerpt_names_fields_in_their_order(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="in that order"):
        PAIR.excerpt(*names)


@pytest.mark.parametrize(
    "fields",
    [(Field("a", "u64", ""), Field("b", "be32", "")), (Field("a", "u32", ""), Field("b", "u64", ""))],
)
def test_mixed_and_misaligned_fields_are_refused(fields: tuple[Field, ...]) -> None:
    with pytest.raises(ValueError, match=r"native and big-endian|aligned"):
        Layout("wrong", "for this test", fields)
