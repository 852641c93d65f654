"""The block data path as the daemon composes it: stores, slots, sockets, and the process that serves them.

Where XDP runs the slots are in its table (blockcheck.py), else in a board of their own.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from fabricbios.daemon.blockcheck import BlockCheck, Counters
from fabricbios.daemon.blockstores import BlockStores
from fabricbios.daemon.memorypath import USER_SLOTS, counters_of
from fabricbios.daemon.planesockets import listeners
from fabricbios.daemon.serverwatch import ServerWatch
from fabricbios.daemon.storelook import StoreLook
from fabricbios.dataplane.block import BlockPlane
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Slab
from fabricbios.dataplane.slots import Plane, SlotCounters
from fabricbios.dataplane.store_faults import Faults
from fabricbios.dataplane.trace import Traced
from fabricbios.hw.netdevice import mtu_of
from fabricbios.model import Transport

log = logging.getLogger("fabricbios.block")
QUIESCE_SECONDS = 5.0  # a batch ends with an fdatasync, and a disk may take its time over that


class BlockPath:
    """Leased blocks over UDP and QUIC. Make it, then `open` it.

    `sockets` are bound and the caller's to close, as the stores are; without a `check`, `why` says why there is none.
    """

    def __init__(
        self, stores: BlockStores, sockets: Sequence[socket.socket], sync: str, check: BlockCheck | None, why: str
    ) -> None:
        self._stores, self._sync, self._check = stores, Sync(sync), check
        self.sockets = sockets
        self.port = self.sockets[0].getsockname()[1]
        self.label = "user"
        self.reason = f"behind the XDP check, {check.reason}" if check else f"no XDP check: {why}"
        self._board = check.board if check else LeaseBoard.create(USER_SLOTS)
        self._table = check.table if check else self._board.table()
        slabs = [Slab(backing.fd, backing.size) for backing in stores.pool.backings]
        self._server = ServerProcess(Plane.FBBU, self.sockets, self._board, slabs, self._sync)
        self.traced: Traced = self._server.trace
        self._watch = ServerWatch(self._server, "FBBU")

    def open(self, control: Sequence[tuple[str, int]]) -> BlockPlane:
        """Start the server process and return the plane. `control` are the QUIC endpoints, for ENDPOINT."""
        if self._check:
            self._check.quiesce()  # the sockets are ours: no program takes a nonce from here on
        reached = listeners(Transport.FBBU_UDP, self.sockets, Transport.FBBU_QUIC, control)
        pool = self._stores.pool
        plane = BlockPlane(self._table, pool, reached, self._quiesce, sync=self._sync, mtu_of=mtu_of)
        self._watch.start()  # after the plane has looked at what a predecessor left open
        self._plane = plane
        return plane

    def looks(self) -> dict[int, StoreLook]:
        """Return what the watch over the stores looks at, by resource id; call it once it is open."""
        settings = self._stores.settings()
        return {resource_id: self._look(resource_id, *settings[resource_id]) for resource_id in settings}

    def _look(self, resource_id: int, path: str, _: int | None, force: bool) -> StoreLook:
        pool, at = self._stores.pool, self._stores.pool.device_of(resource_id)

        def faults() -> Faults:
            return self._server.faults[at].read().plus(self._plane.faults[at].read())

        return StoreLook(pool.backings[at], path, force, faults, lambda: pool.is_silent(at))

    def refit(self, resource_id: int) -> None:
        """Let the server process know that a store was let go or taken in."""
        try:
            self._server.refit(self._stores.pool.device_of(resource_id))
        except OSError as error:
            log.error("the FBBU server process does not take up a store: %s", error)

    def _quiesce(self) -> None:
        self._server.quiesce(QUIESCE_SECONDS)

    @property
    def checked_by(self) -> str:
        """Return the path that drops what is forged before it comes here, "" where none does."""
        return self._check.label if self._check else ""

    def counters(self) -> Counters:
        """Return path label -> counters.read_counters()'s object."""
        return {**(self._check.counters() if self._check else {}), self.label: self._server.counters()}

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        """Return what one lease was asked for, None if it is not of this plane."""
        return counters_of(self._table, Plane.FBBU, lease_id)

    def close(self) -> None:
        """End the process."""
        self._watch.close()
