"""PCI functions and what the bus tells of them. Source: Documentation/ABI/testing/sysfs-bus-pci, PCI/sysfs-pci.rst."""

from __future__ import annotations

from typing import NamedTuple

from fabricbios.hw.sysfs import Sysfs, to_int

DEVICES = "/sys/bus/pci/devices"
ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
IORESOURCE_MEM = 0x0000_0200  # include/linux/ioport.h: flags in the third column of `resource`
IORESOURCE_PREFETCH = 0x0000_2000
BARS = 6  # standard BARs; the rows after them are the ROM and the VFs' BARs
MAX_VFS = 65_535  # TotalVFs is a u16 register


class PciDevice(NamedTuple):
    """One function. `name` is its address; `pci_class` is 0xCCSSPP (class, subclass, interface)."""

    name: str
    vendor_id: int
    device_id: int
    subsystem: tuple[int, int] | None
    pci_class: int
    driver: str
    node: int | None
    iommu_group: str
    link_speed: str
    link_width: int | None
    sriov_total: int | None
    sriov_active: int | None
    is_vf: bool


def detect(fs: Sysfs) -> tuple[PciDevice, ...]:
    found = (read(fs, name) for name in fs.names(DEVICES, ADDRESS))
    return tuple(device for device in found if device)


def read(fs: Sysfs, address: str) -> PciDevice | None:
    """Return the function at `address`; None where it does not even tell its ids (or went away)."""
    at = f"{DEVICES}/{address}"
    vendor, device = fs.number(f"{at}/vendor", 16), fs.number(f"{at}/device", 16)
    if vendor is None or device is None:
        return None
    return PciDevice(
        name=address,
        vendor_id=vendor,
        device_id=device,
        subsystem=_subsystem(fs, at),
        pci_class=fs.number(f"{at}/class", 16) or 0,
        driver=fs.link(f"{at}/driver"),
        node=node_of(fs, at),
        iommu_group=fs.link(f"{at}/iommu_group"),
        link_speed=fs.text(f"{at}/current_link_speed"),
        link_width=fs.positive(f"{at}/current_link_width"),
        sriov_total=_vfs(fs, f"{at}/sriov_totalvfs"),
        sriov_active=_vfs(fs, f"{at}/sriov_numvfs"),
        is_vf=fs.exists(f"{at}/physfn"),
    )


def bars(fs: Sysfs, address: str) -> tuple[tuple[int, int], ...]:
    """Return (size, flags) of the standard BARs that are in use."""
    found = []
    for line in list(fs.lines(f"{DEVICES}/{address}/resource"))[:BARS]:
        fields = [to_int(field, 16) for field in line.split()]
        if len(fields) == 3 and fields[0] is not None and fields[1] is not None and fields[1] > fields[0]:
            found.append((fields[1] - fields[0] + 1, fields[2] or 0))
    return tuple(found)


def node_of(fs: Sysfs, at: str) -> int | None:
    """Return a device's NUMA node; the kernel writes -1 for "none"."""
    node = fs.number(f"{at}/numa_node")
    return node if node is not None and node >= 0 else None


def _vfs(fs: Sysfs, name: str) -> int | None:
    count = fs.number(name)
    return count if count is not None and 0 <= count <= MAX_VFS else None


def _subsystem(fs: Sysfs, at: str) -> tuple[int, int] | None:
    vendor, device = fs.number(f"{at}/subsystem_vendor", 16), fs.number(f"{at}/subsystem_device", 16)
    return (vendor, device) if vendor is not None and device is not None else None
