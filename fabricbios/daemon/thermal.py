"""Samples the temperatures that GET_THERMAL answers with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fabricbios.core.node import Node
from fabricbios.daemon.clock import now
from fabricbios.hw import thermal
from fabricbios.hw.sysfs import Sysfs
from fabricbios.wire.thermal import NvmeStatus, NvmeTempMilliC, SocStatus, SocTempMilliC, ThrottledBits
from fabricbios.wire.tlv import TlvValue

EVERY_SECONDS = 10.0


class Thermal:
    """Reads at once and then every EVERY_SECONDS; sysfs and SMART answer quickly, so in the loop's own thread."""

    def __init__(self, node: Node, simulated: bool) -> None:
        self._node, self._simulated = node, simulated
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._simulated:
            self._node.set_thermal((), now())
            return
        fs = Sysfs()
        reading = thermal.read(fs, thermal.smart_temperature(fs))
        self._node.set_thermal(tuple(tlvs(reading)), now())
        self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self.start)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()


def tlvs(reading: thermal.Reading) -> Iterator[TlvValue]:
    """Yield what this platform can tell; what it has no sensor for is left out (wire encoding, GET_THERMAL)."""
    if reading.soc_temp_milli_c is not None:
        yield SocTempMilliC(reading.soc_temp_milli_c)
    if reading.soc_status is not None:
        yield SocStatus(reading.soc_status)
    if reading.throttled is not None:
        yield ThrottledBits(int(reading.throttled))
    if reading.nvme_temp_milli_c is not None:
        yield NvmeTempMilliC(reading.nvme_temp_milli_c)
    if reading.nvme_status is not None:
        yield NvmeStatus(reading.nvme_status)
