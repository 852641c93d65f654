"""Frames that XDP sends back on one core, with no client: BPF_PROG_TEST_RUN with live frames.

The kernel runs the program on frames of its own and really sends what it answers by XDP_TX: through a veth pair, whose
other end drops in XDP. Every frame is a fresh authentic READ of 64 bytes (bench/c/live.bpf.c copies it in, which the
row "copied in and sent, nothing served" costs as well); nonces go up by one, as a client's. All that happens on one
core, the other end's drop too; the rate is frames by the CPU time of this process and of that core's ksoftirqd.
"""

from __future__ import annotations

import ctypes
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
# ruff: noqa: E402

from fbmu_user import KEY, LEASE_ID, Load, question
from netns_rig import VethPair
from report import Row, run
from stage import cpu_seconds, go_first, inside, ksoftirqd

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

PORT, SOURCE = 5702, HERE / "c" / "live.bpf.c"
FRAME, FRAME_ROOM, QUESTIONS, BATCH = 170, 176, 8192, 64
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
TURN, XDP_MD = struct.Struct("=III"), struct.Struct("=IIIIII")
ATTR_TEST = struct.Struct("=IIIIQQIIIIQQIII4x")  # attr.test of union bpf_attr
DROP_ALL = bytes.fromhex("b7000000010000009500000000000000")  # r0 = XDP_DROP; exit
WANTED = {DpAuth.HMAC_HEADER: 1.0e6, DpAuth.BLAKE2S_FULL: 1.5e6, DpAuth.SIPHASH_FULL: 3.0e6}
ONE = struct.pack("=I", 0)


class Course(NamedTuple):
    """The program, its maps, the mapped slots, and the interface that it sends through."""

    maps: XdpMaps
    program: int
    slots: memoryview
    pair: VethPair

    def fill(self, auth: DpAuth) -> None:
        """Give the lease this mode, and the program the questions."""
        for name, value in {"auth": int(auth), **KeySchedule.of(KEY, auth)._asdict()}.items():
            SLOT.set(self.slots, 0, name, value)
        tagger = Tagger(auth, KEY)
        for i in range(QUESTIONS):
            asked = wrap(question(Load(DpOp.READ, 64, auth), i + 1, tagger), PORT, v6=False)
            bpf.map_update(self.maps.fds["frames"], struct.pack("=I", i), asked.ljust(FRAME_ROOM, b"\0"))

    def send(self, count: int, *, serves: bool) -> float:
        """Send so many frames; return how many a second of the core. RuntimeError: not all were answered OK."""
        bpf.map_update(self.maps.fds["turns"], ONE, TURN.pack(QUESTIONS, QUESTIONS, serves))
        served, core = self.answered(), min(os.sched_getaffinity(0))
        soft = cpu_seconds(ksoftirqd(core))
        begun = time.thread_time()
        self._run(count)
        spent = time.thread_time() - begun + cpu_seconds(ksoftirqd(core)) - soft
        if self.answered() - served != count * serves:
            raise RuntimeError(f"{self.answered() - served} of {count} questions were answered OK")
        return count / spent

    def answered(self) -> int:
        return self.maps.counters(CounterRecord.NATIVE)["bytes"]["read"] // 64

    def sent(self) -> int:
        """Return how many frames have come to the other end."""
        with inside(self.pair.here):
            return received(self.pair.iface)

    def _run(self, count: int) -> None:
        with inside(self.pair.there):
            context = ctypes.create_string_buffer(
                XDP_MD.pack(0, FRAME, 0, socket.if_nametoindex(self.pair.iface), 0, 0), XDP_MD.size
            )
            frame = ctypes.create_string_buffer(FRAME)
            sizes = (self.program, 0, FRAME, 0, ctypes.addressof(frame), 0, count, 0, XDP_MD.size, 0)
            attr = ATTR_TEST.pack(*sizes, ctypes.addressof(context), 0, LIVE_FRAMES, 0, BATCH)
            bpf.bpf(bpf.Cmd.PROG_TEST_RUN, attr)


def received(iface: str) -> int:
    """Return rx_packets of an interface of this namespace (/proc/net/dev)."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == iface:
            return int(figures.split()[1])
    raise LookupError(iface)


@contextmanager
def course() -> Iterator[Course]:
    with ExitStack() as stack:
        pair = VethPair("")
        stack.callback(pair.unmake)
        pair.make()
        maps = XdpMaps.create(8, 1 << 20)
        stack.callback(maps.close)
        maps.fds["frames"] = bpf.map_create(bpf.MapType.ARRAY, 4, FRAME_ROOM, QUESTIONS, 0, "frames")
        maps.fds["turns"] = bpf.map_create(bpf.MapType.ARRAY, 4, TURN.size, 1, 0, "turns")
        board = maps.board()
        lease = SlotLease(LEASE_ID, Plane.FBMU, Extent(0, 1 << 20), 3, DpAuth(0), KEY, 1, 1 << 62, 1408, 1404)
        maps.table(board).install(lease, 0)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        blob = link(scratch / "live.o", compile_object(scratch / "live.o", SOURCE), "")
        program = xdp_program.load(maps, PORT, 0, CounterRecord.NATIVE, blob)
        dropping = bpf.prog_load(bpf.Program("drop_all", DROP_ALL, "Apache-2.0"))
        with inside(pair.here):
            attached = bpf.link_xdp(dropping, socket.if_nametoindex(pair.iface), bpf.XDP_FLAGS_DRV_MODE)
        for fd in (program, dropping, attached):
            stack.callback(os.close, fd)
        yield Course(maps, program, board.slots.buffer, pair)


def rows(quick: bool) -> Sequence[Row]:
    count, rounds = 100_000, (10 if quick else 60)  # short ones, which now and then no neighbour meets
    go_first()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with course() as track:
        return [row for auth in (*WANTED, DpAuth.HMAC_FULL) for row in mode_rows(track, auth, count, rounds)]


def mode_rows(track: Course, auth: DpAuth, count: int, rounds: int) -> Iterator[Row]:
    """Yield one mode's rate, against what is asked for; with it the rate without us. They take turns."""
    track.fill(auth)
    before = track.sent()
    found = [(track.send(count, serves=True), track.send(count, serves=False)) for _ in range(rounds)]
    arrived = (track.sent() - before) / (2 * rounds * count)
    served, bare = ([pair[i] for pair in found] for i in (0, 1))
    for name, rates, wanted in (
        ("answered", served, WANTED.get(auth)),
        ("copied in and sent, nothing served", bare, None),
    ):
        ours = statistics.median(rates)
        case = f"{auth.name}: {name} (best {max(rates):,.0f}; {arrived:.1%} of all came to the other end)"
        ratio = ours / wanted if wanted else None
        yield Row(
            case, ours, "frames/s of the core", "asked for", wanted, ratio, rounds, (max(rates) - min(rates)) / ours
        )


def main(argv: Sequence[str] | None = None) -> int:
    return run("xdp_live", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
