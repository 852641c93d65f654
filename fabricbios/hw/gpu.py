"""GPUs: display-class PCI functions, and render nodes of a SoC.

sysfs tells the size of video memory for amdgpu only. Elsewhere the largest prefetchable BAR is a lower
bound (256 MiB without resizable BAR), so it travels with a label that says where the number is from.
Source: Documentation/gpu/amdgpu/driver-misc.rst (mem_info_vram_total), PCI code and ID assignment (class 03h).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fabricbios.hw import pci
from fabricbios.hw.sysfs import Sysfs

DISPLAY_CLASS = 0x03
BY_DRIVER, BY_BAR = "mem_info_vram_total", "largest prefetchable BAR"
VENDORS = {
    0x1002: "AMD", 0x10DE: "NVIDIA", 0x8086: "Intel", 0x1A03: "ASPEED", 0x102B: "Matrox", 0x1AF4: "virtio",
    0x1B36: "QEMU", 0x1234: "QEMU", 0x15AD: "VMware", 0x1414: "Microsoft", 0x1D94: "Hygon", 0x1ED5: "Moore Threads",
}  # fmt: skip


class Gpu(NamedTuple):
    """`name` is the PCI address, or the platform device of a SoC. `vram` in bytes, with `vram_source`."""

    name: str
    vendor: str
    vendor_id: int | None
    device_id: int | None
    model: str
    driver: str
    vram: int | None
    vram_source: str
    cards: tuple[str, ...]
    render_nodes: tuple[str, ...]
    node: int | None


def detect(fs: Sysfs, devices: tuple[pci.PciDevice, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs among the PCI `devices`, then those of the SoC."""
    on_bus = [_of_pci(fs, device) for device in devices if device.pci_class >> 16 == DISPLAY_CLASS]
    return (*on_bus, *_of_platform(fs))


def _of_pci(fs: Sysfs, device: pci.PciDevice) -> Gpu:
    at = f"{pci.DEVICES}/{device.name}"
    vram, source = _vram(fs, device.name)
    return Gpu(
        name=device.name,
        vendor=VENDORS.get(device.vendor_id, f"0x{device.vendor_id:04x}"),
        vendor_id=device.vendor_id,
        device_id=device.device_id,
        model=fs.text(f"{at}/product_name") or _nvidia_model(fs, device.name) or fs.text(f"{at}/label"),
        driver=device.driver,
        vram=vram,
        vram_source=source,
        cards=fs.names(f"{at}/drm", r"card\d{1,4}"),
        render_nodes=fs.names(f"{at}/drm", r"renderD\d{1,4}"),
        node=device.node,
    )


def _vram(fs: Sysfs, address: str) -> tuple[int | None, str]:
    told = fs.positive(f"{pci.DEVICES}/{address}/mem_info_vram_total")
    if told:
        return told, BY_DRIVER
    wanted = pci.IORESOURCE_MEM | pci.IORESOURCE_PREFETCH
    sizes = [size for size, flags in pci.bars(fs, address) if flags & wanted == wanted]
    return (max(sizes), BY_BAR) if sizes else (None, "")


def _nvidia_model(fs: Sysfs, address: str) -> str:
    text = "\n".join(fs.lines(f"/proc/driver/nvidia/gpus/{address}/information"))
    match = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _of_platform(fs: Sysfs) -> list[Gpu]:
    """Render nodes whose device is not on PCI: the GPU of a Pi or a phone. Its memory is the machine's."""
    found = []
    for name in fs.names("/sys/class/drm", r"renderD\d{1,4}"):
        at = f"/sys/class/drm/{name}/device"
        device = fs.link(at)
        if not device or re.fullmatch(pci.ADDRESS, device):
            continue
        driver = fs.link(f"{at}/driver")
        compatible = fs.text(f"{at}/of_node/compatible").split("\0")[0]
        cards = fs.names(f"{at}/drm", r"card\d{1,4}")
        found.append(
            Gpu(device, compatible.partition(",")[0], None, None, compatible, driver, None, "", cards, (name,), None)
        )
    return found
