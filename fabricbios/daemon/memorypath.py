"""The memory data path as the daemon composes it: slots, slabs, sockets, and who serves them.

Which path serves is picked here at start and shown by `status`: the kernel's where it works, else the
user-space server process, which is started again should it die.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from fabricbios.daemon.serverwatch import ServerWatch
from fabricbios.daemon.statedir import AlreadyRunning
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.memory import MemoryPlane
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import Plane, SlotCounters, SlotTable
from fabricbios.hw.mtu import mtu_of
from fabricbios.model import Transport

SLOTS = 1 << 16
SOCKET_BUFFER = 4 << 20


def wildcard_pairs(binds: Sequence[str]) -> list[str]:
    """Return the addresses to bind UDP planes to: `::` stands for both families, a socket each."""
    out: list[str] = []
    for bind in binds:
        out += ["0.0.0.0", "::"] if bind == "::" else [bind]
    return list(dict.fromkeys(out))


def bound_sockets(binds: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    """Bind one UDP socket an address, all on the same port; AlreadyRunning if it is taken."""
    sockets: list[socket.socket] = []
    for host in wildcard_pairs(binds):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            sock.bind((host, port))
        except OSError as e:
            if host == "::" and sockets:
                continue  # a machine without IPv6
            for other in sockets:
                other.close()
            raise AlreadyRunning(f"{flag} {port} on {host}: {e.strerror}") from None
        port = sock.getsockname()[1]
        sockets.append(sock)
    return sockets


def counters_of(table: SlotTable, lease_id: int) -> SlotCounters | None:
    """Return a lease's counters, None if it has no slot (any more)."""
    slot = table.find(lease_id)
    return None if slot is None else table.counters(slot)


class MemoryPath:
    """Leased memory over UDP and QUIC. Make it, then `start` it; `plane` is what core's effects reach."""

    def __init__(self, capacity: int, binds: Sequence[str], port: int) -> None:
        self.sockets = bound_sockets(binds, port, "fbmu-port")
        self.port = self.sockets[0].getsockname()[1]
        self.label, self.reason = "user", "the user-space server"
        self._board = LeaseBoard.create(SLOTS)
        self.memory = Memory.create(capacity)
        self.server = ServerProcess(Plane.FBMU, self.sockets, self._board, self.memory.slabs)
        self._table = self._board.table()
        self._watch = ServerWatch(self.server, "FBMU")

    def open(self, control: Sequence[tuple[str, int]]) -> MemoryPlane:
        """Start the server process and return the plane. `control` are the QUIC endpoints, for ENDPOINT."""
        self._watch.start()
        listeners = [Listener(Transport.FBMU_UDP, *s.getsockname()[:2]) for s in self.sockets]
        listeners += [
            Listener(Transport.FBMU_QUIC, host, port) for bind, port in control for host in wildcard_pairs([bind])
        ]
        return MemoryPlane(self._table, self.memory, listeners, self.server.quiesce, mtu_of=mtu_of)

    def counters(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return path label -> counters.read_counters()'s object."""
        return {"user": self.server.counters()}

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        """Return what one lease was asked for, None if it is not of this plane."""
        return counters_of(self._table, lease_id)

    def close(self) -> None:
        self._watch.close()
        for sock in self.sockets:
            sock.close()
