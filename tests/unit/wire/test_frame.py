"""Frames (D2): the rules that go across fields. Layout and flags are the golden vectors' business."""

import pytest

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import Frame, FrameFlag, MsgType

V2, CONTINUED, FINAL = FrameFlag.FRAG_V2, FrameFlag.CONTINUED, FrameFlag.FINAL


def frame(flags: int = 0, payload: bytes = b"12345678", **fragment: int) -> Frame:
    places = {"frag_offset": fragment["at"], "frag_total_len": fragment["of"]} if fragment else {}
    return Frame(MsgType.RESPONSE, flags, 1, 2, 3, payload, **places)


@pytest.mark.parametrize(
    "good",
    [
        frame(),
        frame(CONTINUED),
        frame(FINAL),
        frame(FrameFlag.COMPRESSED),
        frame(V2, at=0, of=8),
        frame(V2 | CONTINUED, at=0, of=9),
        frame(V2 | CONTINUED, at=5, of=90),
        frame(V2 | FINAL, at=5, of=13),
        frame(V2 | FINAL, at=0, of=8),
    ],
)
def test_good_frames(good):
    assert Frame.unpack(good.pack()) == good
    assert good.fragmented == bool(good.flags & (CONTINUED | FINAL))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (frame(CONTINUED | FINAL), "both"),
        (frame(V2, at=1, of=9), "whole"),
        (frame(V2, at=0, of=9), "whole"),
        (frame(V2, at=0, of=7), "past"),
        (frame(V2 | CONTINUED, at=0, of=8), "FINAL"),
        (frame(V2 | FINAL, at=0, of=9), "FINAL"),
        (frame(V2 | FINAL, at=6, of=13), "past"),
        (frame(V2), "FRAG_V2"),
        (frame(at=0, of=8), "no place"),
        (frame(FrameFlag.SIGNED), "signature"),
        (frame().replace(msg_type=5), "msg_type"),
        (frame().replace(version=1), "version"),
        (frame(0x20), "flags"),
    ],
)
def test_bad_frames(bad, why):
    with pytest.raises(LocalMisuse, match=why):
        bad.pack()


@pytest.mark.parametrize("flag", [CONTINUED, FINAL, FrameFlag.COMPRESSED])
def test_quic_frames_are_whole_and_plain(flag):
    with pytest.raises(WireError, match="QUIC"):
        Frame.unpack(frame(flag).pack(), "quic")
    with pytest.raises(WireError, match="QUIC"):
        Frame.unpack(frame(V2, at=0, of=8).pack(), transport="quic")
    assert Frame.unpack(frame().pack(), "quic") == frame()
