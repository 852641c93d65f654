"""NVMe controllers: identity from sysfs, health by the admin commands Identify and Get Log Page.

The ioctl is driven through fcntl because pynvme is no choice: it is a build of SPDK from
2021 that takes the device away from the kernel and has no module for Python 3.10 or later; libnvme's Python
binding exists from Debian 13 on only. Both would be used for two commands of 72 bytes.

Source: include/uapi/linux/nvme_ioctl.h; NVM Express Base Specification 2.0, figures 207 (SMART) and 275 (Identify).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from typing import NamedTuple

from fabricbios.hw.sysfs import Sysfs
from fabricbios.layout import Field, Layout

NVME = "/sys/class/nvme"
FABRICS = ("tcp", "rdma", "fc", "loop")  # transports to other machines, as sysfs names them
NVME_IOCTL_ADMIN_CMD = 0xC048_4E41  # _IOWR('N', 0x41, struct nvme_passthru_cmd)
GET_LOG_PAGE, IDENTIFY = 0x02, 0x06
CNS_CONTROLLER = 1
LOG_SMART = 2
ALL_NAMESPACES = 0xFFFF_FFFF
TIMEOUT_MS = 2_000  # a controller that does not answer must not hold up an inventory
ZERO_CELSIUS = 273_150  # milli-Kelvin; SMART counts in whole Kelvin, and hwmon of the kernel uses 273.15 too

PASSTHRU_CMD = Layout(
    "nvme_passthru_cmd",
    "include/uapi/linux/nvme_ioctl.h",
    (
        Field("opcode", "u8", ""),
        Field("flags", "u8", ""),
        Field("rsvd1", "u16", ""),
        Field("nsid", "u32", ""),
        Field("cdw2", "u32", ""),
        Field("cdw3", "u32", ""),
        Field("metadata", "u64", "address"),
        Field("addr", "u64", "address of the data buffer"),
        Field("metadata_len", "u32", ""),
        Field("data_len", "u32", "bytes"),
        Field("cdw", "u32", "cdw10 to cdw15", 6),
        Field("timeout_ms", "u32", ""),
        Field("result", "u32", "completion dword 0"),
    ),
)


class NvmeController(NamedTuple):
    """`name` is the PCI address, for fabrics the NQN and address. Strings are as the controller pads them, stripped.
    `namespaces` are the names of its disks below /dev."""

    name: str
    kernel_name: str
    model: str
    serial: str
    firmware: str
    transport: str
    address: str
    state: str
    nqn: str
    namespaces: tuple[str, ...]


class Identity(NamedTuple):
    """What Identify Controller tells beyond sysfs. `max_transfer` in minimum memory pages, 0 for no limit;
    thresholds are milli-degrees Celsius, None where the controller reports none."""

    vendor_id: int
    model: str
    serial: str
    firmware: str
    max_transfer_pages: int
    namespaces: int
    warning_milli_c: int | None
    critical_milli_c: int | None


class Smart(NamedTuple):
    """SMART / Health Information, log page 02h."""

    critical_warning: int
    temp_milli_c: int | None
    spare_percent: int
    used_percent: int
    power_on_hours: int
    media_errors: int


_HIDDEN = re.compile(r"c\d+")
"""With native multipath a controller has paths (nvme0c1n2), which no /dev knows; the disk over them is nvme0n2."""


def detect(fs: Sysfs) -> tuple[NvmeController, ...]:
    return tuple(_read(fs, name) for name in fs.names(NVME, r"nvme\d{1,5}"))


def _read(fs: Sysfs, kernel_name: str) -> NvmeController:
    at = f"{NVME}/{kernel_name}"
    address, nqn = fs.text(f"{at}/address"), fs.text(f"{at}/subsysnqn")
    transport = fs.text(f"{at}/transport")
    return NvmeController(
        name=address if transport == "pcie" and address else " ".join(filter(None, (nqn, address))) or kernel_name,
        kernel_name=kernel_name,
        model=fs.text(f"{at}/model"),
        serial=fs.text(f"{at}/serial"),
        firmware=fs.text(f"{at}/firmware_rev"),
        transport=transport,
        address=address,
        state=fs.text(f"{at}/state"),
        nqn=nqn,
        namespaces=tuple(_HIDDEN.sub("", name) for name in fs.names(at, r"nvme\d+(c\d+)?n\d+")),
    )


def identify(path: str) -> Identity:
    """Ask the controller behind a character device such as /dev/nvme0. EACCES without CAP_SYS_ADMIN."""
    return parse_identity(_admin(path, IDENTIFY, 0, CNS_CONTROLLER, 4096))


def smart(path: str) -> Smart:
    """Read the health log of the whole controller. Raises OSError."""
    dwords = 512 // 4 - 1
    return parse_smart(_admin(path, GET_LOG_PAGE, ALL_NAMESPACES, LOG_SMART | dwords << 16, 512))


def parse_identity(data: bytes) -> Identity:
    """Decode the 4096 bytes of Identify Controller; a shorter answer raises OSError(EIO)."""
    _whole(data, 4096)
    return Identity(
        vendor_id=int.from_bytes(data[0:2], "little"),
        serial=_ascii(data[4:24]),
        model=_ascii(data[24:64]),
        firmware=_ascii(data[64:72]),
        max_transfer_pages=1 << data[77] if 0 < data[77] < 32 else 0,
        namespaces=int.from_bytes(data[516:520], "little"),
        warning_milli_c=_milli_c(data[266:268]),
        critical_milli_c=_milli_c(data[268:270]),
    )


def parse_smart(data: bytes) -> Smart:
    """Decode the 512 bytes of log page 02h; a shorter answer raises OSError(EIO)."""
    _whole(data, 512)
    return Smart(
        critical_warning=data[0],
        temp_milli_c=_milli_c(data[1:3]),
        spare_percent=data[3],
        used_percent=data[5],
        power_on_hours=int.from_bytes(data[128:144], "little"),
        media_errors=int.from_bytes(data[160:176], "little"),
    )


def _admin(path: str, opcode: int, nsid: int, cdw10: int, length: int) -> bytes:
    """Carry out one admin command that reads `length` bytes. Raises OSError; an NVMe status becomes EIO."""
    data = ctypes.create_string_buffer(length)
    command = bytearray(
        PASSTHRU_CMD.pack(
            opcode=opcode,
            nsid=nsid,
            addr=ctypes.addressof(data),
            data_len=length,
            cdw=(cdw10, 0, 0, 0, 0, 0),
            timeout_ms=TIMEOUT_MS,
        )
    )
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(fd, NVME_IOCTL_ADMIN_CMD, command)
    finally:
        os.close(fd)
    if status:
        raise OSError(5, f"NVMe status 0x{status:04x} to admin command 0x{opcode:02x}", path)
    return data.raw


def _whole(data: bytes, length: int) -> None:
    if len(data) < length:
        raise OSError(5, f"{len(data)} bytes where the specification has {length}")


def _milli_c(kelvin: bytes) -> int | None:
    value = int.from_bytes(kelvin, "little")
    return value * 1000 - ZERO_CELSIUS if value else None


def _ascii(data: bytes) -> str:
    return data.decode("ascii", "replace").strip(" \0")
