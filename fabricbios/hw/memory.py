"""Memory: totals, NUMA nodes and the hugepage pools. Bytes everywhere.

Source: proc_meminfo(5), Documentation/ABI/stable/sysfs-devices-node, Documentation/admin-guide/mm/hugetlbpage.rst.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fabricbios.hw.sysfs import Sysfs, to_int

NODE = "/sys/devices/system/node"
HUGEPAGES = "/sys/kernel/mm/hugepages"


class HugePool(NamedTuple):
    """One size of hugepages; `reserved` are promised to mappings but not yet touched."""

    page_bytes: int
    total: int
    free: int
    reserved: int


class MemoryNode(NamedTuple):
    """`distances` to all nodes in their order; the node itself is 10 (ACPI SLIT)."""

    node: int
    total: int | None
    free: int | None
    distances: tuple[int, ...]
    hugepages: tuple[HugePool, ...]


class Memory(NamedTuple):
    """`limit` is what the control group of this process allows, None without one."""

    name: str
    total: int | None
    available: int | None
    swap_total: int | None
    limit: int | None
    hugepages: tuple[HugePool, ...]
    nodes: tuple[MemoryNode, ...]


def detect(fs: Sysfs) -> Memory:
    info = _meminfo(fs, "/proc/meminfo")
    return Memory(
        name="memory",
        total=info.get("MemTotal"),
        available=info.get("MemAvailable", info.get("MemFree")),
        swap_total=info.get("SwapTotal"),
        limit=_cgroup_limit(fs),
        hugepages=hugepages(fs),
        nodes=tuple(_node(fs, name) for name in fs.names(NODE, r"node\d{1,5}")),
    )


def hugepages(fs: Sysfs, at: str = HUGEPAGES) -> tuple[HugePool, ...]:
    """Return the pools below `at`, smallest page first."""
    found = []
    for name in fs.names(at, r"hugepages-\d{1,9}kB"):
        size = int(name[len("hugepages-") : -2]) * 1024
        counts = (fs.number(f"{at}/{name}/{key}_hugepages") or 0 for key in ("nr", "free", "resv"))
        found.append(HugePool(size, *counts))
    return tuple(sorted(found))


def _node(fs: Sysfs, name: str) -> MemoryNode:
    info = _meminfo(fs, f"{NODE}/{name}/meminfo")
    distances = (to_int(d) for d in fs.text(f"{NODE}/{name}/distance").split())
    return MemoryNode(
        node=int(name[4:]),
        total=info.get("MemTotal"),
        free=info.get("MemFree"),
        distances=tuple(d for d in distances if d is not None),
        hugepages=hugepages(fs, f"{NODE}/{name}/hugepages"),
    )


def _meminfo(fs: Sysfs, name: str) -> dict[str, int]:
    """Return key -> bytes of a meminfo file; a node's lines begin with "Node 0 "."""
    found = {}
    for line in fs.lines(name):
        match = re.fullmatch(r"(?:Node \d+ )?(\w+):\s+(\d{1,18}) kB", line.strip())
        if match:
            found[match[1]] = int(match[2]) * 1024
    return found


def _cgroup_limit(fs: Sysfs) -> int | None:
    """Return the smallest memory.max from our control group (v2) up to the top."""
    line = next((text for text in fs.lines("/proc/self/cgroup") if text.startswith("0::/")), "")
    parts = [p for p in line.removeprefix("0::").split("/") if p]
    if not line or ".." in parts:  # ".." is how a group outside our namespace is shown
        return None
    groups = ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]
    limits = (fs.positive(f"/sys/fs/cgroup/{group}/memory.max") for group in groups)
    return min((limit for limit in limits if limit), default=None)
