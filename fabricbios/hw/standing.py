"""Which file or device stands at a path: what tells it from another that stands there tomorrow."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import sys
from typing import NamedTuple

from fabricbios.errors import ConfigError
from fabricbios.hw import block
from fabricbios.hw.sysfs import Sysfs

FS_IOC_GETVERSION = 0x8008_7601  # linux/fs.h: _IOR('v', 1, long); file systems fill 4 bytes of it


class Standing(NamedTuple):
    """What stands at a path: name, identity and generation as `Backing` has them."""

    name: str
    identity: bytes
    generation: int


def standing_at(fs: Sysfs, path: str) -> Standing:
    """Return what stands at a path. A device is not opened, a file is to be read alone.

    OSError where nothing does, ENXIO for a device node without a device.
    """
    found = os.stat(path)
    if not stat.S_ISBLK(found.st_mode):
        name, regular = os.path.realpath(path), stat.S_ISREG(found.st_mode)
        return Standing(name, identity_of(name, found.st_ino), _generation_at(path) if regular else 0)
    try:
        name = block.stable_name(fs, kernel_name(fs, found.st_rdev))[0]
    except ConfigError as error:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path) from error
    return Standing(name, identity_of(name, 0), 0)


def is_same(one: tuple[bytes, int], other: tuple[bytes, int]) -> bool:
    """Compare identity and generation; one that is not known (0) speaks against nothing."""
    return one[0] == other[0] and (one[1] == other[1] or not one[1] or not other[1])


def _generation_at(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return generation_of(fd)
    finally:
        os.close(fd)


def generation_of(fd: int) -> int:
    """Return a file's inode generation, 0 where the file system has none to tell."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETVERSION, bytes(8))[:4], sys.byteorder)
    except OSError:
        return 0


def identity_of(name: str, inode: int) -> bytes:
    """Return 16 bytes that tell this device or file from any other, also after a reboot."""
    return hashlib.sha256(f"{name}\0{inode}".encode()).digest()[:16]


def kernel_name(fs: Sysfs, number: int) -> str:
    """Return the name in /sys/block of a device by its number. ConfigError where it has none."""
    where = f"{os.major(number)}:{os.minor(number)}"
    name = fs.link(f"/sys/dev/block/{where}")
    if not name:
        raise ConfigError(f"block device {where} is not in /sys: mount it, or name another")
    return name
