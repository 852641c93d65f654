"""Trace the kernel path: put the program with the stopwatch (bpf/trace) behind the links, and take it off again.

Every frame meets the one or the other, never none: BPF_LINK_UPDATE swaps under traffic. Wanted are the rights that
the path itself has, and nothing of the kernel beyond them: no kprobes, no fentry, no BTF, no headers, no compiler. If
the daemon is killed meanwhile the program stays, serves on, and records nothing more; the next daemon swaps in its own.
"""

from __future__ import annotations

import os
import struct

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.blob import TRACE_BLOB_FILE, Blob
from fabricbios.dataplane.trace import SERIES_COUNT, TRACE_PARAMS, TRACE_SERIES, Series, found, words_of
from fabricbios.dataplane.xdp import XdpPath
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.hw import bpf

_ONLY = struct.pack("<I", 0)


class XdpTrace:
    """Traces one XdpPath; an implementation of trace.Traced. Owns its maps and programs until stop()."""

    def __init__(self, path: XdpPath) -> None:
        self._path = path
        self._maps: dict[str, int] = {}
        self._programs: dict[CounterRecord, int] = {}

    def load(self) -> None:
        """Make maps and programs: the verifier takes some ten milliseconds. OSError where the kernel refuses."""
        self.stop()
        create, kind = bpf.map_create, bpf.MapType
        try:
            self._maps["trace_params"] = create(kind.ARRAY, 4, TRACE_PARAMS.size, 1, 0, "fb_trace_params")
            self._maps["trace_series"] = create(kind.PERCPU_ARRAY, 4, TRACE_SERIES.size, SERIES_COUNT, 0, "fb_trace")
            blob, (fbmu, fbbu) = Blob.shipped(TRACE_BLOB_FILE), self._path.ports
            for mode in self._path.modes():
                self._programs[mode] = xdp_program.load(self._path.maps, fbmu, fbbu, mode, blob, self._maps)
        except OSError:
            self.stop()
            raise

    def start(self, lease_id: bytes, until_ns: int) -> None:
        """Swap the programs in. OSError: an interface is gone; then those that were swapped are swapped back."""
        try:
            self._set(until_ns, lease_id)
            self._path.swap(self._programs)
        except OSError:
            self.stop()
            raise

    def extend(self, until_ns: int) -> None:
        raw = bpf.map_lookup(self._maps["trace_params"], _ONLY, TRACE_PARAMS.size) or bytes(TRACE_PARAMS.size)
        self._set(until_ns, TRACE_PARAMS.get(raw, 0, "lease_id"))

    def _set(self, until_ns: int, lease_id: bytes) -> None:
        bpf.map_update(self._maps["trace_params"], _ONLY, TRACE_PARAMS.pack(until_ns=until_ns, lease_id=lease_id))

    def read(self) -> list[Series]:
        """Return what all CPUs counted; costs 2 KB a series and CPU."""
        if not self._maps:
            return []
        size = TRACE_SERIES.size * bpf.possible_cpus()

        def records_of(number: int) -> list[memoryview]:
            raw = bpf.map_lookup(self._maps["trace_series"], struct.pack("<I", number), size) or b""
            return list(words_of(raw)) if any(raw) else []

        return found(records_of)

    def stop(self) -> None:
        """Give the interfaces their own programs back and let go of everything."""
        if self._programs:
            self._path.swap({})
        for fd in (*self._programs.values(), *self._maps.values()):
            os.close(fd)
        self._programs, self._maps = {}, {}
