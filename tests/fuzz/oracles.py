"""What must hold of every decoder, whatever the bytes: a value or a WireError, bounded, and the same again.

A broken rule is an AssertionError, which the fuzzer and the replay report as a finding.
"""

from __future__ import annotations

from typing import Any

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import sequence
from fabricbios.wire.circumstances import Given
from fabricbios.wire.description import Struct
from fabricbios.wire.json_form import from_json, to_json
from fabricbios.wire.rules import Transport

GROWTH, FLOOR = 4, 64  # pieces of a value a byte of input (an empty TLV is 3 in 4 bytes), and for the smallest
TRANSPORTS: tuple[Transport | None, ...] = (None, "udp", "quic")


def weight(value: Any) -> int:
    """Return how much a decoded value holds: its bytes, characters and items, at any depth."""
    if isinstance(value, (bytes, str)):
        return 1 + len(value)
    return 1 + sum(map(weight, value)) if isinstance(value, tuple) else 1


def bounded(value: Any, data: bytes) -> None:
    """No decoder makes more than a few times what it was given."""
    assert weight(value) <= GROWTH * len(data) + FLOOR, "the value outgrows its input"


def placed(error: WireError, data: bytes) -> None:
    """An error says where, inside of the message."""
    assert 0 <= error.offset <= len(data), "an offset outside of the message"


def message(cls: type[Struct], data: bytes) -> None:
    """Decode under each transport's rules where the class has such; what decodes comes back the same."""
    judges = bool(cls.LIMIT) or cls.complaint is not Struct.complaint  # by rules that may be a transport's
    for transport in TRANSPORTS if judges else TRANSPORTS[:1]:
        try:
            value = cls.unpack(data, transport)
        except WireError as error:
            placed(error, data)
            continue
        bounded(value, data)
        assert cls.unpack(value.pack(transport), transport) == value, "there and back is another value"


def json_of(cls: type[Struct], data: bytes) -> None:
    """What decodes has a JSON form, and that form is the value."""
    try:
        value = cls.unpack(data)
    except WireError:
        return
    assert from_json(cls, to_json(value)) == value, "through JSON it is another value"


def frame_sequence(data: bytes) -> None:
    """Frames of one message, or a WireError; encoding the fields gives frames that decode to the same."""
    try:
        fields = sequence.decode(data, Given())
    except WireError as error:
        placed(error, data)
        return
    assert sequence.decode(sequence.encode(fields, Given()), Given()) == fields, "there and back is another value"


def refuses(call: Any, *args: Any) -> Any:
    """Return what `call` makes, None where it refuses its caller's values (LocalMisuse) or bytes (WireError)."""
    try:
        return call(*args)
    except (LocalMisuse, WireError):
        return None
