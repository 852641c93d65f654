"""What block leases are made of: a file or a block device that the admin named, opened for good.

Opening refuses whatever anybody else uses: mounted, swap, held by md or dm, under a loop device, locked by another
daemon, or with data on it that its signature gives away. A device stays open with O_EXCL, a file locked, so that
nobody mounts or serves it afterwards.

Wiping is fallocate(2), for files and devices alike. BLKDISCARD would not do: it promises nothing about what is
read afterwards, and the next holder must never read the last one's data. FALLOC_FL_PUNCH_HOLE on a device unmaps
where that reads back as zeros and fails where it does not (blkdev_fallocate, block/fops.c); FALLOC_FL_ZERO_RANGE
keeps the space. Where a file system or device has neither, zeros are written.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import sys
import time
from collections.abc import Set
from pathlib import Path
from typing import Literal

from fabricbios.errors import ConfigError, LocalMisuse
from fabricbios.hw import block, loop, signatures
from fabricbios.hw.standing import generation_of, identity_of, is_same, kernel_name
from fabricbios.hw.sysfs import Sysfs

Wipe = Literal["discard", "zero", "none"]
GRANULE = (
    1 << 20
)  # extents begin and end at multiples: every device's physical block and erase size divides it, or nearly
BLKGETSIZE64 = 0x8008_1272  # linux/fs.h: _IOR(0x12, 114, size_t)
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
DEVICES = Path("/dev")
_NOT_OFFERED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL}
_ZEROS = bytes(GRANULE)
_PLACES = 3  # that are read to tell a bad sector from a lost store
_FIRST_STEP, _STEP_SECONDS = 16 * GRANULE, 0.5
PATIENCE, _PAUSE = 2.0, 0.02
"""Seconds to wait for whom a killed daemon left behind: its server holds the store until its last batch is through."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Backing:
    """An open file or device of `size` leasable bytes, a multiple of GRANULE, from its first byte on.

    `name` is stable (D4): WWID, serial, or a file's real path. `identity` (16 bytes) changes when the file is another
    one under the same name. `overridden` is what spoke against leasing it, where the admin insisted.

    `data_fd` is the same store for who writes leased data: a write-back that failed is told once to each open file
    description, and neither may a wipe miss its own failure nor a holder's flush hear of the wipe's.

    Both numbers stay its own while the store is gone (`let_go`) and when it is back (`take_in`): whoever still holds
    them, a thread that wipes or a table of leases, meets EBADF or the same store, and never another file.
    """

    def __init__(self, fd: int, path: str, name: str, size: int, is_device: bool, identity: bytes) -> None:
        self.fd, self.path, self.name = fd, path, name
        self.data_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self.size, self.is_device, self.identity = size, is_device, identity
        self.overridden: tuple[str, ...] = ()
        self.generation = 0 if is_device else generation_of(fd)
        """Of a file: which one it is of those that had its inode number, one after the other; 0 if nobody can tell."""
        self.absence: OSError | None = None
        """Why it is not open, None while it is."""

    @classmethod
    def absent(
        cls, path: str, name: str, size: int, is_device: bool, identity: bytes, generation: int, why: OSError
    ) -> Backing:
        """Return what stands for a store that was taken before and is not there now."""
        backing = cls.__new__(cls)
        backing.generation = generation
        backing.fd, backing.data_fd = _nothing(), _nothing()
        backing.path, backing.name, backing.size = path, name, size
        backing.is_device, backing.identity, backing.overridden = is_device, identity, ()
        backing.absence = why
        return backing

    def let_go(self, why: OSError) -> None:
        """Open no more what is gone: a dead device keeps its name in /dev for as long as somebody has it open."""
        self.absence = why
        nothing = _nothing()
        os.dup2(nothing, self.fd, inheritable=False)
        os.dup2(nothing, self.data_fd, inheritable=False)
        os.close(nothing)

    def take_in(self, found: Backing) -> None:
        """Go on with a store that is back, opened as `found`, which is closed. LocalMisuse where it is another one."""
        if not found.is_same(self.identity, self.generation) or found.size < self.size:
            raise LocalMisuse(f"{found.path} is not what was leased out of")
        os.dup2(found.fd, self.fd, inheritable=False)
        os.dup2(found.data_fd, self.data_fd, inheritable=False)
        found.close()
        self.path, self.absence = found.path, None

    def check(self) -> None:
        """Raise OSError where the device is gone or the file is shorter than what was leased out of it."""
        if (why := self.absence) is not None:
            raise OSError(why.errno, why.strerror, self.path)
        if _size_now(self.fd, self.is_device) < self.size:
            raise OSError(errno.ENXIO, "truncated, or the device is gone", self.path)
        if not self.is_device and os.fstat(self.fd).st_nlink == 0:
            raise OSError(errno.ENOENT, "the file was deleted", self.path)

    def is_same(self, identity: bytes, generation: int) -> bool:
        return is_same((self.identity, self.generation), (identity, generation))

    @property
    def is_known_anywhere(self) -> bool:
        """Say whether it carries its identity itself; a disk without serial or WWID is known by its slot alone."""
        return not self.is_device or bool(block.own_name(Sysfs(), kernel_name(Sysfs(), os.fstat(self.fd).st_rdev)))

    def must_be_readable(self) -> None:
        """Raise OSError where none of a few places, far from each other, can be read past the page cache: not a bad
        sector, but a store that is lost. Blocks while it reads."""
        last = self.size - GRANULE
        failures = [error for base in (0, last // 2 // GRANULE * GRANULE, last) if (error := self._read_error(base))]
        if len(failures) == _PLACES:
            raise OSError(failures[0].errno, f"nothing can be read: {failures[0].strerror}", self.path)

    def _read_error(self, base: int) -> OSError | None:
        try:
            _read_past_cache(self.fd, base)
        except OSError as error:
            return error
        return None

    def reserve(self, base: int, length: int) -> None:
        """Make sure that a range of a sparse file can be written: OSError(ENOSPC) now rather than later."""
        self.check()
        if not self.is_device:
            _reserve(self.fd, self.path, base, length)

    def wipe(self, base: int, length: int, how: Wipe) -> None:
        """Make a range read as zeros, durably; "none" leaves it as it is. Idempotent. Raises OSError."""
        self.check()
        if how == "none" or not length:
            return
        modes = [FALLOC_FL_ZERO_RANGE] if how == "zero" else [FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE]
        try:
            if not any(self._fallocate(mode, base, length) for mode in modes):
                self._write_zeros(base, length)
        except OSError as error:
            # A holder's discards made holes in the file, and the file system is full: a hole reads as zeros, too.
            if error.errno != errno.ENOSPC or not self._fallocate(FALLOC_FL_PUNCH_HOLE, base, length):
                raise
        os.fdatasync(self.fd)

    def zero(self, base: int, end: int, seconds: float) -> int:
        """Make bytes `base` to `end` read as zeros, durably, for about so long; return how far it came."""
        until, step = time.monotonic() + seconds, _FIRST_STEP
        while base < end and (began := time.monotonic()) < until:
            length = min(step, end - base)
            self.wipe(base, length, "zero")
            base += length
            if time.monotonic() - began < _STEP_SECONDS:
                step *= 2
        return base

    def close(self) -> None:
        os.close(self.data_fd)
        os.close(self.fd)

    def _fallocate(self, mode: int, base: int, length: int) -> bool:
        """Return False where the file system or device does not offer this mode."""
        if _libc.fallocate(self.fd, mode | FALLOC_FL_KEEP_SIZE, base, length) == 0:
            return True
        code = ctypes.get_errno()
        if code in _NOT_OFFERED:
            return False
        raise OSError(code, os.strerror(code), self.path)

    def _write_zeros(self, base: int, length: int) -> None:
        end = base + length
        while base < end:
            base += os.pwrite(self.fd, memoryview(_ZEROS)[: end - base], base)


def open_backing(
    fs: Sysfs, path: str, size: int | None, *, force: bool = False, ours: Set[bytes] = frozenset()
) -> Backing:
    """Open what the admin named, or make the file where it is missing and `size` is given.

    `size` bounds how much of it is leased. `force` takes what is in use or has data on it all the same, unless another
    daemon holds it; what was overridden is in `Backing.overridden`. `ours` holds the identities that were checked when
    they were first taken: what stands on them was written by our lease holders. Raises ConfigError with the remedy,
    OSError from the kernel.
    """
    made = not os.path.exists(path)
    fd = _create(path, size) if made else _open(path, force)
    try:
        backing = _describe(fs, fd, os.path.realpath(path), size)
    except BaseException:
        os.close(fd)
        raise
    try:
        users = _users(fs, backing)
        if users and not force:
            raise ConfigError(_refusal(path, f"is in use: {'; '.join(users)}", "free it first"))
        marks = () if made or backing.identity in ours else signatures.probe(fd, os.lseek(fd, 0, os.SEEK_END))
        if marks and not force:
            raise ConfigError(_refusal(path, f"has data on it ({', '.join(marks)})", f"wipefs --all {path}"))
    except BaseException:
        backing.close()
        raise
    backing.overridden = (*users, *(f"{mark} signature" for mark in marks))
    return backing


def _nothing() -> int:
    """Return a descriptor that every read, write and ioctl refuses with EBADF (O_PATH, open(2))."""
    return os.open("/", os.O_PATH | os.O_CLOEXEC)


def _read_past_cache(fd: int, base: int) -> None:
    """Read a page with O_DIRECT; where the file system has none (EINVAL), as it can. Raises OSError."""
    page = mmap.mmap(-1, mmap.PAGESIZE)  # aligned, as O_DIRECT wants it
    for flags in (os.O_DIRECT, 0):
        try:
            anew = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | flags)
        except OSError as error:
            if flags and error.errno == errno.EINVAL:
                continue
            raise
        try:
            os.preadv(anew, [page], base)
            return
        finally:
            os.close(anew)


def _refusal(path: str, why: str, remedy: str) -> str:
    return f"block {path} {why}: {remedy}, or name it in block_force to lose what it holds"


def _describe(fs: Sysfs, fd: int, path: str, size: int | None) -> Backing:
    """Lock a file, name a device; judge the size."""
    found = os.fstat(fd)
    is_device = stat.S_ISBLK(found.st_mode)
    if not is_device:
        _lock(fd, path)
    real = os.lseek(fd, 0, os.SEEK_END)
    if size is not None and size > real:
        raise ConfigError(f"block {path}: it has {real} bytes, not {size}: give a smaller SIZE, or none")
    usable = (real if size is None else size) // GRANULE * GRANULE
    if not usable:
        raise ConfigError(f"block {path}: less than the smallest extent, {GRANULE} bytes: give it more")
    name = block.stable_name(fs, kernel_name(fs, found.st_rdev))[0] if is_device else path
    return Backing(fd, path, name, usable, is_device, identity_of(name, 0 if is_device else found.st_ino))


def _size_now(fd: int, is_device: bool) -> int:
    """Return the bytes there are. lseek(2) would wait for whoever wipes the device just now; this does not."""
    if not is_device:
        return os.fstat(fd).st_size
    size = fcntl.ioctl(fd, BLKGETSIZE64, bytes(8))
    return int.from_bytes(size, sys.byteorder)


def _open(path: str, force: bool) -> int:
    """Open without waiting (a FIFO would), and exclusively if it is a device."""
    mode = os.stat(path).st_mode
    if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
        raise ConfigError(f"block {path} is neither a file nor a block device: name one")
    exclusive = os.O_EXCL if stat.S_ISBLK(mode) and not force else 0
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | exclusive)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            why = _known_users(path)
            if why or time.monotonic() > deadline:
                told = "; ".join(why) or "somebody has it open exclusively"
                raise ConfigError(_refusal(path, f"is in use: {told}", "free it first")) from error
        time.sleep(_PAUSE)


def _known_users(path: str) -> tuple[str, ...]:
    fs = Sysfs()
    return block.reasons(fs, kernel_name(fs, os.stat(path).st_rdev), block.read_usage(fs), False)


def _create(path: str, size: int | None) -> int:
    """Make a file of `size` bytes, wholly reserved; nothing stays behind where there is no room."""
    if size is None:
        raise ConfigError(f"block {path} does not exist: write PATH:SIZE to have it made, or name another")
    if Path(path).resolve().is_relative_to(DEVICES):
        raise ConfigError(f"block {path}: no such device, and a file in its place would be memory: plug it in")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _reserve(fd, path, 0, size)
        os.fsync(fd)
        _sync_directory(Path(path).parent)
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def _reserve(fd: int, path: str, base: int, length: int) -> None:
    try:
        os.posix_fallocate(fd, base, length)
    except OSError as error:
        raise OSError(error.errno, f"cannot reserve the space: {error.strerror}", path) from error


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int, path: str) -> None:
    """Keep other daemons out; this is not for `force` to override."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ConfigError(f"block {path} is locked by another process: stop that one") from error
        time.sleep(_PAUSE)


def _users(fs: Sysfs, backing: Backing) -> tuple[str, ...]:
    """Return who else uses a device or file. That a device is a loop device on a file is no use of the device."""
    usage = block.read_usage(fs)
    if backing.is_device:
        reasons = block.reasons(fs, kernel_name(fs, os.fstat(backing.fd).st_rdev), usage, False)
        return tuple(why for why in reasons if not why.startswith("loop device on"))
    loops = fs.names(block.BLOCK, r"loop\d+")
    over = [f"/dev/{n}" for n in loops if fs.text(f"{block.BLOCK}/{n}/loop/backing_file") == backing.path]
    # What a predecessor attached for its leases is ours: it is adopted, or torn down as an orphan.
    theirs = [f"under {device}" for device in over if not loop.name_of(device).startswith(loop.NAME_PREFIX)]
    return (*theirs, *(["swap"] if backing.path in usage.swaps else []))
