"""Processors: how many, how they share cores, packages and NUMA nodes, and what they are.

Source: Documentation/admin-guide/cputopology.rst, proc_cpuinfo(5), Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fabricbios.hw.sysfs import Sysfs, index_list, to_int

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
# MIDR_EL1.Implementer: /proc/cpuinfo of arm64 gives numbers where x86 gives names.
ARM_IMPLEMENTERS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA",
    0x50: "APM", 0x51: "Qualcomm", 0x53: "Samsung", 0x56: "Marvell", 0x61: "Apple", 0x6D: "Microsoft", 0xC0: "Ampere",
}  # fmt: skip


class LogicalCpu(NamedTuple):
    """One hardware thread. `core` is (package, die, core) as numbered by firmware, None where unknown."""

    cpu: int
    online: bool
    core: tuple[int, int, int] | None
    node: int | None
    max_khz: int | None


class Cpus(NamedTuple):
    """`logical` counts threads online; `physical` cores, None where the topology is not told."""

    name: str
    vendor: str
    model: str
    logical: int
    physical: int | None
    packages: int | None
    smt: bool | None
    nodes: int
    max_khz: int | None
    allowed: tuple[int, ...]
    isolated: tuple[int, ...]
    cpus: tuple[LogicalCpu, ...]


def detect(fs: Sysfs) -> Cpus:
    """Return what is known of the processors; a machine without /sys still has /proc/cpuinfo."""
    info = _cpuinfo(fs)
    nodes = _nodes(fs)
    present = index_list(fs.text(f"{CPU}/present")) or _numbers(info, "processor")
    online = set(index_list(fs.text(f"{CPU}/online")) or present)
    node_of = {cpu: node for node, cpus in nodes.items() for cpu in cpus}
    cpus = tuple(_logical(fs, cpu, cpu in online, node_of.get(cpu)) for cpu in present)
    cores = {c.core for c in cpus if c.online and c.core}
    return Cpus(
        name="cpu",
        vendor=_vendor(info),
        model=_first(info, "model name") or _first(info, "uarch") or fs.text("/proc/device-tree/model"),
        logical=len(online),
        physical=len(cores) or None,
        packages=len({c[0] for c in cores}) or None,
        smt=_smt(fs, len(online), len(cores)),
        nodes=len(nodes),
        max_khz=max((c.max_khz for c in cpus if c.max_khz), default=None) or _khz_of_cpuinfo(info),
        allowed=_allowed(fs),
        isolated=index_list(fs.text(f"{CPU}/isolated")),
        cpus=cpus,
    )


def _logical(fs: Sysfs, cpu: int, online: bool, node: int | None) -> LogicalCpu:
    at = f"{CPU}/cpu{cpu}"
    core = fs.number(f"{at}/topology/core_id")
    package = fs.number(f"{at}/topology/physical_package_id")
    die = fs.number(f"{at}/topology/die_id") or 0
    where = (package, die, core) if core is not None and package is not None else None
    return LogicalCpu(cpu, online, where, node, fs.positive(f"{at}/cpufreq/cpuinfo_max_freq"))


def _nodes(fs: Sysfs) -> dict[int, tuple[int, ...]]:
    names = fs.names(NODE, r"node\d{1,5}")
    return {int(name[4:]): index_list(fs.text(f"{NODE}/{name}/cpulist")) for name in names}


def _smt(fs: Sysfs, threads: int, cores: int) -> bool | None:
    active = fs.number(f"{CPU}/smt/active")
    if active is not None:
        return bool(active)
    return threads > cores if cores else None


def _cpuinfo(fs: Sysfs) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in fs.lines("/proc/cpuinfo"))
    return [(key.strip(), value.strip()) for key, colon, value in pairs if colon]


def _first(info: list[tuple[str, str]], key: str) -> str:
    return next((value for name, value in info if name == key), "")


def _numbers(info: list[tuple[str, str]], key: str) -> tuple[int, ...]:
    return tuple(n for name, value in info if name == key and (n := to_int(value)) is not None)


def _vendor(info: list[tuple[str, str]]) -> str:
    arm = to_int(_first(info, "CPU implementer"), 16)
    if arm is not None:
        return ARM_IMPLEMENTERS.get(arm, f"0x{arm:02x}")
    return _first(info, "vendor_id") or _first(info, "mvendorid")


def _khz_of_cpuinfo(info: list[tuple[str, str]]) -> int | None:
    """Virtual machines have no cpufreq; what /proc/cpuinfo says then is the frequency now."""
    match = re.fullmatch(r"(\d{1,6})(?:\.(\d{1,3})\d*)?", _first(info, "cpu MHz"))
    return int(match[1]) * 1000 + int((match[2] or "0").ljust(3, "0")) if match else None


def _allowed(fs: Sysfs) -> tuple[int, ...]:
    """Return the CPUs that this process may run on: a container's or a unit's share."""
    prefix = "Cpus_allowed_list:"
    line = next((text for text in fs.lines("/proc/self/status") if text.startswith(prefix)), prefix)
    return index_list(line.removeprefix(prefix).strip())
