"""A block server without sockets or processes, on a real file; a clock that stands still until told."""

import os
import socket
import struct
from pathlib import Path

from fbmu_rig import KEY, LEASE_ID, question

from fabricbios.dataplane.batch import STRIDE, Batch
from fabricbios.dataplane.counters import COUNTERS, CountedOp, DropReason
from fabricbios.dataplane.fbbu import Fbbu, Stores, Sync
from fabricbios.dataplane.index import SlotIndex, index_bytes
from fabricbios.dataplane.leases import Leases
from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.slots import SLOT, Extent, Plane, SlotLease, SlotTable
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
    """`ask` puts a datagram through everything but the sockets; the WRITE it may be is settled at once."""

    def __init__(
        self, file: Path, sync: Sync = Sync.DATASYNC, family: socket.AddressFamily = socket.AF_INET, buffers: int = 2
    ) -> None:
        self.now, self.file = 0, file
        if not file.exists():
            file.write_bytes(bytes(FILE_BYTES))
        board = memoryview(bytearray(8 * SLOT.size))
        index = SlotIndex(memoryview(bytearray(index_bytes(8))), board)
        self.table = SlotTable(board, [index])
        self.tally = Tally(memoryview(bytearray(COUNTERS.size)))
        fd = os.open(file, os.O_RDWR)
        self.stores = Stores([(fd, FILE_BYTES)])
        os.close(fd)
        leases = Leases(Plane.FBBU, board, index, self.stores.span)
        with socket.socket(family, socket.SOCK_DGRAM) as unbound:
            self._batch = Batch(unbound, buffers)
        self.server = Fbbu(self._batch, self.tally, sync)
        self._responder = Responder(self.server, self._batch, leases, self.tally, lambda: self.now)

    def open(self, lease: SlotLease = LEASE) -> int:
        """Install a lease and return its slot."""
        return self.table.install(lease, 0)

    def ask(self, datagram: bytes) -> bytes | None:
        """Return the answer as on the wire, or None for a drop or an answer that is not sent."""
        answer = self.answer(0, datagram)
        return None if 0 in self.server.settle() else answer

    def answer(self, b: int, datagram: bytes) -> bytes | None:
        """Answer in buffer b; what it acknowledges is not yet durable."""
        arena, start = self._batch.arena, b * STRIDE
        for at, part in ((16, datagram[:40]), (0, datagram[40:56]), (56, datagram[56:STRIDE])):
            arena[start + at : start + at + len(part)] = part
        length = self._responder.respond(b, len(datagram))
        self.tally.publish()
        whole = bytes(arena[start + 16 : start + 56] + arena[start : start + 16])
        return None if length < 0 else whole + bytes(arena[start + 56 : start + 56 + length])

    def content(self) -> bytes:
        """Return the bytes of the lease as the file has them."""
        return self.file.read_bytes()[BASE : BASE + BLOCKS * BLOCK_SIZE]

    def drops(self) -> dict[str, int]:
        """Return the drops that happened, by name."""
        return {reason.name.lower(): n for reason in DropReason if (n := self.tally.drops[reason])}

    def asked(self, op: CountedOp) -> int:
        return self.tally.requests[op]
