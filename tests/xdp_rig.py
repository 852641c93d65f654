"""The XDP program without an interface: maps of its own, and BPF_PROG_TEST_RUN for a wire. FbmuRig is its model."""

import os
import struct
from functools import cache

from facilities import require
from fbmu_rig import LEASE, FbmuRig

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import SLOT, Plane, SlotLease
from fabricbios.dataplane.xdp_frame import strip, wrap
from fabricbios.dataplane.xdp_layout import FBBU_RECORDS, CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.errors import Unsupported
from fabricbios.hw import bpf

PORT, FBBU_PORT = 5702, 5703
SLOTS, BYTES = 16, 65536
FOREVER = 1 << 62


@cache
def bpf_probe() -> str:
    """Return "" where the shipped program can be loaded, else why not."""
    try:
        maps = XdpMaps.create(1, 4096)
    except (OSError, Unsupported) as e:
        return str(e)
    try:
        os.close(xdp_program.load(maps, PORT, FBBU_PORT, CounterRecord.NATIVE))
    except (OSError, Unsupported) as e:
        return str(e)
    finally:
        maps.close()
    return ""


def require_bpf() -> None:
    """Skip without the rights or the kernel, or fail where FABRICBIOS_REQUIRE names bpf."""
    why = bpf_probe()
    require("bpf", not why, why)


class XdpRig:
    """`run` takes a frame, `ask` a datagram."""

    def __init__(self, slots: int = SLOTS, capacity: int = BYTES) -> None:
        self.maps = XdpMaps.create(slots, capacity)
        self.program = xdp_program.load(self.maps, PORT, FBBU_PORT, CounterRecord.NATIVE)
        self.board, self.memory = self.maps.board(), Memory(self.maps.slabs())
        self.table = self.maps.table(self.board)

    def open(self, lease: SlotLease = LEASE) -> int:
        """Install a lease that does not expire, and return its slot."""
        return self.table.install(lease._replace(expires_ns=FOREVER), 0)

    def run(self, frame: bytes) -> bpf.TestRun:
        return bpf.prog_test_run(self.program, frame)

    def ask(self, datagram: bytes, *, v6: bool = False, port: int = PORT) -> bytes | None:
        """Return the answer, or None for a drop; AssertionError if it is passed on."""
        done = self.run(wrap(datagram, port, v6=v6))
        assert done.action in (bpf.XdpAction.TX, bpf.XdpAction.DROP), done
        return strip(done.packet, v6=v6) if done.action == bpf.XdpAction.TX else None

    def drops(self, plane: Plane = Plane.FBMU) -> dict[str, int]:
        """Return the drops that happened, by name."""
        return {name: n for name, n in self.maps.counters(CounterRecord.NATIVE, plane)["drops"].items() if n}

    def passed(self, plane: Plane = Plane.FBMU) -> int:
        """Return how many authentic questions went on to the socket."""
        return self.maps.counters(CounterRecord.NATIVE, plane)["passed"]["socket"]

    def requests(self) -> dict[str, int]:
        return {name: n for name, n in self.maps.counters(CounterRecord.NATIVE)["requests"].items() if n}

    def fresh(self) -> None:
        """Forget leases, bytes and counters: cheaper than another rig."""
        for lease_id, _ in list(self.table):
            self.table.clear(lease_id, 0)
        self.board.slots.buffer[: SLOTS * SLOT.size] = bytes(SLOTS * SLOT.size)
        self.table = self.maps.table(self.board)
        self.memory.view[:] = bytes(len(self.memory.view))
        size = len(bpf.map_lookup(self.maps.fds["counters"], struct.pack("<I", 0), self._counter_bytes()) or b"")
        for record in (CounterRecord.NATIVE, CounterRecord.NATIVE + FBBU_RECORDS):
            bpf.map_update(self.maps.fds["counters"], struct.pack("<I", record), bytes(size))

    def _counter_bytes(self) -> int:
        return bpf.map_info(self.maps.fds["counters"]).value_size * bpf.possible_cpus()

    def close(self) -> None:
        os.close(self.program)
        self.memory.close()
        self.maps.close()


def model(lease: SlotLease = LEASE) -> FbmuRig:
    """Return the user-space server with the same lease."""
    rig = FbmuRig()
    rig.open(lease._replace(expires_ns=FOREVER))
    return rig
