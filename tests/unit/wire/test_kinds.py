"""Each kind of field at its edges: the last that is taken, the first that is refused, and where the error stands."""

import pytest

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire.description import Struct
from fabricbios.wire.fields import (
    I32,
    U8,
    U16,
    U32,
    U64,
    U128,
    When,
    bytes16,
    bytes_,
    choice,
    counted,
    fixed,
    length_of,
    list8_of,
    list_of,
    list_of_bytes,
    magic,
    nested,
    reserved,
    rest,
    str16,
    text,
    text32,
    tlv_list,
    tlv_seq,
    tlvs_in_bytes,
    u8,
    u16,
    u32,
    u32s,
    zeros,
)  # fmt: skip
from fabricbios.wire.rules import ANY, LIST_LIMIT
from fabricbios.wire.tlv import RawTlv, Tlv, TlvTable

FOUR = ANY._replace(bytes=4, block_size=2)


class Pair(Struct):
    one: int = u8()
    two: int = u16()


class Single(Struct):
    one: int = u8()


class Known(Tlv, tag=1, name="KNOWN"):
    known: int = u8()


TABLE = TlvTable("table", (Known,))


class WithBytes(Struct):
    head: int = u8()
    value: bytes = bytes_()


class WithBytes16(Struct):
    value: bytes = bytes16()


class WithText(Struct):
    value: str = text32()


class WithText16(Struct):
    value: str = str16()


class WithRestText(Struct):
    head: int = u8()
    value: str = text()


class WithRest(Struct):
    head: int = u8()
    value: bytes = rest()


class WithZeros(Struct):
    head: int = u8()
    value: int = zeros()


class WithCounted(Struct):
    size: int = u8()
    value: bytes = counted("size")


class WithBlocks(Struct):
    size: int = u8()
    value: bytes = counted("size", blocks=True)


class WithHidden(Struct):
    _size = length_of("value")
    value: bytes = counted("_size")


class WithList(Struct):
    value: tuple[int, ...] = list_of(U16)


class WithPairs(Struct):
    value: tuple[Pair, ...] = list_of(Pair)


class WithList8(Struct):
    value: tuple[int, ...] = list8_of(U16)


class WithBytesList(Struct):
    value: tuple[bytes, ...] = list_of_bytes()
    end: int = u8()


class WithNested(Struct):
    value: Pair = nested(Pair)
    end: int = u8()


class WithNestedBy(Struct):
    _size = length_of("value")
    value: Pair = nested(Pair, by="_size")


class WithChoice(Struct):
    which: int = u8()
    value: Struct = choice("which", {1: Single, 2: Pair})


class WithTlvs(Struct):
    head: int = u8()
    value: tuple[object, ...] = tlv_seq(TABLE)


class WithTlvBytes(Struct):
    value: tuple[object, ...] = tlvs_in_bytes(TABLE)
    end: int = u8()


class WithTlvList(Struct):
    value: tuple[object, ...] = tlv_list(TABLE)
    end: int = u8()


class EndsInBytesList(Struct):
    value: tuple[bytes, ...] = list_of_bytes()


class EndsInTlvList(Struct):
    value: tuple[object, ...] = tlv_list(TABLE)


class WithArray(Struct):
    _magic = magic(b"MG")
    _reserved = reserved(2)
    value: tuple[int, ...] = u32s(2)
    key: bytes = fixed(3)
    number: int = u32(low=2, high=5)


ARRAY = WithArray((1, 2), b"key", 3)
TAKEN = [
    (WithBytes(7, b"abcd"), "07 00000004 61626364"),
    (WithBytes(7, b""), "07 00000000"),
    (WithBytes16(b"abcde"), "0005 6162636465"),
    (WithText("äb"), "00000003 c3a462"),
    (WithText("äbc"), "00000004 c3a46263"),
    (EndsInBytesList((b"a", b"")), "0002 0000000161 00000000"),
    (EndsInTlvList((RawTlv(3, b""), RawTlv(3, b""))), "0002 00030000 00030000"),
    (WithText16("äbcde"), "0006 c3a462636465"),
    (WithRestText(7, "ä"), "07 c3a4"),
    (WithRest(7, b"ab"), "07 6162"),
    (WithZeros(7, 4), "07 00000000"),
    (WithZeros(7, 0), "07"),
    (WithCounted(2, b"ab"), "02 6162"),
    (WithBlocks(2, b"abcd"), "02 61626364"),
    (WithHidden(b"ab"), "00000002 6162"),
    (WithList((1, 2)), "0002 0001 0002"),
    (WithPairs((Pair(1, 2), Pair(3, 4))), "0002 010002 030004"),
    (WithList8((1, 2)), "02 0001 0002"),
    (WithBytesList((b"a", b"bcde", b""), 9), "0003 0000000161 0000000462636465 00000000 09"),
    (WithBytesList((), 9), "0000 09"),
    (WithNested(Pair(1, 2), 9), "010002 09"),
    (WithNestedBy(Pair(1, 2)), "00000003 010002"),
    (WithChoice(1, Single(5)), "01 00000001 05"),
    (WithChoice(2, Pair(5, 6)), "02 00000003 050006"),
    (WithTlvs(7, (Known(3), RawTlv(2, b"xy"), RawTlv(3, b""))), "07 0001000103 000200027879 00030000"),
    (WithTlvBytes((RawTlv(3, b""),), 9), "00000004 00030000 09"),
    (WithTlvList((Known(3), RawTlv(3, b"")), 9), "0002 0001000103 00030000 09"),
    (ARRAY, "4d47 0000 00000001 00000002 6b6579 00000003"),
]


@pytest.mark.parametrize(("value", "digits"), TAKEN)
def test_there_and_back(value, digits):
    data = bytes.fromhex(digits)
    assert value.pack(FOUR) == data
    assert type(value).unpack(data, FOUR) == value


@pytest.mark.parametrize(("value", "digits"), TAKEN)
def test_every_cut_is_refused_or_ends_where_the_end_is_open(value, digits):
    data = bytes.fromhex(digits)
    for at in range(len(data)):
        try:
            shorter = type(value).unpack(data[:at], FOUR)
        except WireError as error:
            place = error.offset
            assert place <= at, (at, place)
        else:
            assert shorter.pack(FOUR) == data[:at]
            assert isinstance(value, (WithRest, WithRestText, WithZeros, WithTlvs))


REFUSED = [
    (WithBytes, "07 00000005 6162636465", "value is over the limit", 5),
    (WithBytes, "07 00000004 616263", "value is longer than what is left", 5),
    (WithBytes16, "0003 6162", "value is longer than what is left", 2),
    (WithText, "00000005 6162636465", "value is over the limit", 4),
    (WithText, "00000003 6162c3", "value is not UTF-8", 6),
    (WithText16, "0002 61", "value is longer than what is left", 2),
    (WithRestText, "07 61ff", "value is not UTF-8", 2),
    (WithCounted, "03 6162", "value is longer than what is left", 1),
    (WithBlocks, "02 616263", "value is longer than what is left", 1),
    (WithHidden, "00000003 6162", "value is longer than what is left", 4),
    (WithHidden, "00000001 6162", "left over", 5),
    (WithList, "0002 000100", "value is longer than what is left", 2),
    (WithList, "1001" + "0001" * 4097, "value has too many items", 2),
    (WithPairs, "0002 010002 0300", "value is longer than what is left", 2),
    (WithPairs, "1001" + "010002" * 4097, "value has too many items", 2),
    (WithList8, "02 000100", "value is longer than what is left", 1),
    (WithBytesList, "0002 00000000 0000", "value is longer than what is left", 2),
    (WithBytesList, "0002 0000000461626364 0000", "ends inside WithBytesList.value", 10),
    (WithBytesList, "0001 00000005 616263646509", "value has an item over the limit", 2),
    (WithBytesList, "0001 00000002 61", "value has an item longer than what is left", 2),
    (WithBytesList, "0001 00000001 61", "ends inside WithBytesList.end", 7),
    (WithBytesList, "1001" + "00000000" * 4097 + "09", "value has too many items", 2),
    (WithNestedBy, "00000004 010002", "value is longer than what is left", 4),
    (WithNestedBy, "00000004 01000200", "value is longer than its fields", 7),
    (WithNestedBy, "00000002 010002", "ends inside Pair.two", 5),
    (WithChoice, "03 00000000", "unknown which", 5),
    (WithChoice, "01 00000002 0500", "value is longer than its fields", 6),
    (WithChoice, "01 00000002 05", "value is longer than what is left", 5),
    (WithTlvs, "07 000100020304", "KNOWN is longer than its value", 6),
    (WithTlvs, "07 0001000203", "TLV 0x0001 is longer than its buffer", 1),
    (WithTlvs, "07 00030000 000200", "truncated TLV header", 5),
    (WithTlvBytes, "00000005 0001000103 09", "value is over the limit", 4),
    (WithTlvBytes, "00000004 000300", "value is longer than what is left", 4),
    (WithTlvBytes, "00000004 00030001 61", "TLV 0x0003 is longer than its buffer", 4),
    (WithTlvList, "0003 00030000 00030000 09", "a count beyond what is left", 2),
    (WithTlvList, "1001" + "00030000" * 4097 + "09", "more than 4096 TLVs", 2),
    (WithArray, "4d58 0000 00000001 00000002 6b6579 00000003", "another magic than MG", 0),
    (WithArray, "4d47 0000 00000001 00000002 6b6579 00000001", "number is below 2", 15),
    (WithArray, "4d47 0000 00000001 00000002 6b6579 00000006", "number is above 5", 15),
]


@pytest.mark.parametrize(("cls", "digits", "words", "offset"), REFUSED)
def test_what_is_refused_says_what_and_where(cls, digits, words, offset):
    with pytest.raises(WireError, match=words) as caught:
        cls.unpack(bytes.fromhex(digits), FOUR)
    assert caught.value.offset == offset


MISUSED = [
    (WithBytes(1, b"abcde"), "over the limit"),
    (WithText("äbcd"), "over the limit"),
    (WithZeros(1, 5), "over the limit"),
    (WithZeros(1, -1), "over the limit"),
    (WithCounted(2, b"a"), "not as long as told"),
    (WithCounted(2, b"abc"), "not as long as told"),
    (WithBlocks(2, b"abc"), "not as long as told"),
    (WithList((0,) * 4097), "too many items"),
    (WithPairs((Pair(1, 2),) * 4097), "too many items"),
    (WithPairs((Single(1),)), "Single where a Pair belongs"),
    (WithBytesList((b"abcde",), 1), "item over the limit"),
    (WithBytesList((b"",) * 4097, 1), "too many items"),
    (WithNested(Single(1), 1), "Single where a Pair belongs"),
    (WithChoice(3, Single(1)), "unknown which"),
    (WithChoice(2, Single(1)), "Single where a Pair belongs"),
    (WithTlvBytes((Known(1),), 1), "over the limit"),
    (WithTlvList((RawTlv(3, b""),) * 4097, 1), "too many items"),
    (WithTlvs(1, (RawTlv(1, b"a"),)), "cannot be sent raw"),
    (ARRAY.replace(key=b"no"), "is not 3 bytes"),
    (ARRAY.replace(value=(1, 2, 3)), "is not 8 bytes"),
    (ARRAY.replace(number=1), "below 2"),
    (ARRAY.replace(number=6), "above 5"),
    (WithList8((0,) * 256), "cannot be packed"),
]


@pytest.mark.parametrize(("value", "words"), MISUSED)
def test_what_cannot_be_sent_says_why(value, words):
    with pytest.raises(LocalMisuse, match=words):
        value.pack(FOUR)


def test_as_many_as_a_list_may_have():
    for full in (WithList((0,) * LIST_LIMIT), WithPairs((Pair(1, 2),) * LIST_LIMIT)):
        assert type(full).unpack(full.pack()) == full
    for full in (WithBytesList((b"",) * LIST_LIMIT, 9), WithTlvList((RawTlv(3, b""),) * LIST_LIMIT, 9)):
        assert type(full).unpack(full.pack()) == full


@pytest.mark.parametrize("number", [2, 5])
def test_bounds_are_inside(number):
    value = ARRAY.replace(number=number)
    assert WithArray.unpack(value.pack()) == value


def test_reserved_bytes_are_ignored_and_sent_zero():
    data = bytes.fromhex("4d47 ffff 00000001 00000002 6b6579 00000003")
    assert WithArray.unpack(data) == ARRAY
    assert ARRAY.pack()[2:4] == b"\0\0"


class Optional(Struct):
    has: int = u8()
    value: int = u8(when=When("has", 1))
    masked: int = u8(when=When("has", mask=6))


def test_what_is_absent_is_none_even_without_a_default():
    for digits, value in (("00", (0, None, None)), ("0105", (1, 5, None)), ("0406", (4, None, 6))):
        assert tuple(Optional.unpack(bytes.fromhex(digits))) == value
        assert Optional(*value).pack().hex() == digits
    for missing, name in ((Optional(1, None, None), "value"), (Optional(2, None, None), "masked")):
        with pytest.raises(LocalMisuse, match=f"{name} is missing"):
            missing.pack()
    for out_of_place in (Optional(0, 1, None), Optional(1, 1, 1)):
        with pytest.raises(LocalMisuse, match="no place"):
            out_of_place.pack()


def test_numbers_know_their_width():
    """What the C header, the dissector and the property tests ask of a kind."""
    found = [(k.text, k.size, k.bits, k.signed) for k in (U8, U16, U32, U64, I32, U128)]
    assert found == [
        ("u8", 1, 8, False), ("u16", 2, 16, False), ("u32", 4, 32, False), ("u64", 8, 64, False),
        ("i32", 4, 32, True), ("u128", 16, 128, False),
    ]  # fmt: skip
