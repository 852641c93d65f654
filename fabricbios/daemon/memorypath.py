"""The memory data path as the daemon composes it, picked once at start and shown by `status`.

The kernel serves where it can (XdpMemory), else a process of ours does (UserMemory); both on the same
slots and with the same MemoryPlane above them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from fabricbios.daemon.blockcheck import BlockCheck, Counters
from fabricbios.daemon.config import Config
from fabricbios.daemon.planesockets import bound_sockets, listeners
from fabricbios.daemon.serverwatch import ServerWatch
from fabricbios.dataplane.memory import SLOT_STEP, MemoryPlane
from fabricbios.dataplane.quiescence import SharedWait
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import PAGE, Memory
from fabricbios.dataplane.slots import Plane, SlotCounters, SlotTable
from fabricbios.dataplane.trace import Traced
from fabricbios.dataplane.trace_xdp import XdpTrace
from fabricbios.dataplane.xdp import Choice, Station, XdpPath
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_pins import BPFFS
from fabricbios.dataplane.xdp_selftest import self_test
from fabricbios.dataplane.xdp_socket import XdpSocketServer
from fabricbios.errors import Unsupported
from fabricbios.hw.netdevice import driver_of, interface_of, mtu_of
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import Transport, hex128

log = logging.getLogger("fabricbios.memory")
USER_SLOTS = 1 << 16  # memory that comes to be as it is used
XDP_SLOTS = 1 << 14  # memory that a BPF map takes at once


class MemoryPath(Protocol):
    """`label` is xdp_native, xdp_generic or user, `reason` why, for people. Undoing `slow_steps` may take long."""

    label: str
    reason: str
    slots: int
    port: int
    capacity: int
    slow_steps: frozenset[str]

    @property
    def traced(self) -> Traced:
        """Return the stopwatch of what serves."""

    @property
    def check(self) -> BlockCheck | None:
        """Return what checks the datagrams of the block port, None where nothing does."""

    def open(self, controls: Sequence[tuple[str, int]]) -> MemoryPlane:
        """Serve, and return the plane. `controls` are the QUIC endpoints, for ENDPOINT."""

    def counters(self) -> Counters: ...

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        """Return what one lease was asked for, None if it is not of this plane."""

    def close(self, keep: bool) -> None:
        """Stop serving; with `keep` what outlives a daemon stays for the next one."""


def counters_of(table: SlotTable, plane: Plane, lease_id: int) -> SlotCounters | None:
    """Return a lease's counters, None if it has no slot (any more) or is another plane's."""
    slot = table.find(lease_id)
    return None if slot is None or table.get(slot, "plane") != plane else table.counters(slot)


def memory_path(config: Config, node_id: int, fbbu_port: int = 0) -> MemoryPath:
    """Pick the path, which checks the datagrams to `fbbu_port`, too, if it is the kernel's and there is one.

    AlreadyRunning if the port of memory is taken, OSError without memory.
    """
    instance = hex128(node_id)
    wanted, why = _stations(config)
    if wanted:
        try:
            xdp = XdpMemory(config, instance, wanted, fbbu_port)
        except (Unsupported, OSError) as e:
            why = str(e)
        else:
            if xdp.label != "user":
                return xdp
            why = xdp.reason
            xdp.close(keep=False)
    if config.xdp in ("native", "generic"):
        log.warning("no XDP although it is asked for: %s", why)
    _discard(instance)
    return UserMemory(config, why)


def _stations(config: Config) -> tuple[list[Station], str]:
    """Return the interfaces to serve in the kernel, else why there are none."""
    if config.xdp == "off":
        return [], "XDP is off"
    if not config.mem_capacity and not config.block:
        return [], "nothing to lease over it"
    names = list(config.xdp_iface) or [name for bind in config.bind if (name := interface_of(bind)) not in ("", "lo")]
    if not names:
        return [], f"--bind {', '.join(config.bind)} names no network interface, and XDP wants one: --xdp-iface"
    try:
        return [Station.named(name) for name in dict.fromkeys(names)], ""
    except OSError as e:
        return [], f"--xdp-iface {', '.join(names)}: {e.strerror}"


def _discard(instance: str) -> None:
    """Take down what a predecessor left in the kernel and this one will not adopt; its leases end."""
    try:
        left = (BPFFS / "fabricbios" / instance).exists()
        if left:
            XdpPath.open(instance, 1, 1).stop()
            log.warning("took down an earlier daemon's XDP path")
    except (OSError, Unsupported) as e:
        log.error("an earlier daemon's XDP path is still there: %s", e)


class UserMemory:
    """Memory in memfds, served by a process of ours."""

    label = "user"
    slots = USER_SLOTS
    slow_steps: frozenset[str] = frozenset()
    check: BlockCheck | None = None

    def __init__(self, config: Config, reason: str) -> None:
        self.reason = reason
        with contextlib.ExitStack() as undo:
            self._sockets = bound_sockets(config.bind, config.fbmu_port, "fbmu-port")
            for sock in self._sockets:
                undo.callback(sock.close)
            self.port = self._sockets[0].getsockname()[1]
            self._memory = Memory.create(config.mem_capacity)
            self.capacity = self._memory.size
            board = LeaseBoard.create(self.slots)
            self._server = ServerProcess(Plane.FBMU, self._sockets, board, self._memory.slabs)
            self._table = board.table()
            self._watch = ServerWatch(self._server, "FBMU")
            self._undo = undo.pop_all()

    @property
    def traced(self) -> Traced:
        return self._server.trace

    def open(self, controls: Sequence[tuple[str, int]]) -> MemoryPlane:
        self._watch.start()
        reached = listeners(Transport.FBMU_UDP, self._sockets, Transport.FBMU_QUIC, controls)
        return MemoryPlane(self._table, self._memory, reached, self._server.quiesce, mtu_of=mtu_of)

    def counters(self) -> Counters:
        return {self.label: self._server.counters()}

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        return counters_of(self._table, Plane.FBMU, lease_id)

    def close(self, keep: bool) -> None:
        self._watch.close()
        self._undo.close()


class XdpMemory:
    """Memory in BPF maps, served by XDP; what reaches the sockets all the same is answered by the same program."""

    slots = XDP_SLOTS
    slow_steps = frozenset({SLOT_STEP})  # its undo waits for the programs on every CPU

    def __init__(self, config: Config, instance: str, stations: list[Station], fbbu_port: int) -> None:
        with contextlib.ExitStack() as undo:
            self._sockets = bound_sockets(config.bind, config.fbmu_port, "fbmu-port")
            for sock in self._sockets:
                undo.callback(sock.close)
            self.port = self._sockets[0].getsockname()[1]
            self._path = XdpPath.open(instance, self.slots, config.mem_capacity or PAGE)
            with contextlib.ExitStack() as broken:
                broken.callback(self._path.stop)
                self._start(config, stations, fbbu_port)
                broken.pop_all()
            self._undo = undo.pop_all()

    def _start(self, config: Config, stations: list[Station], fbbu_port: int) -> None:
        if self._path.drained:
            log.warning("leases of another release's data path are over (%s)", ", ".join(self._path.drained))
        board = self._path.maps.board()
        self._table = self._path.maps.table(board)
        self._memory = Memory(self._path.maps.slabs())
        self.capacity = self._memory.size
        wanted, why = _mode(config, stations)
        choices = self._path.start(stations, self.port, fbbu_port, wanted, _self_test_beside)
        self.label, self.reason = _summary(choices, why)
        self.check: BlockCheck | None = None
        if fbbu_port:
            self.check = BlockCheck(self.label, self.reason, board, self._table, self._blocks, self._path.quiesce)
        else:
            self._forget_blocks()
        self._rest = XdpSocketServer(self._path.answer, self._sockets)
        self.traced: Traced = XdpTrace(self._path)
        self._serving = False

    def _forget_blocks(self) -> None:
        """Nobody serves block leases now: a predecessor did."""
        for lease_id, slot in self._table:
            if self._table.get(slot, "plane") == Plane.FBBU:
                self._table.clear(lease_id, boottime_ns())

    def _blocks(self) -> Counters:
        """Return what the programs did with block datagrams; what the server did is for it to say."""
        counted = self._path.counters(Plane.FBBU)
        return {label: counters for label, counters in counted.items() if label != "user"}

    def open(self, controls: Sequence[tuple[str, int]]) -> MemoryPlane:
        self._rest.start()
        self._serving = True
        reached = listeners(Transport.FBMU_UDP, self._sockets, Transport.FBMU_QUIC, controls)
        return MemoryPlane(
            self._table,
            self._memory,
            reached,
            SharedWait(self._path.quiesce),
            mtu_of=mtu_of,
            recovered=self._path.adopted,
        )

    def counters(self) -> Counters:
        return self._path.counters()

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        return counters_of(self._table, Plane.FBMU, lease_id)

    def close(self, keep: bool) -> None:
        if self._serving:
            self._rest.close()
        if keep:
            self._path.release()
        else:
            self._path.stop()
        self._undo.close()


def _self_test_beside(mode: CounterRecord) -> str:
    """Run the self-test in a thread: its netlink library wants an event loop of its own. We wait for it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(self_test, mode).result()


def _mode(config: Config, stations: Sequence[Station]) -> tuple[str, str]:
    """Return the mode to ask for, and why it is not the configured one.

    What a veth sends by native XDP_TX vanishes unless its peer has an XDP program (GRO alone was not enough, measured
    on 6.18), which cannot be seen from here: in generic mode it always arrives.
    """
    veths = [station.name for station in stations if driver_of(station.name) == "veth"]
    if config.xdp == "auto" and veths:
        return "generic", f"{', '.join(veths)}: a veth loses native answers but where its peer has XDP: --xdp native"
    return config.xdp, ""


def _summary(choices: Sequence[Choice], why: str) -> tuple[str, str]:
    """Return the best path in use, and how each interface is served."""
    for label in ("xdp_native", "xdp_generic", "user"):
        if any(choice.path == label for choice in choices):
            break
    each = [f"{c.ifname} {c.path}" + (f" ({c.reason})" if c.reason else "") for c in choices]
    return label, "; ".join([*each, why] if why else each)
