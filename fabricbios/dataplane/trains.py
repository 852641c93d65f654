"""Trains: datagrams of one length from or to one peer, behind each other in one piece of bytes.

Questions are received as trains and answers leave as trains, and in between a train is taken apart by few calls that
walk through all of it, because in CPython a call a datagram costs as much as the check behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fabricbios.wire.dataplane import DP_HEADER_SIZE

HEADER = DP_HEADER_SIZE
RANGE = 12
"""Bytes of the two parameters that READ, WRITE and their BLOCK forms begin with."""
_REPEATED, _TAG = 12, HEADER - 16
_KIND = itemgetter(0, 2)
_WITH_RANGE, _WITHOUT = ">12sI16sQ16xQI", ">12sI16sQQI"
"""Numbers. What a datagram without parameters has for them says nothing, so its tag's bytes do."""
_alone, _alone_without = struct.Struct(_WITH_RANGE).unpack_from, struct.Struct(_WITHOUT).unpack_from
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


Numbers = tuple[bytes, int, bytes, int, int, int]
"""magic .. payload_len, request_id, lease_id, nonce, and the two parameters of an op that has them."""
Pieces = tuple[bytes, bytes, bytes, bytes]
"""What an answer repeats (request_id, lease_id, nonce), auth_tag, and two pieces of the payload."""


Run = tuple[bytes, bytes, Sequence[Numbers], bytes]
"""Neighbours in a train of one op to one lease with one payload_len: magic .. payload_len, lease_id, numbers and bytes
of each. A plain tuple, because one is made for each datagram that comes alone."""


def runs(data: bytes, size: int) -> Iterable[Run]:
    """Return the runs of a train of at least headers; one that came alone is spared what looks for neighbours."""
    if size < len(data):
        return _neighbours(data, size)
    numbers = (_alone if size >= HEADER + RANGE else _alone_without)(data)
    return ((numbers[0], numbers[2], (numbers,), data),)


def _neighbours(data: bytes, size: int) -> Iterator[Run]:
    start = 0
    for (front, lease_id), rows in groupby(_numbers(size)(data), _KIND):
        numbers = list(rows)
        stop = start + len(numbers) * size
        yield front, lease_id, numbers, data[start:stop]
        start = stop


def questions(numbers: Sequence[Numbers], data: bytes, first: int, second: int) -> Iterable[tuple[Numbers, Pieces]]:
    """Return the datagrams of a run taken apart: `first` bytes of payload, `second`, then what nobody asked for."""
    if len(numbers) > 1:
        return zip(numbers, _pieces(len(data) // len(numbers), first, second)(data), strict=True)
    end = HEADER + first
    return ((numbers[0], (data[_REPEATED:_TAG], data[_TAG:HEADER], data[HEADER:end], data[end : end + second])),)


Unpack = Callable[[bytes], Iterator[tuple[Any, ...]]]


@lru_cache(_FORMATS)
def _numbers(size: int) -> Unpack:
    known = _WITH_RANGE if size >= HEADER + RANGE else _WITHOUT
    return struct.Struct(f"{known}{size - struct.calcsize(known)}x").iter_unpack


@lru_cache(_FORMATS)
def _pieces(size: int, first: int, second: int) -> Unpack:
    return struct.Struct(f">12x28s16s{first}s{second}s{size - HEADER - first - second}x").iter_unpack
