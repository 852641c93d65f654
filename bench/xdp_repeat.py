"""What one question costs inside the XDP program: BPF_PROG_TEST_RUN with repeats, and no network around it.

bench/c/repeat.bpf.c puts frame and window back before each run; what that costs is measured alone and taken off.
The scale of a machine is what an HMAC-SHA256 of one question costs in it: 645 ns where the limits were set.

The question's nonce is one of the seven in eight that do not move the window's highest word (bpf/window.h).
"""

from __future__ import annotations

import os
import statistics
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
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
ROUNDS, REPEAT, NONCE = 60, 2000, 5
LIMITS = {
    (64, DpAuth.HMAC_HEADER): 780,
    (64, DpAuth.BLAKE2S_FULL): 550,
    (64, DpAuth.SIPHASH_FULL): 230,
    (1024, DpAuth.SIPHASH_FULL): 900,
}
ASKED = [(size, auth) for size in (64, 1024) for auth in DpAuth]


class Part(IntEnum):
    """How far the program goes (enum part of repeat.bpf.c). WHOLE is the shipped program as it is."""

    RESTORED = 0
    FOUND = 1
    TAG_HELD = 2
    JUDGED = 3
    NONCE_TAKEN = 4
    HEADS_WRITTEN = 5
    DATA_COPIED = 6
    ANSWER_TAGGED = 7
    COUNTED = 8
    WHOLE = 9


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
        frame = self.prepare(size, auth)
        found = self.measure(frame, (Part.RESTORED, Part.WHOLE), ROUNDS)
        served, restored = found[Part.WHOLE], found[Part.RESTORED]
        nanoseconds = min(served) - min(restored)
        spread = (statistics.median(served) - min(served)) / nanoseconds
        limit = str(LIMITS.get((size, auth), "-"))
        return Cost(f"READ {size} B, {auth.name}", nanoseconds, limit, ROUNDS, spread)

    def prepare(self, size: int, auth: DpAuth) -> bytes:
        """Give the lease this mode; return the frame of a READ for `measure`."""
        for name, value in {"auth": int(auth), **KeySchedule.of(KEY, auth)._asdict()}.items():
            SLOT.set(self._mapped, 0, name, value)
        asked = question(Load(DpOp.READ, size, auth), NONCE, Tagger(auth, KEY))
        frame = bytearray(wrap(asked, PORT, v6=False).ljust(TEMPLATE, b"\0"))
        struct.pack_into(">H", frame, 34, PORT)  # the answer's destination: the ports change places each time
        bpf.map_update(self._template, struct.pack("<I", 0), bytes(frame[:TEMPLATE]))
        return bytes(frame)

    def measure(self, frame: bytes, parts: Sequence[Part], rounds: int) -> dict[Part, list[int]]:
        """Return the means of `rounds` runs, in nanoseconds; the parts take turns. RuntimeError: one was not served."""
        found: dict[Part, list[int]] = {part: [] for part in parts}
        for _ in range(rounds):
            for part in parts:
                bpf.map_update(self._template, struct.pack("<I", 1), bytes([part]).ljust(TEMPLATE, b"\0"))
                done = bpf.prog_test_run(self._program, frame, REPEAT)
                if done.action != bpf.XdpAction.TX:
                    raise RuntimeError(f"{part.name}: the question was not served every time")
                found[part].append(done.duration_ns)
        return found


@contextmanager
def repeater() -> Iterator[Repeater]:
    maps = XdpMaps.create(8, 1 << 20)
    template = bpf.map_create(bpf.MapType.ARRAY, 4, TEMPLATE, 2, 0, "template")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "repeat.bpf.o"
        blob = link(target, compile_object(target, SOURCE), "")
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
