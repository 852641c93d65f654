"""Values: how they are built, compared, changed and refused."""

import copy
import pickle

import pytest
from vectors.golden import FAMILIES, family

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import (
    CapRequestParams,
    FbmuRead,
    Filter,
    LeaseAllocParams,
    LeaseFreeParams,
    LeaseQueryParams,
    Message,
    PingResult,
    Read,
    Request,
    ResourceSummary,
    Solicit,
    Withdraw,
)  # fmt: skip
from fabricbios.wire.circumstances import Given
from fabricbios.wire.compiler import source_of
from fabricbios.wire.description import Struct
from fabricbios.wire.fields import u8, u16
from fabricbios.wire.registry import TYPES

SUMMARY = ResourceSummary(resource_id=1 << 127, resource_type=2, flags=1, capacity=3, available=4)


def test_positional_and_named_arguments_make_the_same_value():
    assert ResourceSummary(1 << 127, 2, 1, 3, 4) == SUMMARY
    assert SUMMARY.capacity == 3
    assert tuple(SUMMARY) == (1 << 127, 2, 1, 3, 4)


def test_defaults_and_keyword_only_fields():
    read = FbmuRead(7, 8, 9, Read(1, 2))
    assert (read.version, read.op, read.flags, read.auth_tag) == (1, 0x10, 0, bytes(16))
    with pytest.raises(TypeError):
        FbmuRead(7, 8, 9, Read(1, 2), 1)
    with pytest.raises(TypeError):
        PingResult()


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        SUMMARY.capacity = 9
    with pytest.raises(AttributeError):
        SUMMARY.something_else = 9


def test_values_equal_only_their_own_type():
    assert LeaseFreeParams(1) != LeaseQueryParams(1)
    assert LeaseFreeParams(1) == LeaseFreeParams(1)
    assert len({LeaseFreeParams(1), LeaseFreeParams(1), LeaseQueryParams(1)}) == 2
    assert tuple(SUMMARY) != SUMMARY


def test_replace():
    assert SUMMARY.replace(flags=2).flags == 2
    assert SUMMARY.flags == 1
    assert LeaseFreeParams(1).replace(lease_id=2) == LeaseFreeParams(2)
    assert SUMMARY.replace() == SUMMARY
    with pytest.raises(LocalMisuse, match="colour"):
        SUMMARY.replace(colour=1)


def test_repr_names_the_fields():
    assert repr(LeaseFreeParams(5)) == "LeaseFreeParams(lease_id=5)"


def test_copies_and_pickles_are_equal():
    assert copy.deepcopy(SUMMARY) == SUMMARY
    assert pickle.loads(pickle.dumps(SUMMARY)) == SUMMARY


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_decodes(make):
    assert ResourceSummary.unpack(make(SUMMARY.pack())) == SUMMARY


def test_what_is_no_buffer_is_misuse():
    with pytest.raises(LocalMisuse):
        ResourceSummary.unpack("text")
    with pytest.raises(LocalMisuse):
        ResourceSummary.unpack(36)
    with pytest.raises(LocalMisuse, match="carrier pigeon"):
        ResourceSummary.unpack(SUMMARY.pack(), "carrier pigeon")


@pytest.mark.parametrize(
    "value",
    [
        SUMMARY.replace(resource_id=1 << 128),
        SUMMARY.replace(resource_id=-1),
        SUMMARY.replace(flags=4),
        SUMMARY.replace(flags=-1),
        SUMMARY.replace(capacity=1 << 64),
        SUMMARY.replace(capacity=None),
        SUMMARY.replace(capacity=1.5),
        SUMMARY.replace(capacity="1"),
        Request(op=1, token="text"),
        Request(op=1, token=None),
        Request(op=1, has_presenter=2),
        Request(op=1, has_presenter=1),
        Request(op=1, presenter_id=5),
        Request(op=1, has_presenter=1, presenter_id=5, presenter_sig=bytes(63)),
        Withdraw(1, 2, 9),
        Withdraw(1, None),
        Solicit(1, (Filter(1, 1, bytes(31)),)),
        Solicit(1, (SUMMARY,)),
        Solicit(1, (5,)),
        Solicit(1, padding=-1),
        LeaseAllocParams(1, 2, None, 5),
        CapRequestParams(1, 2, 3, None, 4),
        FbmuRead(0, 1, 1, Read(0, 1)),
        FbmuRead(1, 1, 0, Read(0, 1)),
        FbmuRead(1, 1, 1, SUMMARY),
        FbmuRead(1, 1, 1, Read(0, 1), op=0x20),
        FbmuRead(1, 1, 1, Read(0, 1), auth_tag=bytes(17)),
    ],
)
def test_what_the_wire_cannot_carry_is_misuse(value):
    with pytest.raises(LocalMisuse):
        value.pack()


@pytest.mark.parametrize(
    ("size", "offset", "name"), [(0, 0, "resource_id"), (19, 18, "flags"), (20, 20, "capacity"), (21, 20, "capacity")]
)
def test_truncation_names_the_field_and_the_place(size, offset, name):
    with pytest.raises(WireError) as caught:
        ResourceSummary.unpack(SUMMARY.pack()[:size])
    assert caught.value.offset == offset
    assert name in caught.value.reason


def test_left_over_bytes_are_an_error_but_for_a_prefix():
    packed = SUMMARY.pack() + b"more"
    with pytest.raises(WireError, match="4 bytes left over"):
        ResourceSummary.unpack(packed)
    assert ResourceSummary.unpack_prefix(packed) == (SUMMARY, 36)


def test_an_optional_tail_ends_only_between_fields():
    sizes = {8: LeaseAllocParams(1, 2), 10: LeaseAllocParams(1, 2, 3), 18: LeaseAllocParams(1, 2, 3, 4)}
    for size, value in sizes.items():
        assert len(value.pack()) == size
        assert LeaseAllocParams.unpack(value.pack()) == value
    for size in set(range(18)) - set(sizes):
        with pytest.raises(WireError):
            LeaseAllocParams.unpack(sizes[18].pack()[:size])


def test_the_old_withdraw_is_read_and_never_written():
    assert Withdraw.unpack(bytes(15) + b"\7") == Withdraw(7, 0, 0)
    assert len(Withdraw(7).pack()) == 25


def test_a_subclass_has_its_own_codec():
    class Base(Struct):
        one: int = u8()

    assert Base(1).pack() == b"\1"

    class Longer(Base):
        two: int = u16(default=2)

    assert Longer(1).pack() == b"\1\0\2"
    assert Base.unpack(b"\5") == Base(5)
    assert "Longer" not in Message.TYPES


def test_a_value_may_be_older_than_its_codec():
    """As one that comes out of a pickle is: nothing of its class has been compiled when it is packed."""

    class Fresh(Struct):
        one: int = u8()

    assert tuple.__new__(Fresh, (7,)).pack() == b"\7"

    class Other(Struct):
        one: int = u8()

    assert Other.unpack_prefix(b"\7x") == (Other(7), 1)


def structs_in(value):
    """Yield a value and all the structs in it."""
    if isinstance(value, Struct):
        yield value
    if isinstance(value, tuple):
        for part in value:
            yield from structs_in(part)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_valid_draws_no_complaint(name):
    for case in family(name)["cases"]:
        if case["type"] in TYPES:
            rules = Given.of(case.get("given", {})).rules(TYPES[case["type"]])
            value = TYPES[case["type"]].unpack(bytes.fromhex(case["hex"]), rules)
            assert {part.complaint(rules) for part in structs_in(value)} == {""}


def test_the_compiled_text_can_be_read():
    text = source_of(LeaseFreeParams)
    assert "def decode(b, at, end, rules):" in text
    assert "def encode(v, rules):" in text
