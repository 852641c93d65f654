"""Loop devices: a part of a file or of a disk as a block device of its own, found again by the name it was given.

The name stands in lo_file_name, which the kernel keeps for whoever set the device up (loop(4); struct loop_config
and struct loop_info64 of linux/loop.h). A device whose name is not asked for is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fabricbios.errors import LocalMisuse

LOOP_CLR_FD, LOOP_GET_STATUS64, LOOP_SET_DIRECT_IO = 0x4C01, 0x4C05, 0x4C08
LOOP_CONFIGURE, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
NAME_PREFIX = "fabricbios:"  # of every device that this project attaches
SECTOR = 512
MAX_NAME = 63  # LO_NAME_SIZE with its NUL
# lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit; lo_number, encrypt type and key size, lo_flags;
# lo_file_name, lo_crypt_name, lo_encrypt_key; lo_init
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG_HEAD = struct.Struct("=2I")  # fd, block_size
_CONFIG_RESERVED = bytes(64)
_ATTEMPTS = 64  # others take free devices too
_NODE_WAIT = 2.0  # seconds until devtmpfs or udev has made the node
_DETACH_WAIT = 1.0


def attach(name: str, path: str, offset: int, length: int) -> str:
    """Return the block device over `length` bytes at `offset` of `path`; the same one if `name` is attached already.

    Offset and length are multiples of 512. Direct I/O is taken where the backing allows it: one page cache is enough.
    Raises OSError with the path: ENOENT, EINVAL, EBUSY where no loop device can be had.
    """
    if offset % SECTOR or length % SECTOR or length <= 0 or len(name.encode()) > MAX_NAME:
        raise LocalMisuse(f"loop device {name!r} over {length} bytes at {offset}")
    present = find(name)
    if present:
        return present
    with _opened(path, os.O_RDWR) as backing:
        info = _INFO.pack(0, 0, 0, offset, length, 0, 0, 0, 0, name.encode(), b"", b"", 0, 0)
        return _configure_free(_CONFIG_HEAD.pack(backing, 0) + info + _CONFIG_RESERVED)


def detach(name: str) -> None:
    """Give the device back; nothing happens if there is none. OSError(EBUSY) while somebody has it open."""
    device = find(name)
    if not device:
        return
    with _opened(device, os.O_RDONLY) as fd:
        fcntl.ioctl(fd, LOOP_CLR_FD)
    deadline = time.monotonic() + _DETACH_WAIT
    # With other openers the kernel only promises to detach at the last close.
    while find(name) == device:
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "somebody holds this loop device open", device)
        time.sleep(0.01)


def find(name: str) -> str:
    """Return the device that was attached under `name`, "" if there is none."""
    return next((device for device in _attached() if name_of(device) == name), "")


def names() -> tuple[str, ...]:
    """Return the names of all devices of this project, whoever attached them."""
    return tuple(name for device in _attached() if (name := name_of(device)).startswith(NAME_PREFIX))


def name_of(device: str) -> str:
    """Return a device's lo_file_name, "" for one that is not attached, is just going away, or is not ours to open."""
    try:
        with _opened(device, os.O_RDONLY) as fd:
            status = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(_INFO.size))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.ENODEV, errno.EACCES, errno.EPERM):
            return ""
        raise
    name: bytes = _INFO.unpack(status)[9]
    return name.rstrip(b"\0").decode("utf-8", "replace")


def _attached() -> tuple[str, ...]:
    """Return the devices that are attached: opening a free one could keep somebody from removing it."""
    entries = (entry for entry in sorted(os.listdir("/sys/block")) if entry.startswith("loop"))
    return tuple(f"/dev/{entry}" for entry in entries if os.path.exists(f"/sys/block/{entry}/loop"))


def _configure_free(config: bytes) -> str:
    with _opened("/dev/loop-control", os.O_RDWR) as control:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            _wait_for(device)
            with _opened(device, os.O_RDWR) as fd:
                if _configured(fd, device, config):
                    return device
    raise OSError(errno.EBUSY, "no free loop device", "/dev/loop-control")


def _configured(fd: int, device: str, config: bytes) -> bool:
    """Return False where somebody else was quicker."""
    try:
        fcntl.ioctl(fd, LOOP_CONFIGURE, config)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise OSError(error.errno, error.strerror, device) from None
    try:
        fcntl.ioctl(fd, LOOP_SET_DIRECT_IO, 1)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the backing's file system or block size has none: buffered it is
            raise OSError(error.errno, error.strerror, device) from None
    return True


def _wait_for(device: str) -> None:
    deadline = time.monotonic() + _NODE_WAIT
    while not os.path.exists(device):
        if time.monotonic() > deadline:
            raise OSError(errno.ENOENT, "the kernel has this loop device, but there is no node", device)
        time.sleep(0.01)


@contextmanager
def _opened(path: str, mode: int) -> Iterator[int]:
    fd = os.open(path, mode | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
