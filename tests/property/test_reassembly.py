"""Cutting a message anywhere, and any order of arrival, changes nothing; what overlaps is refused (D2)."""

import zlib
from itertools import pairwise

from discovery_rig import ASKER, at, frame, rng, store
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricbios.core.reassembly import Reassembler
from fabricbios.core.relay import Relay
from fabricbios.errors import WireError
from fabricbios.wire.fragmentation import cut, inflate
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.proof import verify_entry

PAYLOADS = st.binary(min_size=2, max_size=6000)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """A payload and its FRAG_V2 fragments, cut anywhere, in any order."""
    payload = draw(PAYLOADS)
    inner = draw(st.sets(st.integers(1, len(payload) - 1), min_size=1, max_size=8))
    spans = pairwise([0, *sorted(inner), len(payload)])
    return payload, draw(st.permutations([piece(payload, a, b) for a, b in spans]))


def piece(payload: bytes, start: int, end: int) -> Frame:
    flag = FrameFlag.FINAL if end == len(payload) else FrameFlag.CONTINUED
    return frame(
        MsgType.ANNOUNCE, payload[start:end], flags=FrameFlag.FRAG_V2 | flag, frag_offset=start,
        frag_total_len=len(payload),
    )  # fmt: skip


@given(messages())
def test_cutting_and_order_change_nothing(message: tuple[bytes, list[Frame]]) -> None:
    payload, frames = message
    table = Reassembler()
    results = [table.add(f, ASKER, at()) for f in frames]
    assert results[:-1] == [None] * (len(frames) - 1)
    whole = results[-1]
    assert whole is not None
    assert b"".join(f.payload for f in whole) == payload
    assert (len(table), table.held) == (0, 0)


@given(messages(), st.data())
def test_any_overlap_is_refused(message: tuple[bytes, list[Frame]], data: st.DataObject) -> None:
    payload, frames = message
    held = frames[:-1]
    start = data.draw(st.sampled_from([f.frag_offset for f in held]))
    end = data.draw(st.integers(start + 1, len(payload)))
    table = Reassembler()
    for f in held:
        table.add(f, ASKER, at())
    try:
        table.add(piece(payload, start, end), ASKER, at())
    except WireError:
        assert (len(table), table.held) == (0, 0)
    else:
        raise AssertionError("an overlap was taken")


@given(PAYLOADS, st.booleans(), st.booleans())
def test_what_we_cut_comes_together(payload: bytes, frag_v2: bool, compressed: bool) -> None:
    body = zlib.compress(payload) if compressed else payload
    frames = cut(frame(MsgType.RESPONSE, body, flags=16 if compressed else 0), frag_v2=frag_v2)
    assert all(len(f.pack("udp")) <= 1400 for f in frames)
    table = Reassembler()
    whole = (frames[0],) if len(frames) == 1 else [table.add(f, ASKER, at()) for f in frames][-1]
    assert whole is not None
    body = b"".join(f.payload for f in whole)
    assert (inflate(body) if compressed else body) == payload


@given(st.lists(st.binary(max_size=1500), max_size=20))
@settings(max_examples=50)
def test_a_relay_takes_any_datagrams(datagrams: list[bytes]) -> None:
    relay = Relay(1, store(), rng=rng())
    for i, data in enumerate(datagrams):
        relay.receive(data, ASKER, at(i))
        relay.receive(b"FBIO\0" + data, ASKER, at(i))
        assert sum(len(d) for d, _ in relay.datagrams_to_send(at(i))) <= 2 * len(data) + 5
    relay.handle_timer(at(100))
    assert len(relay) == 0


@given(st.binary(max_size=700))
def test_any_entry_is_verified_or_a_wire_error(entry: bytes) -> None:
    try:
        assert not verify_entry(entry).proven
    except WireError:
        return
