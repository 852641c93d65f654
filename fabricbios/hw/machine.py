"""The machine itself: firmware's names, kernel, boot, and whether it is virtual or a container.

Source: Documentation/ABI/testing/sysfs-firmware-dmi-entries and drivers/firmware/dmi-id.c, random(4) (boot_id).
"""

from __future__ import annotations

from typing import NamedTuple

from fabricbios.hw.sysfs import Sysfs

DMI = "/sys/class/dmi/id"
KERNEL = "/proc/sys/kernel"
# How hypervisors sign the DMI tables; the order matters only for people who read the result.
HYPERVISORS = {
    "QEMU": "qemu", "KVM": "kvm", "Amazon EC2": "amazon", "VMware": "vmware", "VirtualBox": "virtualbox",
    "innotek": "virtualbox",
    "Microsoft Corporation": "hyperv", "Xen": "xen", "Google": "google", "Parallels": "parallels",
    "OpenStack": "openstack",
}  # fmt: skip
CONTAINER_FILES = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}


class Machine(NamedTuple):
    """`virtualization` and `container` are hints, "" for none found. `serial` and `uuid` want root."""

    name: str
    vendor: str
    product: str
    board: str
    firmware: str
    serial: str
    uuid: str
    hostname: str
    architecture: str
    kernel: str
    boot_id: str
    uptime_seconds: int | None
    virtualization: str
    container: str


def detect(fs: Sysfs) -> Machine:
    uptime = fs.text("/proc/uptime").partition(".")[0]
    return Machine(
        name="machine",
        vendor=fs.text(f"{DMI}/sys_vendor"),
        product=fs.text(f"{DMI}/product_name") or fs.text("/proc/device-tree/model"),
        board=" ".join(filter(None, (fs.text(f"{DMI}/board_vendor"), fs.text(f"{DMI}/board_name")))),
        firmware=" ".join(filter(None, (fs.text(f"{DMI}/bios_vendor"), fs.text(f"{DMI}/bios_version")))),
        serial=fs.text(f"{DMI}/product_serial") or fs.text("/proc/device-tree/serial-number"),
        uuid=fs.text(f"{DMI}/product_uuid"),
        hostname=fs.text(f"{KERNEL}/hostname"),
        architecture=fs.text(f"{KERNEL}/arch"),
        kernel=fs.text(f"{KERNEL}/osrelease"),
        boot_id=fs.text(f"{KERNEL}/random/boot_id"),
        uptime_seconds=int(uptime) if uptime.isdecimal() and len(uptime) < 12 else None,
        virtualization=_virtualization(fs),
        container=_container(fs),
    )


def _virtualization(fs: Sysfs) -> str:
    """Return whose virtual machine this is, or "unknown hypervisor" where only the CPU tells."""
    if kind := fs.text("/sys/hypervisor/type"):
        return kind
    signed = fs.text(f"{DMI}/sys_vendor") + fs.text(f"{DMI}/product_name") + fs.text(f"{DMI}/bios_vendor")
    for mark, name in HYPERVISORS.items():
        if mark in signed:
            return name
    if compatible := fs.text("/proc/device-tree/hypervisor/compatible"):
        return compatible
    flags = next((line for line in fs.lines("/proc/cpuinfo") if line.startswith("flags")), "")
    return "unknown hypervisor" if "hypervisor" in flags.split() else ""


def _container(fs: Sysfs) -> str:
    if told := fs.text("/run/systemd/container") or fs.text("/run/host/container-manager"):
        return told
    return next((name for path, name in CONTAINER_FILES.items() if fs.exists(path)), "")
