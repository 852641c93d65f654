"""The kernel path: leases served by XDP, and what the daemon needs to know of it (D10; design.md, "Probe").

The daemon opens an XdpPath, builds SlotTable and Memory on its maps, starts it on interfaces, and from then on is not
on the path: renewing and revoking are stores into the slots. `release` leaves everything as it is for a successor,
`stop` takes it down. What reaches the socket all the same (an unpadded READ where the driver has no room for its
answer, IP options, an interface without XDP such as lo) is handed to the same program by `answer`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.blob import Blob
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.xdp_frame import strip, wrap
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.dataplane.xdp_pins import BPFFS, LinkKey, Pins
from fabricbios.dataplane.xdp_selftest import self_test
from fabricbios.errors import Unsupported
from fabricbios.hw import bpf

ATTACH_FLAGS = {CounterRecord.NATIVE: bpf.XDP_FLAGS_DRV_MODE, CounterRecord.GENERIC: bpf.XDP_FLAGS_SKB_MODE}
PATH_LABEL = {CounterRecord.NATIVE: "xdp_native", CounterRecord.GENERIC: "xdp_generic", CounterRecord.SOCKET: "user"}
MODES = {
    "auto": (CounterRecord.NATIVE, CounterRecord.GENERIC),
    "native": (CounterRecord.NATIVE,),
    "generic": (CounterRecord.GENERIC,),
    "off": (),
}
_WHY = {
    errno.EBUSY: "another XDP program is attached",
    errno.EEXIST: "another XDP program is attached",
    errno.EOPNOTSUPP: "the driver has no XDP",
    errno.EINVAL: "the driver refuses it (MTU above one page, or a feature that excludes XDP)",
    errno.ERANGE: "the driver refuses it (MTU above one page)",
    errno.EPERM: "CAP_NET_ADMIN is missing",
}

_SIOCGIFHWADDR = 0x8927

SelfTest = Callable[[CounterRecord], str]
"""Try a mode with a real packet: "" if it was answered, else what happened."""


class Station(NamedTuple):
    """An interface to serve: its index, name and MAC."""

    ifindex: int
    name: str
    mac: bytes

    @staticmethod
    def named(name: str) -> Station:
        """Ask the kernel (netdevice(7)). OSError(ENODEV) without such an interface."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            request = struct.pack("16s24x", name.encode()[:15])
            answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)
        return Station(socket.if_nametoindex(name), name, answer[18:24])


class Choice(NamedTuple):
    """How an interface is served: "xdp_native", "xdp_generic" or "user", and why not by what comes before."""

    ifname: str
    path: str
    reason: str


class XdpPath:
    """Maps, programs and links of one instance. Not safe for several threads at once, but for `answer`."""

    def __init__(self, pins: Pins, maps: XdpMaps, *, adopted: bool, drained: Sequence[str]) -> None:
        self.maps, self.adopted, self.drained = maps, adopted, tuple(drained)
        self._pins = pins
        self._programs: dict[CounterRecord, int] = {}
        self._links: dict[LinkKey, int] = {}
        self._ports = (0, 0)
        self.choices: list[Choice] = []

    @staticmethod
    def open(instance: str, slots: int, capacity: int, bpffs: Path = BPFFS) -> XdpPath:
        """Adopt what a predecessor left, or make maps for `slots` leases and `capacity` bytes and pin them.

        An adopted set keeps its own size. `drained` names the layout versions of other releases that had to go.
        Unsupported without bpffs or rights; OSError(ENOMEM) without the memory.
        """
        pins = Pins(instance, bpffs)
        pins.probe()
        try:
            drained = pins.sweep()
            maps = pins.maps()
            if maps is not None:
                return XdpPath(pins, maps, adopted=True, drained=drained)
            maps = XdpMaps.create(slots, capacity)
            pins.keep_maps(maps)
        except PermissionError as e:
            raise Unsupported("XDP", str(e), "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and a pin directory") from e
        return XdpPath(pins, maps, adopted=False, drained=drained)

    def start(
        self,
        stations: Iterable[Station],
        fbmu_port: int,
        fbbu_port: int,
        wanted: str = "auto",
        self_test: SelfTest = self_test,
    ) -> list[Choice]:
        """Serve `stations`; return how each is served. Links of a predecessor get this release's program in place.

        `wanted` is a key of MODES. Nothing is raised for an interface that will not: its Choice says "user" and why.
        """
        self._ports = (fbmu_port, fbbu_port)
        self._program(CounterRecord.SOCKET)
        left = self._pins.links()
        works = cache(lambda mode: self._refusal(mode, self_test))
        self.choices = [self._serve(station, MODES[wanted], works, left) for station in stations]
        for key, fd in left.items():
            self._detach(key, fd)
        return self.choices

    def _program(self, record: CounterRecord) -> int:
        if record not in self._programs:
            self._programs[record] = xdp_program.load(self.maps, *self._ports, record, Blob.shipped())
        return self._programs[record]

    def _refusal(self, mode: CounterRecord, self_test: SelfTest) -> str:
        """Return "" if a mode works here at all."""
        try:
            self._program(mode)
            return self_test(mode)
        except OSError as e:
            return f"{e.strerror or e}"

    def _serve(
        self,
        station: Station,
        modes: Sequence[CounterRecord],
        refusal: Callable[[CounterRecord], str],
        left: dict[LinkKey, int],
    ) -> Choice:
        """Take the first mode that works; `left` loses the link that is used."""
        reasons = [] if modes else ["XDP is off"]
        for mode in modes:
            why = refusal(mode) or self._attach(station, mode, left)
            if not why:
                return Choice(station.name, PATH_LABEL[mode], "; ".join(reasons))
            reasons.append(f"{mode.name.lower()}: {why}")
        return Choice(station.name, PATH_LABEL[CounterRecord.SOCKET], "; ".join(reasons))

    def _attach(self, station: Station, mode: CounterRecord, left: dict[LinkKey, int]) -> str:
        """Put the program on an interface, or behind the link that is there; return "" or why it cannot be."""
        key = LinkKey(mode, station.ifindex)
        self.maps.set_station(station.ifindex, station.mac)
        for other in [k for k in left if k.ifindex == station.ifindex and k != key]:
            self._detach(other, left.pop(other))
        try:
            if key in left and bpf.link_info(left[key]).ifindex == station.ifindex:
                self._links[key] = left.pop(key)
                bpf.link_update(self._links[key], self._program(mode))
                return ""
            if key in left:
                self._detach(key, left.pop(key))
            fd = bpf.link_xdp(self._program(mode), station.ifindex, ATTACH_FLAGS[mode])
        except OSError as e:
            return _WHY.get(e.errno or 0, e.strerror or str(e))
        self._links[key] = fd
        self._pins.keep_link(key, fd)
        return ""

    def _detach(self, key: LinkKey, fd: int) -> None:
        self._pins.drop_link(key)
        self.maps.forget_station(key.ifindex)
        os.close(fd)

    def answer(self, datagram: bytes, *, v6: bool = False) -> bytes | None:
        """Answer an FBMU datagram that came to the socket, by the program itself: one window, one set of checks.

        None: it draws no answer, and is counted. Costs a few microseconds.
        """
        done = bpf.prog_test_run(self._program(CounterRecord.SOCKET), wrap(datagram, self._ports[0], v6=v6))
        return strip(done.packet, v6=v6) if done.action == bpf.XdpAction.TX else None

    @property
    def socket_program(self) -> int:
        """Return the descriptor that a server process needs for `answer`."""
        return self._program(CounterRecord.SOCKET)

    @property
    def ports(self) -> tuple[int, int]:
        """Return the FBMU and the FBBU port that the programs take."""
        return self._ports

    def modes(self) -> frozenset[CounterRecord]:
        """Return the modes in which interfaces are served."""
        return frozenset(key.mode for key in self._links)

    def swap(self, programs: Mapping[CounterRecord, int]) -> None:
        """Put these programs behind the links, by mode, and our own where there is none. No frame meets none of them.

        An interface that is gone took its program with it. OSError where the kernel refuses.
        """
        for key, link in self._links.items():
            if bpf.link_info(link).ifindex:
                bpf.link_update(link, programs.get(key.mode, self._program(key.mode)))

    def counters(self, plane: Plane = Plane.FBMU) -> dict[str, dict[str, dict[str, int]]]:
        """Return by path label ("user" is what `answer` did) what counters.read_counters returns."""
        return {PATH_LABEL[record]: self.maps.counters(record, plane) for record in CounterRecord}

    def quiesce(self) -> None:
        """Return when no program, on any CPU, still works on what it checked before this call."""
        self.maps.quiesce()

    def release(self) -> None:
        """Let go and leave everything running for a successor (SIGUSR2, D8)."""
        for fd in (*self._links.values(), *self._programs.values()):
            os.close(fd)
        self._links, self._programs = {}, {}
        self.maps.close()

    def stop(self) -> None:
        """Take the programs off and remove every pin."""
        for key in list(self._links):
            self._detach(key, self._links.pop(key))
        self._pins.remove()
        self.release()
