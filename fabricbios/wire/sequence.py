"""`frame_sequence`: all frames of one message in order of arrival, and the payload they make up (D2)."""

from __future__ import annotations

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire.circumstances import Given, sealed, verify
from fabricbios.wire.fragmentation import Assembly, inflate
from fabricbios.wire.frame import Frame, FrameFlag
from fabricbios.wire.json_form import Json, from_json, octets, to_json

TYPE = "frame_sequence"


def decode(data: bytes, given: Given) -> dict[str, Json]:
    """Return {"frames", "payload"}. Raise WireError unless the frames are one message, whole and nothing more."""
    frames = _frames(data, given)
    return {"frames": [to_json(f) for f in frames], "payload": payload(frames).hex()}


def encode(fields: Json, given: Given) -> bytes:
    """Return the frames one behind the other. Raise LocalMisuse if they do not make up the payload."""
    if not isinstance(fields, dict) or not isinstance(fields.get("frames"), list):
        raise LocalMisuse("a frame_sequence has frames and payload")
    frames = [sealed(from_json(Frame, f), given) for f in fields["frames"]]
    data = b"".join(f.pack(given.rules(Frame)) for f in frames)
    try:
        made = payload(frames)
    except WireError as e:
        raise LocalMisuse(f"the frames are not one message: {e}") from e
    if made != octets(fields.get("payload"), "payload"):
        raise LocalMisuse("the frames do not make up the payload")
    return data


def payload(frames: list[Frame]) -> bytes:
    """Return the reassembled and inflated payload of one message's frames."""
    if not frames:
        raise WireError("no frame")
    whole = frames[0].payload if not frames[0].fragmented and len(frames) == 1 else _reassembled(frames)
    return inflate(whole) if frames[0].flags & FrameFlag.COMPRESSED else whole


def _reassembled(frames: list[Frame]) -> bytes:
    assembly, key = Assembly(frames[0]), (frames[0].sender, frames[0].request_id)
    complete = False
    for frame in frames:
        if not frame.fragmented:
            raise WireError("a whole frame among fragments")
        if (frame.sender, frame.request_id) != key:
            raise WireError("fragments of different messages: none is complete")
        if complete:
            raise WireError("a fragment after the message was complete: it overlaps")
        complete = assembly.add(frame)
    if not complete:
        raise WireError("the message is not complete")
    return assembly.payload()


def _frames(data: bytes, given: Given) -> list[Frame]:
    rules, frames, at = given.rules(Frame), [], 0
    while at < len(data):
        frame, stop = Frame.decoder()(data, at, len(data), rules)
        verify(frame, data[at:stop], given, rules)
        frames.append(frame)
        at = stop
    return frames
