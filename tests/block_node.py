"""A block plane with its real server process on sockets of the caller's, and a client that keeps count."""

import os
import signal
import socket
import struct
from functools import partial
from pathlib import Path

from fbbu_rig import ask_block, read_block, write_block
from fbmu_rig import KEY

from fabricbios.dataplane.block import BlockPlane
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Slab
from fabricbios.dataplane.slots import Plane
from fabricbios.hw.backing import open_backing
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import BLOCK_SIZE, NS, Binding, DpAuth, DpOp, ResourceType, Transport
from fabricbios.ports import LeaseSpec

DISK = 0xD15C


class BlockNode:
    """`store` is a file (made with `size` bytes if missing) or a block device."""

    def __init__(self, root: Path, store: str, size: int | None, sockets: list[socket.socket], sync: Sync) -> None:
        self.journal = ExtentJournal(root / "extents")
        self.backing = open_backing(Sysfs(), store, size, ours=self.journal.stores)
        self.pool = BlockPool({DISK: self.backing}, self.journal, "zero")
        self.board = LeaseBoard.create(16)
        slabs = [Slab(b.fd, b.size) for b in self.pool.backings]
        self.server = ServerProcess(Plane.FBBU, sockets, self.board, slabs, sync)
        listeners = [Listener(Transport.FBBU_UDP, *s.getsockname()[:2]) for s in sockets]
        self.plane = BlockPlane(self.board.table(), self.pool, listeners, partial(self.server.quiesce, 5), sync=sync)
        self.server.start()

    def lease(self, lease_id: int, size: int, reached: str = "") -> LeaseSpec:
        """Return a lease that is not bound yet, for a minute."""
        end = boottime_ns() + 60 * NS
        return LeaseSpec(
            lease_id, DISK, ResourceType.BLOCK, Binding.UDP, size, 3, 1, DpAuth.BLAKE2S_FULL, KEY, 3, end, reached
        )

    def bind(self, lease: LeaseSpec) -> None:
        for step in self.plane.steps(lease):
            self.plane.do(step, lease)

    def end(self, lease: LeaseSpec) -> None:
        for step in reversed(self.plane.steps(lease)):
            self.plane.undo(step, lease)

    def close(self) -> None:
        self.server.close()
        self.journal.close()
        self.backing.close()


def stop_at_rest(server: ServerProcess) -> None:
    """Stop (SIGSTOP) the process between two batches, wherever it is when we begin."""
    assert server.pid is not None
    while True:
        os.kill(server.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, server.pid, os.WSTOPPED)
        if not server._batch() & 1:
            return
        os.kill(server.pid, signal.SIGCONT)


class BlockClient:
    """Asks one question after the other on a connected socket."""

    def __init__(self, sock: socket.socket, lease: LeaseSpec) -> None:
        self.sock, self.lease, self.nonce = sock, lease, 0
        sock.settimeout(30)

    def exchange(self, datagram: bytes) -> bytes:
        self.sock.send(datagram)
        return self.sock.recv(2048)

    def _next(self) -> dict[str, object]:
        self.nonce += 1
        return {"nonce": self.nonce, "lease_id": self.lease.lease_id, "key": self.lease.dp_key}

    def hello(self) -> tuple[int, ...]:
        """Return status, block_size, block_count, blocks an operation."""
        answer = self.exchange(ask_block(DpOp.HELLO, self.lease.lease_id.to_bytes(16, "big"), **self._next()))
        return struct.unpack(">B3xIQI", answer[56:])

    def read(self, index: int, count: int = 1) -> tuple[int, bytes]:
        answer = self.exchange(read_block(index, count, padding=count * BLOCK_SIZE, **self._next()))
        return answer[56], answer[64:]

    def write(self, index: int, data: bytes) -> int:
        return self.exchange(write_block(index, data, **self._next()))[56]
