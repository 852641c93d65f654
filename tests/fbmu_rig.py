"""A memory server without sockets or processes: one table, one buffer, a clock that stands still until told."""

import socket
import struct
from itertools import groupby

from fabricbios.dataplane.batch import DATAGRAM_LIMIT
from fabricbios.dataplane.counters import COUNTERS, CountedOp, DropReason
from fabricbios.dataplane.fbmu import Fbmu
from fabricbios.dataplane.index import SlotIndex, index_bytes
from fabricbios.dataplane.leases import Leases
from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.slots import SLOT, Extent, Plane, SlotLease, SlotTable
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import Train
from fabricbios.model import DpAuth, DpOp
from fabricbios.wire import Tagger, question_message, with_tag

LEASE_ID, KEY = 0xF00D << 64 | 0xBEEF, bytes(range(32))
LENGTH = 16384
LEASE = SlotLease(LEASE_ID, Plane.FBMU, Extent(4096, LENGTH), 3, DpAuth.BLAKE2S_FULL, KEY, 1, 10**9, 1408, 1404)


def question(
    op: int,
    payload: bytes = b"",
    nonce: int = 1,
    *,
    lease_id: int = LEASE_ID,
    auth: DpAuth = DpAuth.BLAKE2S_FULL,
    key: bytes = KEY,
    request_id: int = 7,
    head: bytes = b"FBMU\x01",
    flags: int = 0,
    payload_len: int | None = None,
) -> bytes:
    """Return a datagram with a right tag over whatever it says."""
    measured = len(payload) if payload_len is None else payload_len
    header = head + struct.pack(">BHII16sQ", op, flags, measured, request_id, lease_id.to_bytes(16, "big"), nonce)
    bare = header + bytes(16) + payload
    return with_tag(bare, Tagger(auth, key).tag(question_message(bare, auth)))


def read(offset: int, length: int, nonce: int = 1, padding: int = 0, **how: object) -> bytes:
    return question(DpOp.READ, struct.pack(">QI", offset, length) + bytes(padding), nonce, **how)  # type: ignore[arg-type]


def write(offset: int, data: bytes, nonce: int = 1, length: int | None = None, **how: object) -> bytes:
    said = len(data) if length is None else length
    return question(DpOp.WRITE, struct.pack(">QI", offset, said) + data, nonce, **how)  # type: ignore[arg-type]


def coupled(datagrams: list[bytes]) -> list[Train]:
    """Return datagrams as a socket's batch has them: neighbours of one length together."""
    trains: list[Train] = []
    for size, alike in groupby(datagrams, len):
        some = list(alike)
        trains += [Train(b"".join(some), size, 0)] if size else [Train(b"", 0, 0)] * len(some)
    return trains


class FbmuRig:
    """`ask` puts a datagram through everything but the sockets."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.now, self.bytes = 0, bytearray(65536)
        board = memoryview(bytearray(8 * SLOT.size))
        index = SlotIndex(memoryview(bytearray(index_bytes(8))), board)
        self.table = SlotTable(board, [index])
        self.record = bytearray(COUNTERS.size)
        self.tally = Tally(memoryview(self.record))
        leases, limit = Leases(Plane.FBMU, board, index, self._data), DATAGRAM_LIMIT[family]
        self._responder = Responder(Fbmu(self.tally, limit), leases, self.tally, lambda: self.now, limit)

    def _data(self, extent: Extent) -> memoryview:
        return memoryview(self.bytes)[extent.base : extent.base + extent.length]

    def open(self, lease: SlotLease = LEASE) -> int:
        """Install a lease and return its slot."""
        return self.table.install(lease, 0)

    def ask(self, datagram: bytes) -> bytes | None:
        """Return the answer, or None for a drop."""
        answers = self.ask_together([datagram])
        return answers[0] if answers else None

    def ask_together(self, datagrams: list[bytes]) -> list[bytes]:
        """Return the answers to datagrams that came in one batch."""
        answers = self._responder.answer(coupled(datagrams))
        self.tally.publish()
        return [answer for train in answers for answer in train.datagrams()]

    def drops(self) -> dict[str, int]:
        """Return the drops that happened, by name."""
        return {reason.name.lower(): n for reason in DropReason if (n := self.tally.drops[reason])}

    def asked(self, op: CountedOp) -> int:
        return self.tally.requests[op]
