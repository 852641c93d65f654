"""Trains: datagrams of one length from or to one peer, behind each other in one piece of bytes.

Questions are received as trains and answers leave as trains, and in between a train is taken apart by few calls that
walk through all of it, because in CPython a call a datagram costs as much as the check behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fabricbios.wire.dataplane import DP_HEADER_SIZE

HEADER = DP_HEADER_SIZE
RANGE = 12
"""Bytes of the two parameters that READ, WRITE and their BLOCK forms begin with."""
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


def numbers(datagram: bytes) -> Numbers:
    """Return the numbers of a datagram of a header at least."""
    found: Numbers = (_alone if len(datagram) >= HEADER + RANGE else _alone_without)(datagram)
    return found


class Run(NamedTuple):
    """Neighbours in a train of one op to one lease with one payload_len: magic .. payload_len, lease_id, the other
    Numbers of each, and the datagrams themselves."""

    front: bytes
    lease_id: bytes
    request_ids: tuple[int, ...]
    nonces: tuple[int, ...]
    firsts: tuple[int, ...]
    seconds: tuple[int, ...]
    data: bytes


def runs(data: bytes, size: int) -> Iterator[Run]:
    """Yield the runs of a train of datagrams of a header at least."""
    rows = list(_numbers(size)(data))
    fronts, _, lease_ids, *_ = zip(*rows, strict=True)
    if fronts.count(fronts[0]) == len(rows) == lease_ids.count(lease_ids[0]):
        yield _run(rows, data)  # as is usual: half of what the search for neighbours costs
        return
    start = 0
    for _, alike in groupby(rows, _KIND):
        some = list(alike)
        stop = start + len(some) * size
        yield _run(some, data[start:stop])
        start = stop


def _run(rows: Sequence[Numbers], data: bytes) -> Run:
    fronts, request_ids, lease_ids, nonces, firsts, seconds = zip(*rows, strict=True)
    return Run(fronts[0], lease_ids[0], request_ids, nonces, firsts, seconds, data)


def pieces(data: bytes, size: int, covered: int, end: int) -> Iterator[tuple[bytes, ...]]:
    """Yield four columns of a run: what an answer repeats (request_id, lease_id, nonce), auth_tag, the payload before
    byte `covered` of the datagram, and what follows before byte `end`."""
    return zip(*_pieces(size, covered, end)(data), strict=True)


Unpack = Callable[[bytes], Iterator[tuple[Any, ...]]]


@lru_cache(_FORMATS)
def _numbers(size: int) -> Unpack:
    known = _WITH_RANGE if size >= HEADER + RANGE else _WITHOUT
    return struct.Struct(f"{known}{size - struct.calcsize(known)}x").iter_unpack


@lru_cache(_FORMATS)
def _pieces(size: int, covered: int, end: int) -> Unpack:
    return struct.Struct(f">12x28s16s{covered - HEADER}s{end - covered}s{size - end}x").iter_unpack
