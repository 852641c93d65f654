"""`python -m fabricbios.dataplane.serve SPEC`: the process that serves one plane over datagrams.

It is a process of its own so that questions are answered, and those of ended leases refused, while the
daemon is busy or stopped. It holds no state: slots, index, counters and leased bytes are shared memory
that the daemon made, the sockets are the daemon's too, and it ends with the daemon.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from fabricbios.dataplane.batch import Batch
from fabricbios.dataplane.fbbu import Fbbu, Stores, Sync
from fabricbios.dataplane.fbmu import Fbmu
from fabricbios.dataplane.leases import DataOf, Leases
from fabricbios.dataplane.loop import Channel, serve_until
from fabricbios.dataplane.operations import PlaneServer
from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.shared import LeaseBoard, Region
from fabricbios.dataplane.slab import Memory, Slab
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.store_faults import faults_of
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trace_server import Stopwatch
from fabricbios.hw.syscalls import boottime_ns, hear_fences

READY = b"r"
STORE = struct.Struct("=I")  # the number of a store, beside its descriptor


class ServeSpec(NamedTuple):
    """What a server process inherits: descriptors, and (descriptor, bytes) of what it maps.

    FBBU's slabs are the files and devices in their order, which it does not map; `sync` is its Sync, `faults` where it
    counts their errors.
    """

    plane: str
    control: int
    sockets: list[int]
    slots: tuple[int, int]
    lookup: tuple[int, int]
    counters: tuple[int, int]
    trace: tuple[int, int]
    faults: tuple[int, int]
    slabs: list[tuple[int, int]]
    sync: str = Sync.DATASYNC

    def descriptors(self) -> list[int]:
        """Return all that must be inherited."""
        regions = (self.slots, self.lookup, self.counters, self.trace, self.faults, *self.slabs)
        return [self.control, *self.sockets, *(fd for fd, _ in regions)]


def main(argv: list[str]) -> int:
    """Serve until the control socket is closed. What comes through it before is for the stores (refit)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's, meant for the daemon, which ends us in its time
    hear_fences()  # the daemon's: ServerProcess.quiesce
    spec = ServeSpec(**json.loads(argv[0]))
    tally = Tally(Region.attach(*spec.counters).buffer)
    plane = Plane[spec.plane]
    server_of, data_of, refit = _PLANES[plane](spec, tally)
    channels = _channels(spec, plane, tally, server_of, data_of)
    stopwatch = Stopwatch(Region.attach(*spec.trace).buffer, plane, boottime_ns)
    gc.freeze()
    control = socket.socket(fileno=spec.control)
    control.send(READY)
    serve_until(spec.control, channels, tally, stopwatch.serving)
    while refitted(control, refit):
        serve_until(spec.control, channels, tally, stopwatch.serving)
    return 0


def _channels(spec: ServeSpec, plane: Plane, tally: Tally, server_of: ServerOf, data_of: DataOf) -> list[Channel]:
    """Return a channel a socket. Leases are looked up once for all of them."""
    board = LeaseBoard(Region.attach(*spec.slots), Region.attach(*spec.lookup))
    leases = Leases(plane, board.slots.buffer, board.slot_index(), data_of)

    def channel(fd: int) -> Channel:
        batch = Batch(socket.socket(fileno=fd))
        return Channel(batch, Responder(server_of(batch.limit), leases, tally, boottime_ns, batch.limit))

    return [channel(fd) for fd in spec.sockets]


ServerOf = Callable[[int], PlaneServer]
"""Return who serves datagrams of at most so many bytes."""


Refit = Callable[[int, int], None]
"""Takes the number of a store and the descriptor to go on with (fbbu.Stores.refit)."""


def _fbmu(spec: ServeSpec, tally: Tally) -> tuple[ServerOf, DataOf, Refit]:
    memory = Memory([Slab(*slab) for slab in spec.slabs])
    return (
        lambda limit: Fbmu(tally, limit),
        lambda extent: memory.view[extent.base : extent.base + extent.length],
        lambda _, fd: os.close(fd),
    )


def _fbbu(spec: ServeSpec, tally: Tally) -> tuple[ServerOf, DataOf, Refit]:
    page = Region.attach(*spec.faults).buffer
    stores = Stores(spec.slabs, faults_of(page, len(spec.slabs)))
    return lambda limit: Fbbu(tally, limit, Sync(spec.sync)), stores.span, stores.refit


_PLANES: dict[Plane, Callable[[ServeSpec, Tally], tuple[ServerOf, DataOf, Refit]]] = {
    Plane.FBMU: _fbmu,
    Plane.FBBU: _fbbu,
}


def refitted(control: socket.socket, refit: Refit) -> bool:
    """Take one message of ServerProcess.refit; False where the daemon has hung up."""
    try:
        message, descriptors, _, _ = socket.recv_fds(control, STORE.size, 1)
    except ConnectionError:
        return False
    for fd in descriptors:
        refit(STORE.unpack(message)[0], fd)
    return bool(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
