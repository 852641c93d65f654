"""What one question costs inside the XDP program: BPF_PROG_TEST_RUN with repeats, and no network around it.

bench/c/repeat.bpf.c puts frame and window back before each run; what that costs is measured alone and taken off.
The scale of a machine is what an HMAC-SHA256 of one question costs in it: 645 ns where the limits were set.
"""

from __future__ import annotations

import os
import statistics
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fbmu_user import KEY, LEASE_ID, Load, question

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.build import compile_object, link
from fabricbios.dataplane.keys import KeySchedule
from fabricbios.dataplane.slots import SLOT, Extent, Plane, SlotLease
from fabricbios.dataplane.xdp_frame import wrap
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.hw import bpf
from fabricbios.model import DpAuth, DpOp
from fabricbios.wire import Tagger

PORT, TEMPLATE, SOURCE = 5702, 128, Path(__file__).parent / "c" / "repeat.bpf.c"
ROUNDS, REPEAT = 60, 2000
LIMITS = {
    (64, DpAuth.HMAC_HEADER): 780,
    (64, DpAuth.BLAKE2S_FULL): 550,
    (64, DpAuth.SIPHASH_FULL): 230,
    (1024, DpAuth.SIPHASH_FULL): 900,
}
ASKED = [(size, auth) for size in (64, 1024) for auth in DpAuth]


class Cost(NamedTuple):
    """The best of `runs` means, less what the repeating costs; `limit` is the issue's, "-" where it has none."""

    name: str
    nanoseconds: float
    limit: str
    runs: int
    spread: float


class Repeater:
    """The program of repeat.bpf.c over maps of its own."""

    def __init__(self, maps: XdpMaps, template: int, program: int) -> None:
        self._maps, self._template, self._program = maps, template, program
        board = maps.board()
        self._mapped, table = board.slots.buffer, maps.table(board)
        lease = SlotLease(LEASE_ID, Plane.FBMU, Extent(0, 1 << 20), 3, DpAuth(0), KEY, 1, 1 << 62, 1408, 1404)
        table.install(lease, 0)

    def cost(self, size: int, auth: DpAuth) -> Cost:
        for name, value in {"auth": int(auth), **KeySchedule.of(KEY, auth)._asdict()}.items():
            SLOT.set(self._mapped, 0, name, value)
        asked = question(Load(DpOp.READ, size, auth), 5, Tagger(auth, KEY))
        frame = bytearray(wrap(asked, PORT, v6=False).ljust(TEMPLATE, b"\0"))
        struct.pack_into(">H", frame, 34, PORT)  # the answer's destination: the ports change places each time
        bpf.map_update(self._template, struct.pack("<I", 0), bytes(frame[:TEMPLATE]))
        served, restored = (self._rounds(bytes(frame), only) for only in (False, True))
        nanoseconds = min(served) - min(restored)
        spread = (statistics.median(served) - min(served)) / nanoseconds
        limit = str(LIMITS.get((size, auth), "-"))
        return Cost(f"READ {size} B, {auth.name}", nanoseconds, limit, ROUNDS, spread)

    def _rounds(self, frame: bytes, only_restore: bool) -> list[int]:
        flag = bytes([only_restore]).ljust(TEMPLATE, b"\0")
        bpf.map_update(self._template, struct.pack("<I", 1), flag)
        runs = [bpf.prog_test_run(self._program, frame, REPEAT) for _ in range(ROUNDS)]
        wanted = bpf.XdpAction.PASS if only_restore else bpf.XdpAction.TX
        if any(done.action != wanted for done in runs):
            raise RuntimeError("the question was not answered every time")
        return [done.duration_ns for done in runs]


@contextmanager
def repeater() -> Iterator[Repeater]:
    maps = XdpMaps.create(8, 1 << 20)
    template = bpf.map_create(bpf.MapType.ARRAY, 4, TEMPLATE, 2, 0, "template")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "repeat.bpf.o"
        blob = link(target, compile_object(target, SOURCE))
    maps.fds["template"] = template
    program = xdp_program.load(maps, PORT, 0, CounterRecord.NATIVE, blob)
    try:
        yield Repeater(maps, template, program)
    finally:
        os.close(program)
        maps.close()


def costs() -> list[Cost]:
    """Measure every mode at 64 and 1024 bytes."""
    with repeater() as repeats:
        return [repeats.cost(size, auth) for size, auth in ASKED]
