"""The daemon's side of a user-space server process: start, watch, wait until it is at rest, stop."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from fabricbios.dataplane.counters import COUNTERS, read_counters
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.serve import READY, STORE, ServeSpec
from fabricbios.dataplane.shared import LeaseBoard, Region, counter_page
from fabricbios.dataplane.slab import Slab
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.store_faults import faults_of, page_bytes
from fabricbios.dataplane.trace_server import ServerTrace, trace_page
from fabricbios.hw.syscalls import fence

START_SECONDS = 60.0  # Python starts in a tenth of one; a small machine that boots, or an emulated one, takes ten
STOP_SECONDS, KILL_SECONDS, QUIESCE_SECONDS = 2.0, 0.5, 0.25


class ServerProcess:
    """One process that serves `plane` on `sockets` (bound, blocking, UDP), which stay the daemon's.

    `pidfd` becomes readable when the process ends, whatever ended it; start() again serves on, with the
    same leases, bytes and counters. FBBU's `slabs` are its files and devices, by device number.
    """

    def __init__(
        self,
        plane: Plane,
        sockets: Sequence[socket.socket],
        board: LeaseBoard,
        slabs: Sequence[Slab] = (),
        sync: Sync = Sync.DATASYNC,
    ) -> None:
        self._plane, self._sockets, self._board, self._slabs, self._sync = plane, sockets, board, slabs, sync
        self._counters, self._trace = counter_page(), trace_page()
        self._faults = Region.create("faults", page_bytes(len(slabs)))
        self.faults = faults_of(self._faults.buffer, len(slabs))
        """What FBBU's stores answered with errors, in the order of `slabs`."""
        self.trace = ServerTrace(self._trace.buffer)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.pidfd = -1

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it and return when it serves; OSError if it does not within `seconds`."""
        self.spawn()
        self._await_ready(seconds)

    def spawn(self) -> None:
        """Start it and let it come to serve by itself: who must not wait looks at `pidfd` alone. OSError."""
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs:
            spec = self._spec(theirs.fileno())
            # -P: else `-m` would import from wherever we were started, and that may be anybody's directory
            command = [sys.executable, "-P", "-m", __package__ + ".serve", json.dumps(spec._asdict())]
            self._process = subprocess.Popen(command, pass_fds=spec.descriptors(), process_group=0)
        self._control, self.pidfd = ours, os.pidfd_open(self._process.pid)

    def _spec(self, control: int) -> ServeSpec:
        regions = (self._board.slots, self._board.lookup, self._counters, self._trace, self._faults)
        slots, lookup, counters, trace, faults = ((region.fd, region.size) for region in regions)
        slabs = [(slab.fd, slab.size) for slab in self._slabs]
        sockets = [s.fileno() for s in self._sockets]
        return ServeSpec(self._plane.name, control, sockets, slots, lookup, counters, trace, faults, slabs, self._sync)

    def _await_ready(self, seconds: float) -> None:
        assert self._control is not None
        self._control.settimeout(seconds)
        try:
            ready = self._control.recv(1)
        except TimeoutError:
            ready = b""
        if ready != READY:
            self.stop()
            raise OSError(errno.ECHILD, f"the {self._plane.name} server process did not start")

    @property
    def pid(self) -> int | None:
        """Return the process id while it runs."""
        return self._process.pid if self._process is not None and self.poll() is None else None

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal), None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what it counted, all its lives together (counters.read_counters)."""
        return read_counters(self._counters.buffer)

    def refit(self, at: int) -> None:
        """Hand the descriptor of store number `at` over once more: the store behind it is gone, or back.

        A server that ends just now, or does not run, finds it when it is started. OSError(EAGAIN) where it has not
        taken up the last ones: it is stuck in a store.
        """
        if self._control is None:
            return
        self._control.setblocking(False)
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._control, [STORE.pack(at)], [self._slabs[at].fd])

    def quiesce(self, seconds: float = QUIESCE_SECONDS) -> None:
        """Return when no question that was checked before this call is still being answered.

        Call it after the store that ends a lease and before its bytes are touched. The server says so with a counter
        that is odd while it works on a batch. Here the store comes before the look at the counter, there the counter
        before the look at the lease, and the fence between ours is one on its processor, too (hear_fences): one of us
        sees what the other stored. OSError(ETIMEDOUT) if the server was stopped in the middle.
        """
        deadline = time.monotonic() + seconds
        fence()
        seen = self._batch()
        while seen & 1 and self._batch() == seen and self.pid is not None:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"the {self._plane.name} server is stuck in a batch")
            time.sleep(0.0002)

    def _batch(self) -> int:
        return int(COUNTERS.get(self._counters.buffer, 0, "batch"))

    def close(self) -> None:
        """Stop, for good."""
        self.stop()
        self._counters.close()
        self._trace.close()
        self._faults.close()

    def stop(self) -> None:
        """End it, by force if it must be; nothing happens if it does not run."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # in a device that does not answer
                    self._process.wait(KILL_SECONDS)
            if self.poll() is not None:
                self._process = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
