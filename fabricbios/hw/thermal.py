"""Temperatures: thermal zones, hwmon sensors and NVMe, and the few values that GET_THERMAL carries.

Source: Documentation/driver-api/thermal/sysfs-api.rst, Documentation/hwmon/sysfs-interface.rst, wire encoding
"GET_THERMAL" (validity bounds, status values). All temperatures are milli-degrees Celsius.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from fabricbios.hw import nvme
from fabricbios.hw.sysfs import Sysfs

THERMAL, HWMON = "/sys/class/thermal", "/sys/class/hwmon"
MIN_MILLI_C, MAX_MILLI_C = -40_000, 150_000  # wire encoding: outside is malformed
FIRMWARE_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi vendor kernel
NOW_THROTTLED = 0x2 | 0x4 | 0x8  # its bits: frequency capped, throttled, soft limit; 0x1 is under-voltage
CPU_COOLERS = re.compile(r"Processor|.*cpufreq.*|intel_powerclamp")
# Best first: which zone or hwmon chip speaks for the SoC or the CPU package.
SOC_ZONES = re.compile(
    r"x86_pkg_temp|(cpu|soc|package|cluster|big|little)\d*[-_]?thermal(-\d+)?|cpu[-_]?\d*|soc|B0D4|TCPU"
)
SOC_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "scpi_sensors")
FALLBACK_ZONES = ("acpitz",)


class SensorStatus(IntEnum):
    """soc_status and nvme_status of GET_THERMAL."""

    OK = 0
    UNAVAILABLE = 1
    STALE = 2


class Zone(NamedTuple):
    """`trips` are (type, milli-degrees); `temp_milli_c` is None where the sensor does not answer or lies."""

    name: str
    kind: str
    temp_milli_c: int | None
    trips: tuple[tuple[str, int], ...]


class Sensor(NamedTuple):
    """One temperature of a hwmon chip. `device` is what the chip measures: a PCI address, nvme0, a platform device."""

    name: str
    chip: str
    device: str
    label: str
    temp_milli_c: int | None
    critical_milli_c: int | None


class Cooler(NamedTuple):
    """A cooling device; above state 0 it is at work."""

    name: str
    kind: str
    state: int | None
    max_state: int | None


class Thermals(NamedTuple):
    """Everything found. `throttled` is None where nothing could tell."""

    zones: tuple[Zone, ...]
    sensors: tuple[Sensor, ...]
    coolers: tuple[Cooler, ...]
    throttled: bool | None


class Reading(NamedTuple):
    """What GET_THERMAL answers. A status of None means that this platform has no such sensor: its TLVs are left out."""

    soc_temp_milli_c: int | None
    soc_status: SensorStatus | None
    throttled: bool | None
    nvme_temp_milli_c: int | None
    nvme_status: SensorStatus | None


SmartTemperature = Callable[[str], int | None]  # controller ("nvme0") -> milli-degrees; may raise OSError


def detect(fs: Sysfs) -> Thermals:
    zones = tuple(_zone(fs, name) for name in fs.names(THERMAL, r"thermal_zone\d{1,5}"))
    coolers = tuple(_cooler(fs, name) for name in fs.names(THERMAL, r"cooling_device\d{1,5}"))
    sensors = tuple(sensor for name in fs.names(HWMON, r"hwmon\d{1,5}") for sensor in _sensors(fs, name))
    return Thermals(zones, sensors, coolers, _throttled(fs, zones, coolers))


def read(fs: Sysfs, smart: SmartTemperature | None = None) -> Reading:
    """Sample the values of GET_THERMAL now. `smart` asks a controller that has no hwmon; the hottest one counts.

    A disk over fabrics is in another machine, and so is its temperature.
    """
    found = detect(fs)
    soc = soc_temperatures(found)
    controllers = {c.kernel_name: c.transport in nvme.FABRICS for c in nvme.detect(fs)}
    here = [s for s in found.sensors if s.chip == "nvme" and not controllers.get(s.device)]
    disks = [s.temp_milli_c for s in here if s.label in ("Composite", "")]
    if not disks and smart:
        disks = [_ask(smart, name) for name, elsewhere in controllers.items() if not elsewhere]
    soc_temp, disk_temp = _hottest(soc), _hottest(disks)
    return Reading(soc_temp, _status(soc, soc_temp), found.throttled, disk_temp, _status(disks, disk_temp))


def smart_temperature(fs: Sysfs) -> SmartTemperature:
    """Return a reader of the real controllers' SMART logs (wants CAP_SYS_ADMIN)."""
    return lambda controller: nvme.smart(str(fs.path(f"/dev/{controller}"))).temp_milli_c


def soc_temperatures(found: Thermals) -> list[int | None]:
    """Return what the best kind of sensor present says of the SoC; [] where there is none."""
    by_zone = [z.temp_milli_c for z in found.zones if SOC_ZONES.fullmatch(z.kind)]
    by_chip = [s.temp_milli_c for s in found.sensors if s.chip in SOC_CHIPS]
    fallback = [z.temp_milli_c for z in found.zones if z.kind in FALLBACK_ZONES]
    return by_zone or by_chip or fallback


def in_bounds(value: int | None) -> int | None:
    """Return a temperature that the wire may carry, None for one that no sensor can mean."""
    return value if value is not None and MIN_MILLI_C <= value <= MAX_MILLI_C else None


def _zone(fs: Sysfs, name: str) -> Zone:
    at = f"{THERMAL}/{name}"
    trips = []
    for file in fs.names(at, r"trip_point_\d{1,3}_temp"):
        value = in_bounds(fs.number(f"{at}/{file}"))
        if value is not None:
            trips.append((fs.text(f"{at}/{file.removesuffix('_temp')}_type"), value))
    return Zone(name, fs.text(f"{at}/type"), in_bounds(fs.number(f"{at}/temp")), tuple(trips))


def _cooler(fs: Sysfs, name: str) -> Cooler:
    at = f"{THERMAL}/{name}"
    return Cooler(name, fs.text(f"{at}/type"), fs.number(f"{at}/cur_state"), fs.number(f"{at}/max_state"))


def _sensors(fs: Sysfs, name: str) -> list[Sensor]:
    at = f"{HWMON}/{name}"
    chip, device = fs.text(f"{at}/name"), fs.link(f"{at}/device")
    found = []
    for file in fs.names(at, r"temp\d{1,4}_input"):
        base = f"{at}/{file.removesuffix('_input')}"
        value, critical = in_bounds(fs.number(f"{at}/{file}")), in_bounds(fs.number(f"{base}_crit"))
        found.append(Sensor(f"{name}/{file}", chip, device, fs.text(f"{base}_label"), value, critical))
    return found


def _throttled(fs: Sysfs, zones: tuple[Zone, ...], coolers: tuple[Cooler, ...]) -> bool | None:
    """A CPU cooler at work, a zone at its passive trip, or the Pi's firmware says so; None if nobody can tell."""
    states = [c.state for c in coolers if CPU_COOLERS.fullmatch(c.kind) and c.state is not None]
    verdicts = [state > 0 for state in states]
    for zone in zones:
        passive = [temp for kind, temp in zone.trips if kind == "passive"]
        if passive and zone.temp_milli_c is not None:
            verdicts.append(zone.temp_milli_c >= min(passive))
    firmware = fs.number(FIRMWARE_THROTTLED, 16)
    if firmware is not None:
        verdicts.append(bool(firmware & NOW_THROTTLED))
    return any(verdicts) if verdicts else None


def _ask(smart: SmartTemperature, controller: str) -> int | None:
    try:
        return in_bounds(smart(controller))
    except OSError:
        return None  # becomes UNAVAILABLE below: the sensor is there and did not answer


def _hottest(values: list[int | None]) -> int | None:
    return max((v for v in values if v is not None), default=None)


def _status(values: list[int | None], best: int | None) -> SensorStatus | None:
    if not values:
        return None
    return SensorStatus.OK if best is not None else SensorStatus.UNAVAILABLE
