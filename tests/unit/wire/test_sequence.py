"""frame_sequence: the frames of one message, all of them, of nothing else; vectors show the rest."""

import zlib

import pytest
from discovery_rig import frame, key, raw

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import sequence
from fabricbios.wire.circumstances import Given
from fabricbios.wire.fragmentation import cut
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.json_form import to_json

WHOLE = frame(MsgType.RESPONSE, bytes(range(256)) * 8)
PIECES = cut(WHOLE, frag_v2=True)


def joined(*frames: Frame) -> bytes:
    return b"".join(f.pack() for f in frames)


def fields(*frames: Frame, payload: bytes) -> dict[str, object]:
    return {"frames": [to_json(f) for f in frames], "payload": payload.hex()}


@pytest.mark.parametrize("frames", [[WHOLE], PIECES, PIECES[::-1], cut(WHOLE, frag_v2=False)])
def test_a_message_in_any_number_of_frames(frames):
    found = sequence.decode(joined(*frames), Given())
    assert found == fields(*frames, payload=WHOLE.payload)
    assert sequence.encode(found, Given()) == joined(*frames)


def test_what_was_deflated_is_inflated_once_it_is_whole():
    deflated = WHOLE.replace(payload=zlib.compress(WHOLE.payload, 0), flags=FrameFlag.COMPRESSED)
    for frames in ([deflated], cut(deflated, frag_v2=True)):
        assert bytes.fromhex(sequence.decode(joined(*frames), Given())["payload"]) == WHOLE.payload


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([], "no frame"),
        (PIECES[:1], "not complete"),
        ([WHOLE, WHOLE], "whole frame among"),
        ([PIECES[0], WHOLE], "whole frame among"),
        ([PIECES[0], PIECES[1].replace(request_id=99)], "different messages"),
        ([PIECES[0], PIECES[1].replace(sender=99)], "different messages"),
        ([*PIECES, PIECES[1]], "after the message was complete"),
    ],
)
def test_what_is_not_one_message(frames, why):
    with pytest.raises(WireError, match=why):
        sequence.decode(joined(*frames), Given())
    with pytest.raises(LocalMisuse, match=why):
        sequence.encode(fields(*frames, payload=WHOLE.payload), Given())


@pytest.mark.parametrize("bad", [None, [], {}, {"frames": 1, "payload": ""}, {"frames": [1], "payload": ""}])
def test_what_is_no_sequence(bad):
    with pytest.raises(LocalMisuse):
        sequence.encode(bad, Given())


def test_the_payload_must_be_the_frames_own():
    with pytest.raises(LocalMisuse, match="do not make up"):
        sequence.encode(fields(WHOLE, payload=b"other"), Given())
    with pytest.raises(LocalMisuse, match="payload"):
        sequence.encode({"frames": [to_json(WHOLE)]}, Given())


def test_each_frame_is_signed_and_verified_for_itself():
    seed = key(1).private_bytes_raw()
    drafts = [f.replace(flags=f.flags | FrameFlag.SIGNED, signature=bytes(64)) for f in PIECES]
    data = sequence.encode(fields(*drafts, payload=WHOLE.payload), Given(seed=seed))
    assert sequence.decode(data, Given(public_key=raw(key(1))))["payload"] == WHOLE.payload.hex()
    with pytest.raises(WireError, match="signature"):
        sequence.decode(data, Given(public_key=raw(key(2))))
    with pytest.raises(WireError, match="30 s"):
        sequence.decode(data, Given(now_ms=WHOLE.nonce + 30_001))
    assert sequence.decode(data, Given(now_ms=WHOLE.nonce + 30_000))
    with pytest.raises(WireError, match="size limit"):
        sequence.decode(joined(WHOLE), Given(transport="udp"))
