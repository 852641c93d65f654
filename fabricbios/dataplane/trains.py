"""Trains: datagrams of one length from or to one peer, behind each other in one piece of bytes.

Questions are received as trains and answers leave as trains, and in between a train is taken apart by few calls that
walk through all of it, because in CPython a call a datagram costs as much as the check behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fabricbios.wire.dataplane import DP_HEADER_SIZE

HEADER = DP_HEADER_SIZE
RANGE = 12
"""Bytes of the two parameters that READ, WRITE and their BLOCK forms begin with."""
_KIND = itemgetter(0, 2)
_FORMATS = 4096  # two a length of datagram and then some


class Train(NamedTuple):
    """`data` are datagrams of `size` bytes each. `origin` is the number of the message of a batch (batch.py) that
    they came with, or that they answer."""

    data: bytes
    size: int
    origin: int

    @property
    def length(self) -> int:
        """How many datagrams that are; one of no bytes is a train of its own."""
        return len(self.data) // self.size if self.size else 1

    def datagrams(self) -> list[bytes]:
        return [self.data[i * self.size : (i + 1) * self.size] for i in range(self.length)]


class Run(NamedTuple):
    """Neighbours in a train of one op to one lease with one payload_len: `head` are magic, version, op and flags.

    `numbers` are request_id, nonce and the two parameters of an op that has them; `data` are the datagrams.
    """

    head: bytes
    payload_len: int
    lease_id: bytes
    numbers: list[tuple[bytes, int, bytes, int, int, int]]
    data: bytes
    size: int

    def parts(self, payload: int) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield what an answer repeats (request_id, lease_id, nonce), auth_tag, and so many bytes of payload."""
        return _parts(self.size, payload)(self.data)


def runs(train: Train) -> Iterator[Run]:
    """Yield the runs of a train of at least headers."""
    data, size, _ = train
    start = 0
    for (front, lease_id), rows in groupby(_numbers(size)(data), _KIND):
        numbers = list(rows)
        stop = start + len(numbers) * size
        yield Run(front[:8], int.from_bytes(front[8:], "big"), lease_id, numbers, data[start:stop], size)
        start = stop


Unpack = Callable[[bytes], Iterator[tuple[Any, ...]]]


@lru_cache(_FORMATS)
def _numbers(size: int) -> Unpack:
    """Return what unpacks head and payload_len together, request_id, lease_id, nonce, and two parameters: what a
    datagram without them has for parameters says nothing, so its tag's bytes do."""
    if size < HEADER + RANGE:
        return struct.Struct(f">12sI16sQQI{size - HEADER + 4}x").iter_unpack
    return struct.Struct(f">12sI16sQ16xQI{size - HEADER - RANGE}x").iter_unpack


@lru_cache(_FORMATS)
def _parts(size: int, payload: int) -> Unpack:
    return struct.Struct(f">12x28s16s{payload}s{size - HEADER - payload}x").iter_unpack
