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
    [[(0, 100), (0, 100)], [(0, 100), (99, 200)], [(0, 200), (50, 60)], [(50, 60), (0, 200)], [(100, 300), (0, 101)]],
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


def test_peeking_inflates_no_more_than_asked() -> None:
    assert peek(zlib.compress(bytes(1 << 20)), 132, True) == bytes(132)
    assert peek(b"junk", 132, True) == b""
    assert peek(PAYLOAD, 4, False) == PAYLOAD[:4]
