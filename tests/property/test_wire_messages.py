"""Every message: there and back, any bytes, any cut. A type that is added is tested without a word here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property.wire_strategies import values_of

from fabricbios.errors import WireError
from fabricbios.wire import kinds
from fabricbios.wire.json_form import from_json, to_json
from fabricbios.wire.registry import TABLES, TYPES

ALL = sorted(TYPES)
TLVS = sorted({t for table in TABLES for t in table.by_tag.values()}, key=lambda t: (t.TAG, t.__name__))
NOISE = st.binary(max_size=160)
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.sampled_from((0, 1, 2, 8, 127, 128, 255))), max_size=3)
OPEN_ENDED = (kinds.Rest, kinds.Padding)


def may_end_early(cls) -> bool:
    """True if a valid message of this class can be another valid one, cut."""
    last = list(cls.ITEMS.values())[-1:]
    unbounded = [f for f in last if isinstance(f.kind, OPEN_ENDED) or getattr(f.kind, "prefix", None) == ""]
    exact = [f for f in last if isinstance(f.kind, (kinds.Nested, kinds.Counted))]
    return any(f.tail for f in cls.ITEMS.values()) or bool(unbounded and not exact)


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_there_and_back_in_bytes_and_in_json(name, data):
    cls = TYPES[name]
    value = data.draw(values_of(cls))
    packed = value.pack()
    assert cls.unpack(packed) == value
    assert cls.unpack(memoryview(packed)) == value
    assert from_json(cls, to_json(value)) == value
    assert_cuts_are_refused(cls, packed)


def assert_cuts_are_refused(cls, packed):
    """A message cut short, anywhere, is none, unless its end is open."""
    if may_end_early(cls):
        return
    for at in range(0, len(packed), 1 + len(packed) // 40):
        with pytest.raises(WireError) as caught:
            cls.unpack(packed[:at])
        assert 0 <= caught.value.offset <= at


@pytest.mark.parametrize("tlv", TLVS, ids=lambda t: t.__name__)
@given(data=st.data())
def test_tlv_values_too(tlv, data):
    value = data.draw(values_of(tlv))
    assert tlv.unpack(value.pack()) == value


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_any_bytes_decode_or_raise_wire_error(name, data):
    """Valid messages with a few bytes changed get deeper than noise does; what decodes can be sent again."""
    cls = TYPES[name]
    raw = bytearray(
        data.draw(values_of(cls)).pack() if data.draw(st.booleans()) else data.draw(st.binary(max_size=160))
    )
    for _ in range(data.draw(st.integers(0, 3)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from((0, 1, 2, 8, 127, 128, 255)))
    value, error = decoded(cls, raw)
    if error is not None:
        assert 0 <= error.offset <= len(raw)
    else:
        assert cls.unpack(value.pack()) == value


def decoded(cls, raw):
    """Return (value, None) or (None, the WireError)."""
    try:
        return cls.unpack(raw), None
    except WireError as error:
        return None, error
