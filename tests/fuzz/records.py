"""Inputs that are several things in a row: `u8 kind | u8 who | u16 length | data`, as often as there is room.

Parties with a state (a node, a relay, a reassembler) want more than one datagram an input. What is cut
short at the end is taken as it is, so that any bytes are some sequence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = struct.Struct(">BBH")
MOST = 12  # bounds the time one input takes


class Record(NamedTuple):
    kind: int
    who: int
    data: bytes


def split(data: bytes) -> Iterator[Record]:
    """Yield the records of an input."""
    at = 0
    for _ in range(MOST):
        if len(data) - at < _HEAD.size:
            return
        kind, who, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield Record(kind, who, data[at : at + length])
        at += length


def join(*records: Record) -> bytes:
    """Return the input that `split` makes these of."""
    return b"".join(_HEAD.pack(r.kind, r.who, len(r.data)) + r.data for r in records)
