"""What a plane tells of its operations, and what the responder makes of that (D10)."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial
from itertools import compress, repeat
from typing import NamedTuple, Protocol

from fabricbios.dataplane.counters import COUNTED_OPS
from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.trains import HEADER, RANGE
from fabricbios.model import DpOp, DpStatus

_VERSION = 1


class Asked(NamedTuple):
    """The questions of a run by columns: nonces, the two parameters as numbers, what an answer repeats, auth_tags, the
    payload that every tag covers (the parameters), and what only a full tag covers (the data)."""

    nonces: tuple[int, ...]
    firsts: tuple[int, ...]
    seconds: tuple[int, ...]
    repeated: tuple[bytes, ...]
    tags: tuple[bytes, ...]
    covered: tuple[bytes, ...]
    data: tuple[bytes, ...]

    def only(self, passed: list[bool]) -> Asked:
        """Return those that `passed`."""
        return Asked._make(tuple(compress(column, passed)) for column in self)


Serve = Callable[[Lease, int, int, int, int, bytes], bytes]
"""serve(lease, run, nonce, first, second, data) carries out a question for a lease that is open and returns the
payload of its answer. `run` counts the runs of a batch, `data` is what follows the two parameters, without padding."""
ServeAll = Callable[[Lease, int, Asked], list[bytes]]
"""serve_all(lease, run, asked) does so for one question at least, as if one by one in their order."""


def one_by_one(serve: Serve, lease: Lease, run: int, asked: Asked) -> list[bytes]:
    return list(map(serve, repeat(lease), repeat(run), asked.nonces, asked.firsts, asked.seconds, asked.data))


class Operation(NamedTuple):
    """One op of a plane. `parameters` counts the payload bytes that it cannot do without."""

    question: DpOp
    answer: DpOp
    refusal: DpOp
    parameters: int
    is_io: bool  # begins with two parameters, which HMAC_HEADER covers, and has a request_id
    carries_data: bool  # nothing of the payload is padding
    serve: Serve
    refuse: Callable[[DpStatus], bytes]
    """Return the payload of a refusal."""
    serve_all: ServeAll | None = None
    """Where there is something better than one_by_one."""


class PlaneServer(Protocol):
    """A plane: its magic, its number in the slots, what it does for the runs of one batch after the other."""

    magic: bytes
    plane: Plane

    def operations(self) -> tuple[Operation, ...]:
        """Return what this plane answers."""

    def settle(self) -> Set[int]:
        """Make what the runs since the last call did as durable as it must be; return the numbers of those whose
        answers must not be sent because that failed."""


def head_of(magic: bytes, op: DpOp) -> bytes:
    """Return magic, version, op and flags (zero) as they are on the wire."""
    return magic + bytes((_VERSION, op, 0, 0))


class Row(NamedTuple):
    """An operation as the responder wants it: plain numbers, whole heads.

    A datagram of it has `shortest` bytes at least. What every tag covers ends before its byte `covered`, what only a
    full tag covers before `end`; 0: that is all there is.
    """

    counted: int
    shortest: int
    is_io: bool
    names_lease: bool
    covered: int
    end: int
    serve: Serve
    serve_all: ServeAll
    answer: bytes
    refusal: bytes
    refuse: Callable[[DpStatus], bytes]


def row_of(magic: bytes, op: Operation) -> Row:
    """HELLO's payload repeats the header's lease_id."""
    return Row(
        int(COUNTED_OPS[op.question]),
        HEADER + op.parameters,
        op.is_io,
        op.question == DpOp.HELLO,
        HEADER + (RANGE if op.is_io else 0),
        0 if op.carries_data else HEADER + op.parameters,
        op.serve,
        op.serve_all or partial(one_by_one, op.serve),
        head_of(magic, op.answer),
        head_of(magic, op.refusal),
        op.refuse,
    )
