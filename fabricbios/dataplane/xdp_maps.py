"""The maps that XDP programs and the daemon share: slots, index, leased bytes, counters, stations.

All but the counters are memory that the daemon has mapped, so what user space does with slots and bytes is done
to the programs too, without a system call. Made once; a daemon that restarts opens them from their pins.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from fabricbios.dataplane.counters import COUNTERS, read_counters
from fabricbios.dataplane.index import index_bytes
from fabricbios.dataplane.keys import SHA256_K
from fabricbios.dataplane.shared import LeaseBoard, Region
from fabricbios.dataplane.slab import SLAB_BYTES, Slab, must_fit, slab_sizes
from fabricbios.dataplane.slots import SLOT, Plane, SlotTable
from fabricbios.dataplane.xdp_layout import FBBU_RECORDS, SLAB_MARGIN, XDP_CONFIG, CounterRecord
from fabricbios.errors import Unsupported
from fabricbios.hw import bpf

STATIONS = 64
_SLAB = "slab-"
_ONE = struct.pack("<I", 0)


class XdpMaps:
    """Descriptors of all maps by name; `slab-0`, `slab-1` ... are the leased bytes. Owns them until close()."""

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds
        self.slots = bpf.map_info(fds["slots"]).max_entries
        self._slab_value = bpf.map_info(fds[f"{_SLAB}0"]).value_size

    @staticmethod
    def create(slots: int, capacity: int) -> XdpMaps:
        """Make fresh zeroed maps for `slots` leases and `capacity` bytes. OSError(ENOMEM) if there are not so many.

        ConfigError for more than the machine has at all: the kernel would end somebody else to make room.
        """
        must_fit(capacity)
        fds: dict[str, int] = {}
        try:
            for name, fd in _fresh(slots, slab_sizes(capacity)):
                fds[name] = fd
            for number in range(len(slab_sizes(capacity))):
                bpf.map_update(fds["slabs"], struct.pack("<I", number), struct.pack("<I", fds[f"{_SLAB}{number}"]))
        except OSError:
            _close_all(fds)
            raise
        return XdpMaps(fds)

    @staticmethod
    def open(pins: Path) -> XdpMaps:
        """Open the maps that are pinned in a directory. OSError if one is missing."""
        fds: dict[str, int] = {}
        try:
            names = ["slots", "lease_index", "slabs", "counters", "stations", f"{_SLAB}0"]
            names += sorted(p.name for p in pins.iterdir() if p.name.startswith(_SLAB) and p.name != f"{_SLAB}0")
            for name in names:
                fds[name] = bpf.obj_get(pins / name)
        except OSError:
            _close_all(fds)
            raise
        return XdpMaps(fds)

    def pin(self, pins: Path) -> None:
        """Pin every map under its name in an empty directory of a bpffs."""
        for name, fd in self.fds.items():
            bpf.obj_pin(fd, pins / name)

    def board(self) -> LeaseBoard:
        """Return slots and index as user space shares them, on descriptors of their own; its writer is `table`."""
        slots, lookup = (os.dup(self.fds[name]) for name in ("slots", "lease_index"))
        return LeaseBoard(Region.attach(slots, self.slots * SLOT.size), Region.attach(lookup, index_bytes(self.slots)))

    def table(self, board: LeaseBoard) -> SlotTable:
        """Return the daemon's, the writing, end of `board()`: with the midstates that programs hash on from."""
        return SlotTable(board.slots.buffer, [board.slot_index()], midstates=True)

    def slabs(self) -> list[Slab]:
        """Return the leased bytes for slab.Memory, which owns these descriptors."""
        names = sorted((n for n in self.fds if n.startswith(_SLAB)), key=lambda n: int(n.removeprefix(_SLAB)))
        return [Slab(os.dup(self.fds[name]), self._slab_value - SLAB_MARGIN) for name in names]

    def config(self, fbmu_port: int, fbbu_port: int, record: CounterRecord) -> bytes:
        """Return the constants of a program over these maps."""
        entries = index_bytes(self.slots) // 4
        return XDP_CONFIG.pack(
            fbmu_port=_network_order(fbmu_port),
            fbbu_port=_network_order(fbbu_port),
            record=record,
            slab_bytes=self._slab_value - SLAB_MARGIN,
            index_mask=entries - 1,
            index_shift=65 - entries.bit_length(),
            sha256_k=SHA256_K,
        )

    def counters(self, record: CounterRecord, plane: Plane = Plane.FBMU) -> dict[str, dict[str, int]]:
        """Return the sum over all CPUs of what one kind of program counted of a plane (counters.read_counters)."""
        cpus, number = bpf.possible_cpus(), record + (FBBU_RECORDS if plane is Plane.FBBU else 0)
        raw = bpf.map_lookup(self.fds["counters"], struct.pack("<I", number), COUNTERS.size * cpus) or b""
        sums: dict[str, dict[str, int]] = {}
        for cpu in range(cpus):
            for group, names in read_counters(raw, cpu * COUNTERS.size).items():
                into = sums.setdefault(group, dict.fromkeys(names, 0))
                for name, value in names.items():
                    into[name] += value
        return sums

    def set_station(self, ifindex: int, mac: bytes) -> None:
        """Tell the programs an interface's own MAC: only what is for it is dropped when no lease is concerned."""
        bpf.map_update(self.fds["stations"], struct.pack("<I", ifindex), mac.ljust(8, b"\0"))

    def forget_station(self, ifindex: int) -> None:
        bpf.map_delete(self.fds["stations"], struct.pack("<I", ifindex))

    def quiesce(self) -> None:
        """Return when no program still works on what it checked before this call.

        The kernel waits for all running programs whenever user space changes a map of maps (maybe_wait_bpf_programs
        in kernel/bpf/syscall.c), so we put a slab where it is already.
        """
        bpf.map_update(self.fds["slabs"], _ONE, struct.pack("<I", self.fds[f"{_SLAB}0"]))

    def close(self) -> None:
        _close_all(self.fds)
        self.fds = {}


def _fresh(slots: int, sizes: list[int]) -> Iterator[tuple[str, int]]:
    """Create one map after the other; all slabs have one size, as the map of maps wants it."""
    if not sizes:
        raise Unsupported("XDP", "no memory to lease", "give --mem-capacity")
    each = (SLAB_BYTES if len(sizes) > 1 else sizes[0]) + SLAB_MARGIN
    create, kind, shared = bpf.map_create, bpf.MapType, bpf.BPF_F_MMAPABLE
    yield "slots", create(kind.ARRAY, 4, SLOT.size, slots, shared, "fb_slots")
    yield "lease_index", create(kind.ARRAY, 4, index_bytes(slots), 1, shared, "fb_index")
    first = create(kind.ARRAY, 4, each, 1, shared, "fb_slab")
    yield f"{_SLAB}0", first
    for number in range(1, len(sizes)):
        yield f"{_SLAB}{number}", create(kind.ARRAY, 4, each, 1, shared, "fb_slab")
    yield "slabs", create(kind.ARRAY_OF_MAPS, 4, 4, len(sizes), 0, "fb_slabs", first)
    yield "counters", create(kind.PERCPU_ARRAY, 4, COUNTERS.size, 2 * FBBU_RECORDS, 0, "fb_counters")
    yield "stations", create(kind.HASH, 4, 8, STATIONS, 0, "fb_stations")


def _close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _network_order(port: int) -> int:
    """Return the number that a native u16 has whose bytes are the port's on the wire."""
    (number,) = struct.unpack("=H", struct.pack(">H", port))
    return int(number)
