"""Block devices: what they are, and whether anybody uses them, with the reason.

Source: Documentation/ABI/stable/sysfs-block, proc(5) (mountinfo, swaps). The exclusive open is what mkfs and
mount do: O_EXCL without O_CREAT on a block device is refused with EBUSY while a file system, swap, md, dm or
another exclusive opener holds it, in whatever mount namespace (open(2)).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from fabricbios.hw import signatures
from fabricbios.hw.sysfs import Sysfs, to_int

BLOCK = "/sys/class/block"
SECTOR = 512  # sysfs counts in these, whatever the device has
ANY = r"[^/]{1,64}"


class BlockDevice(NamedTuple):
    """`name` is stable over reboots where `stable` says so: WWID, serial, dm or md UUID, PCI path.

    `in_use` gives every reason found, empty where nobody uses it. `signatures` is None where the device could
    not be read (no permission, EIO): unknown is not the same as blank.
    """

    name: str
    stable: bool
    kernel_name: str
    path: str
    number: tuple[int, int]
    kind: str
    size: int
    model: str
    serial: str
    wwid: str
    rotational: bool | None
    read_only: bool
    removable: bool
    logical_block: int
    physical_block: int
    discard_granularity: int
    partition_of: str
    in_use: tuple[str, ...]
    signatures: tuple[str, ...] | None
    node: int | None


class Usage(NamedTuple):
    """Who uses what, of this mount namespace: device number -> mount points, and the swap areas' paths."""

    mounts: dict[tuple[int, int], tuple[str, ...]]
    sources: dict[str, tuple[str, ...]]
    swaps: tuple[str, ...]


def detect(fs: Sysfs) -> tuple[BlockDevice, ...]:
    """Return all devices with a size; hidden ones (the paths below an NVMe multipath head) are not leasable."""
    usage = read_usage(fs)
    names = (n for n in fs.names(BLOCK, ANY) if not fs.number(f"{BLOCK}/{n}/hidden"))
    found = (read(fs, name, usage) for name in names)
    return tuple(device for device in found if device and device.size)


def read(fs: Sysfs, kernel_name: str, usage: Usage) -> BlockDevice | None:
    """Return one device or partition; None where it has no number (it went away)."""
    at = f"{BLOCK}/{kernel_name}"
    number = _number(fs.text(f"{at}/dev"))
    if number is None:
        return None
    disk = _disk_of(fs, kernel_name)
    queue = f"{BLOCK}/{disk}/queue"
    path = f"/dev/{kernel_name.replace('!', '/')}"  # sysfs spells cciss/c0d0 with a "!"
    name, stable = stable_name(fs, kernel_name)
    size = (fs.positive(f"{at}/size") or 0) * SECTOR
    rotational = fs.number(f"{queue}/rotational")
    marks, busy = _look(fs, path, size) if size else ((), False)
    return BlockDevice(
        name=name,
        stable=stable,
        kernel_name=kernel_name,
        path=path,
        number=number,
        kind=_kind(fs, kernel_name),
        size=size,
        model=" ".join(fs.text(f"{BLOCK}/{disk}/device/model").split()),
        serial=_serial(fs, disk),
        wwid=_wwid(fs, disk),
        rotational=bool(rotational) if rotational is not None else None,
        read_only=bool(fs.number(f"{at}/ro")),
        removable=bool(fs.number(f"{BLOCK}/{disk}/removable")),
        logical_block=fs.positive(f"{queue}/logical_block_size") or SECTOR,
        physical_block=fs.positive(f"{queue}/physical_block_size") or SECTOR,
        discard_granularity=fs.number(f"{queue}/discard_granularity") or 0,
        partition_of=disk if disk != kernel_name else "",
        in_use=reasons(fs, kernel_name, usage, busy),
        signatures=marks,
        node=_node(fs, disk),
    )


def reasons(fs: Sysfs, kernel_name: str, usage: Usage, busy: bool) -> tuple[str, ...]:
    """Return why a device is in use, its partitions' reasons included; () if nobody uses it."""
    at = f"{BLOCK}/{kernel_name}"
    path = f"/dev/{kernel_name.replace('!', '/')}"
    number = _number(fs.text(f"{at}/dev"))
    points = (*(usage.mounts.get(number, ()) if number else ()), *usage.sources.get(path, ()))
    found = [f"mounted on {point}" for point in dict.fromkeys(points)]
    found += ["swap"] if path in usage.swaps else []
    found += [f"held by {_holder(fs, name)}" for name in fs.names(f"{at}/holders", ANY)]
    if backing := fs.text(f"{at}/loop/backing_file"):
        found.append(f"loop device on {backing}")
    for part in _partitions(fs, kernel_name):
        found += [f"partition {part}: {why}" for why in reasons(fs, part, usage, False)]
    if busy and not found:  # the kernel's word, for what another mount namespace or program holds
        found.append("opened exclusively by somebody")
    return tuple(found)


def read_usage(fs: Sysfs) -> Usage:
    """Read mounts and swap areas once for all devices."""
    mounts: dict[tuple[int, int], tuple[str, ...]] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for line in fs.lines("/proc/self/mountinfo"):
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        number = _number(fields[2]) if dash and len(fields) > 4 and len(tail) > 1 else None
        if number is None:
            continue
        point = unescape(fields[4])
        mounts[number] = (*mounts.get(number, ()), point)
        source = unescape(tail[1])  # btrfs shows an anonymous number, but its device as source
        if source.startswith("/dev/"):
            real = fs.resolve(source) or source
            sources[real] = (*sources.get(real, ()), point)
    return Usage(mounts, sources, _swaps(fs))


def _swaps(fs: Sysfs) -> tuple[str, ...]:
    words = [line.split() for line in fs.lines("/proc/swaps")][1:]
    return tuple(fs.resolve(unescape(w[0])) or unescape(w[0]) for w in words if w)


def unescape(text: str) -> str:
    r"""Return a /proc path with its octal escapes (\040 for a blank) undone."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def stable_name(fs: Sysfs, kernel_name: str) -> tuple[str, bool]:
    """Return a name that is the same after a reboot, and whether it really is."""
    disk = _disk_of(fs, kernel_name)
    name = own_name(fs, kernel_name) or _bus_path(fs, disk)
    number = fs.positive(f"{BLOCK}/{kernel_name}/partition") if disk != kernel_name else None
    suffix = f"-part{number}" if number else ""
    return (name or disk) + suffix, bool(name)


def own_name(fs: Sysfs, kernel_name: str) -> str:
    """Return the name that a disk itself carries, wherever it is plugged in: WWID, uuid, serial; "" if none."""
    disk = _disk_of(fs, kernel_name)
    at = f"{BLOCK}/{disk}"
    serial, model = _serial(fs, disk), fs.text(f"{at}/device/model")
    return (
        _wwid(fs, disk)
        or fs.text(f"{at}/dm/uuid")
        or fs.text(f"{at}/md/uuid")
        or fs.text(f"{at}/loop/backing_file")
        or (f"{'_'.join(model.split())}_{serial}" if serial and model else serial)
    )


def exclusive_open_fails(path: str | os.PathLike[str]) -> bool:
    """Say whether somebody else holds the block device exclusively. Raises OSError if it cannot be opened at all."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def _look(fs: Sysfs, path: str, size: int) -> tuple[tuple[str, ...] | None, bool]:
    """Return the signatures on a device and whether it is held; (None, False) where it cannot be opened."""
    real = fs.path(path)
    try:
        fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        fs.unreadable[path] = error.strerror or str(error)
        return None, False
    try:
        held = stat.S_ISBLK(os.fstat(fd).st_mode) and exclusive_open_fails(real)
        return signatures.probe(fd, size), held
    except OSError as error:
        fs.unreadable[path] = error.strerror or str(error)
        return None, False
    finally:
        os.close(fd)


def _disk_of(fs: Sysfs, kernel_name: str) -> str:
    """Return the disk that a partition is part of, or the device itself."""
    if not fs.exists(f"{BLOCK}/{kernel_name}/partition"):
        return kernel_name
    parts = fs.resolve(f"{BLOCK}/{kernel_name}").split("/")
    return parts[-2] if len(parts) > 2 else kernel_name


def _partitions(fs: Sysfs, kernel_name: str) -> tuple[str, ...]:
    at = f"{BLOCK}/{kernel_name}"
    names = fs.names(at, re.escape(kernel_name) + r"p?\d{1,4}")
    return tuple(name for name in names if fs.exists(f"{at}/{name}/partition"))


def _holder(fs: Sysfs, name: str) -> str:
    label = fs.text(f"{BLOCK}/{name}/dm/name")
    return f"{name} ({label})" if label else name


def _kind(fs: Sysfs, kernel_name: str) -> str:
    at = f"{BLOCK}/{kernel_name}"
    if fs.exists(f"{at}/partition"):
        return "partition"
    for kind in ("loop", "dm", "md"):
        if fs.exists(f"{at}/{kind}"):
            return kind
    return "disk" if fs.exists(f"{at}/device") else "virtual"


def _wwid(fs: Sysfs, disk: str) -> str:
    """NVMe has it on the namespace, SCSI on the device below."""
    return fs.text(f"{BLOCK}/{disk}/wwid") or " ".join(fs.text(f"{BLOCK}/{disk}/device/wwid").split())


def _serial(fs: Sysfs, disk: str) -> str:
    """virtio tells it on the disk, NVMe on its controller, MMC on its card."""
    return fs.text(f"{BLOCK}/{disk}/serial") or fs.text(f"{BLOCK}/{disk}/device/serial")


def _bus_path(fs: Sysfs, disk: str) -> str:
    """Return where a disk without any identity hangs: the part of its device path below /devices, without numbers
    that probing order decides (virtio0, host1)."""
    path = fs.resolve(f"{BLOCK}/{disk}/device")
    stable = [p for p in path.split("/") if ":" in p or "." in p]
    return stable[-1] if path and stable else ""


def _node(fs: Sysfs, disk: str) -> int | None:
    at = fs.resolve(f"{BLOCK}/{disk}/device")
    while at.count("/") > 2:
        node = fs.number(f"{at}/numa_node")
        if node is not None:
            return node if node >= 0 else None
        at = at.rpartition("/")[0]
    return None


def _number(text: str) -> tuple[int, int] | None:
    major, colon, minor = text.partition(":")
    left, right = to_int(major), to_int(minor)
    return (left, right) if colon and left is not None and right is not None else None
