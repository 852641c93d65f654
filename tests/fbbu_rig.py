"""A block server without sockets or processes, on a real file; a clock that stands still until told."""

import os
import socket
import struct
from pathlib import Path

from fbmu_rig import KEY, LEASE_ID, coupled, question

from fabricbios.dataplane.batch import DATAGRAM_LIMIT
from fabricbios.dataplane.counters import COUNTERS, CountedOp, DropReason
from fabricbios.dataplane.fbbu import Fbbu, Stores, Sync
from fabricbios.dataplane.index import SlotIndex, index_bytes
from fabricbios.dataplane.leases import Leases
from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.slots import SLOT, Extent, Plane, SlotLease, SlotTable
from fabricbios.dataplane.store_faults import faults_of, page_bytes
from fabricbios.dataplane.tally import Tally
from fabricbios.model import BLOCK_SIZE, DpAuth, DpOp

BLOCKS, BASE = 32, 1 << 20
FILE_BYTES = BASE + BLOCKS * BLOCK_SIZE + BASE
LEASE = SlotLease(
    LEASE_ID, Plane.FBBU, Extent(BASE, BLOCKS * BLOCK_SIZE), 3, DpAuth.BLAKE2S_FULL, KEY, 1, 10**9, 1024, 1024
)


def ask_block(op: int, payload: bytes = b"", nonce: int = 1, **how: object) -> bytes:
    how.setdefault("head", b"FBBU\x01")
    return question(op, payload, nonce, **how)  # type: ignore[arg-type]


def read_block(index: int, count: int = 1, nonce: int = 1, padding: int = 0, **how: object) -> bytes:
    return ask_block(DpOp.READ, struct.pack(">QI", index, count) + bytes(padding), nonce, **how)


def write_block(index: int, data: bytes, nonce: int = 1, count: int | None = None, **how: object) -> bytes:
    said = len(data) // BLOCK_SIZE if count is None else count
    return ask_block(DpOp.WRITE, struct.pack(">QI", index, said) + data, nonce, **how)


class FbbuRig:
    """`ask` puts a datagram through everything but the sockets."""

    def __init__(self, file: Path, sync: Sync = Sync.DATASYNC, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.now, self.file = 0, file
        if not file.exists():
            file.write_bytes(bytes(FILE_BYTES))
        board = memoryview(bytearray(8 * SLOT.size))
        index = SlotIndex(memoryview(bytearray(index_bytes(8))), board)
        self.table = SlotTable(board, [index])
        self.tally = Tally(memoryview(bytearray(COUNTERS.size)))
        fd = os.open(file, os.O_RDWR)
        self.faults = faults_of(bytearray(page_bytes(1)), 1)
        self.stores = Stores([(fd, FILE_BYTES)], self.faults)
        leases, limit = Leases(Plane.FBBU, board, index, self.stores.span), DATAGRAM_LIMIT[family]
        self._responder = Responder(Fbbu(self.tally, limit, sync), leases, self.tally, lambda: self.now, limit)

    def open(self, lease: SlotLease = LEASE) -> int:
        """Install a lease and return its slot."""
        return self.table.install(lease, 0)

    def ask(self, datagram: bytes) -> bytes | None:
        """Return the answer, or None for a drop or an answer that is not sent."""
        answers = self.ask_together([datagram])
        return answers[0] if answers else None

    def ask_together(self, datagrams: list[bytes]) -> list[bytes]:
        """Return the answers to datagrams that came in one batch."""
        answers = self._responder.answer(coupled(datagrams))
        self.tally.publish()
        return [answer for train in answers for answer in train.datagrams()]

    def content(self) -> bytes:
        """Return the bytes of the lease as the file has them."""
        return self.file.read_bytes()[BASE : BASE + BLOCKS * BLOCK_SIZE]

    def drops(self) -> dict[str, int]:
        """Return the drops that happened, by name."""
        return {reason.name.lower(): n for reason in DropReason if (n := self.tally.drops[reason])}

    def asked(self, op: CountedOp) -> int:
        return self.tally.requests[op]
