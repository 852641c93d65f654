import zlib

import pytest
from discovery_rig import frame, key, raw

from fabricbios.errors import WireError
from fabricbios.wire.fragmentation import Assembly, cut, inflate, peek
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.seal import verify_frame

PAYLOAD = bytes(range(256)) * 20


def pieces(*spans: tuple[int, int], total: int = 300, **fields: int) -> list[Frame]:
    """Return FRAG_V2 fragments for these spans of a payload of `total` bytes."""
    found = []
    for start, end in spans:
        flags = FrameFlag.FRAG_V2 | (FrameFlag.FINAL if end == total else FrameFlag.CONTINUED) | fields.get("flags", 0)
        rest = {k: v for k, v in fields.items() if k != "flags"}
        offsets = {"frag_offset": start, "frag_total_len": total}
        found.append(frame(MsgType.RESPONSE, PAYLOAD[start:end], flags=flags, **offsets, **rest))
    return found


def together(frames: list[Frame]) -> bytes | None:
    assembly = Assembly(frames[0])
    return assembly.payload() if [assembly.add(f) for f in frames][-1] else None


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("frag_v2", [False, True])
def test_cutting_fits_the_datagram_and_comes_together(frag_v2: bool, signed: bool) -> None:
    private = key(1) if signed else None
    frames = cut(frame(MsgType.RESPONSE, PAYLOAD), frag_v2=frag_v2, private_key=private)
    sizes = [len(f.pack("udp")) for f in frames]
    assert max(sizes) == 1400
    assert all(size == 1400 for size in sizes[:-1])
    assert together(frames) == PAYLOAD
    assert private is None or all(verify_frame(f, raw(private)) for f in frames)


def test_what_fits_stays_whole() -> None:
    (whole,) = cut(frame(MsgType.RESPONSE, bytes(1356)), frag_v2=True)
    assert not whole.fragmented
    assert len(cut(frame(MsgType.RESPONSE, bytes(1357)), frag_v2=True)) == 2


def test_any_order_of_offsets_comes_together() -> None:
    assert together(pieces((200, 300), (0, 100), (100, 200))) == PAYLOAD[:300]


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 100), (0, 100)],
        [(0, 100), (100, 200), (150, 250)],
        [(200, 300), (0, 100), (100, 201)],
        [(0, 100), (99, 200)],
        [(0, 200), (50, 60)],
        [(50, 60), (0, 200)],
        [(100, 300), (0, 101)],
    ],
)
def test_overlaps_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(WireError, match="overlap"):
        together(pieces(*spans))


@pytest.mark.parametrize(
    "change", [{"nonce": 5}, {"msg_type": MsgType.ANNOUNCE}, {"flags": 0x1A}, {"frag_total_len": 301}]
)
def test_fragments_must_agree(change: dict[str, int]) -> None:
    first, second = pieces((0, 100), (100, 200))
    with pytest.raises(WireError, match="disagree"):
        together([first, second.replace(**change)])


def test_empty_fragments_are_refused() -> None:
    with pytest.raises(WireError, match="empty"):
        together(pieces((0, 100), (100, 100)))
    with pytest.raises(WireError, match="empty"):
        together([frame(MsgType.RESPONSE, b"", flags=FrameFlag.CONTINUED)])


def test_legacy_ends_with_final_and_needs_a_beginning() -> None:
    first = frame(MsgType.RESPONSE, b"ab", flags=FrameFlag.CONTINUED)
    last = frame(MsgType.RESPONSE, b"c", flags=FrameFlag.FINAL)
    assert together([first, first, last]) == b"ababc"
    with pytest.raises(WireError, match="beginning"):
        together([last])


def test_a_message_is_bounded_in_bytes_and_in_fragments() -> None:
    with pytest.raises(WireError):
        together(pieces((0, 100), total=(1 << 20) + 1))
    with pytest.raises(WireError, match="1024"):
        together([frame(MsgType.RESPONSE, b"a", flags=FrameFlag.CONTINUED)] * 1025)


def test_inflating() -> None:
    assert inflate(zlib.compress(PAYLOAD)) == PAYLOAD
    assert len(inflate(zlib.compress(bytes(262_144)))) == 262_144
    for bad in (
        zlib.compress(bytes(262_145)),
        zlib.compress(PAYLOAD)[:-1],
        zlib.compress(PAYLOAD) + b"\0",
        zlib.compress(PAYLOAD) * 2,
        zlib.compress(PAYLOAD)[:-1] + b"x",
        b"",
        b"no zlib",
    ):
        with pytest.raises(WireError):
            inflate(bad)


def test_an_error_of_inflating_says_where() -> None:
    whole = zlib.compress(PAYLOAD)
    for data, offset in ((whole + b"abc", len(whole)), (whole[:-1], len(whole) - 1), (b"no zlib", 0)):
        with pytest.raises(WireError) as caught:
            inflate(data)
        assert caught.value.offset == offset


def test_final_stands_at_the_end_and_nowhere_else() -> None:
    """`Frame` refuses most of these when it is read; whoever builds frames is held to the same rules."""
    first, last = pieces((0, 100), (100, 300))
    for bad in (
        first.replace(flags=FrameFlag.FRAG_V2 | FrameFlag.FINAL),
        last.replace(flags=FrameFlag.FRAG_V2 | FrameFlag.CONTINUED),
        last.replace(payload=last.payload + b"x"),
        last.replace(payload=last.payload + b"x", flags=FrameFlag.FRAG_V2 | FrameFlag.CONTINUED),
    ):
        with pytest.raises(WireError, match="past the end, or FINAL"):
            together([bad])


def test_neighbours_touch_without_overlapping() -> None:
    assembly = Assembly(pieces((0, 100))[0])
    for span, size in (((100, 200), 100), ((0, 100), 200)):
        assert not assembly.add(*pieces(span))
        assert assembly.size == size
    assert [f.frag_offset for f in assembly.frames] == [0, 100]
    assert assembly.add(*pieces((200, 300)))


def test_the_bounds_of_a_message_are_inside() -> None:
    mib = 1 << 20
    half = frame(MsgType.RESPONSE, bytes(mib // 2), flags=FrameFlag.CONTINUED)
    assembly = Assembly(half)
    assert not assembly.add(half)
    assert not assembly.add(half)
    with pytest.raises(WireError, match="more than"):
        assembly.add(half.replace(payload=b"x"))
    one = frame(MsgType.RESPONSE, b"a", flags=FrameFlag.CONTINUED)
    assert len(together([one] * 1023 + [one.replace(flags=FrameFlag.FINAL)]) or b"") == 1024
    whole = pieces((0, 100), total=mib)
    assert not Assembly(whole[0]).add(whole[0])


def test_legacy_pieces_have_no_offsets_and_may_end_empty() -> None:
    legacy = cut(frame(MsgType.RESPONSE, PAYLOAD), frag_v2=False)
    assert all(f.frag_offset is None and f.frag_total_len is None for f in legacy)
    assert [bool(f.flags & FrameFlag.FINAL) for f in legacy] == [False] * (len(legacy) - 1) + [True]
    first = frame(MsgType.RESPONSE, b"ab", flags=FrameFlag.CONTINUED)
    assert together([first, first.replace(payload=b"", flags=FrameFlag.FINAL)]) == b"ab"


@pytest.mark.parametrize(("frag_v2", "signed"), [(True, False), (False, False), (True, True), (False, True)])
def test_a_cut_ends_with_its_payload(frag_v2: bool, signed: bool) -> None:
    """No empty frame behind a payload that fills its frames to the last byte."""
    room = 1400 - 44 - 64 * signed - 8 * frag_v2
    private = key(1) if signed else None
    for size, count in ((2 * room, 2), (2 * room + 1, 3)):
        frames = cut(frame(MsgType.RESPONSE, bytes(size)), frag_v2=frag_v2, private_key=private)
        assert len(frames) == count
        assert sum(len(f.payload) for f in frames) == size
    assert len(cut(frame(MsgType.RESPONSE, bytes(1400 - 44 - 64 * signed)), frag_v2=frag_v2, private_key=private)) == 1


def test_peeking_inflates_no_more_than_asked() -> None:
    assert peek(zlib.compress(bytes(1 << 20)), 132, True) == bytes(132)
    assert peek(b"junk", 132, True) == b""
    assert peek(PAYLOAD, 4, False) == PAYLOAD[:4]
