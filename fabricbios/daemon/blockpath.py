"""The block data path as the daemon composes it: stores, slots, sockets, and the process that serves them."""

from __future__ import annotations

from collections.abc import Sequence

from fabricbios.daemon.blockstores import BlockStores
from fabricbios.daemon.memorypath import USER_SLOTS, counters_of
from fabricbios.daemon.planesockets import bound_sockets, listeners
from fabricbios.daemon.serverwatch import ServerWatch
from fabricbios.dataplane.block import BlockPlane
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Slab
from fabricbios.dataplane.slots import Plane, SlotCounters
from fabricbios.dataplane.trace import Traced
from fabricbios.hw.netdevice import mtu_of
from fabricbios.model import Transport

QUIESCE_SECONDS = 5.0  # a batch ends with an fdatasync, and a disk may take its time over that


class BlockPath:
    """Leased blocks over UDP and QUIC. Make it (AlreadyRunning, OSError), then `open` it."""

    def __init__(self, stores: BlockStores, binds: Sequence[str], port: int, sync: str) -> None:
        self._stores, self._sync = stores, Sync(sync)
        self.sockets = bound_sockets(binds, port, "fbbu-port")
        self.port = self.sockets[0].getsockname()[1]
        self.label, self.reason = "user", "the user-space server"
        self._board = LeaseBoard.create(USER_SLOTS)
        self._table = self._board.table()
        slabs = [Slab(backing.fd, backing.size) for backing in stores.pool.backings]
        self._server = ServerProcess(Plane.FBBU, self.sockets, self._board, slabs, self._sync)
        self.traced: Traced = self._server.trace
        self._watch = ServerWatch(self._server, "FBBU")

    def open(self, control: Sequence[tuple[str, int]]) -> BlockPlane:
        """Start the server process and return the plane. `control` are the QUIC endpoints, for ENDPOINT."""
        self._watch.start()
        reached = listeners(Transport.FBBU_UDP, self.sockets, Transport.FBBU_QUIC, control)
        return BlockPlane(self._table, self._stores.pool, reached, self._quiesce, sync=self._sync, mtu_of=mtu_of)

    def _quiesce(self) -> None:
        self._server.quiesce(QUIESCE_SECONDS)

    def counters(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return path label -> counters.read_counters()'s object."""
        return {self.label: self._server.counters()}

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        """Return what one lease was asked for, None if it is not of this plane."""
        return counters_of(self._table, lease_id)

    def close(self) -> None:
        """End the process and the sockets; the stores are the caller's to close, after every plane."""
        self._watch.close()
        for sock in self.sockets:
            sock.close()
