"""What stands on a block device: the magic numbers of file systems, RAID, LVM, LUKS, partition tables.

A device with a signature is somebody's data and is never leased unless the admin insists by name. Offsets are
those of each format's own documentation or kernel header; a negative one counts from the end of the device.
"""

from __future__ import annotations

import os
from typing import NamedTuple

KIB = 1024


class Magic(NamedTuple):
    """`data` stands at byte `offset` of a device that carries a `name`."""

    name: str
    offset: int
    data: bytes


ZFS_UBERBLOCK = (0x00BAB10C).to_bytes(8, "little")
MD_MAGIC = (0xA92B4EFC).to_bytes(4, "little")  # include/uapi/linux/raid/md_p.h
BCACHE_UUID = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")  # include/uapi/linux/bcache.h
BCACHEFS_UUID = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")

MAGICS: tuple[Magic, ...] = (
    Magic("ext", 1080, b"\x53\xef"),
    Magic("xfs", 0, b"XFSB"),
    Magic("btrfs", 64 * KIB + 64, b"_BHRfS_M"),
    Magic("f2fs", 1024, (0xF2F52010).to_bytes(4, "little")),
    Magic("erofs", 1024, (0xE0F5E1E2).to_bytes(4, "little")),
    Magic("squashfs", 0, b"hsqs"),
    Magic("iso9660", 32 * KIB + 1, b"CD001"),
    Magic("udf", 32 * KIB + 1, b"BEA01"),
    Magic("ntfs", 3, b"NTFS    "),
    Magic("exfat", 3, b"EXFAT   "),
    Magic("vfat", 54, b"FAT1"),
    Magic("vfat", 82, b"FAT32   "),
    Magic("hfsplus", 1024, b"H+\x00\x04"),
    Magic("apfs", 32, b"NXSB"),
    Magic("reiserfs", 64 * KIB + 52, b"ReIsEr"),
    Magic("jfs", 32 * KIB, b"JFS1"),
    Magic("nilfs2", 1030, b"\x34\x34"),
    Magic("ocfs2", 2 * KIB, b"OCFSV2"),
    Magic("ocfs2", 4 * KIB, b"OCFSV2"),
    Magic("gfs2", 64 * KIB, bytes.fromhex("01161970")),
    Magic("vmfs", 1024 * KIB, bytes.fromhex("0dd001c0")),
    Magic("bcache", 4 * KIB + 24, BCACHE_UUID),
    Magic("bcachefs", 4 * KIB + 24, BCACHEFS_UUID),
    Magic("ceph", 0, b"bluestore block device"),
    Magic("luks", 0, b"LUKS\xba\xbe"),
    Magic("luks", 16 * KIB, b"SKUL\xba\xbe"),  # LUKS2's second header
    Magic("swap", 4 * KIB - 10, b"SWAPSPACE2"),
    Magic("swap", 16 * KIB - 10, b"SWAPSPACE2"),  # by page size
    Magic("swap", 64 * KIB - 10, b"SWAPSPACE2"),
    Magic("hibernation", 4 * KIB - 10, b"S1SUSPEND"),
    *(Magic("lvm", sector * 512, b"LABELONE") for sector in range(4)),
    *(Magic("zfs", 128 * KIB + slot * KIB, ZFS_UBERBLOCK) for slot in range(128)),
    Magic("md", 0, MD_MAGIC),  # metadata 1.1
    Magic("md", 4 * KIB, MD_MAGIC),  # metadata 1.2
    Magic("imsm", -1024, b"Intel Raid ISM Cfg. Sig."),
    Magic("ddf", -512, bytes.fromhex("de11de11")),
    Magic("gpt", 512, b"EFI PART"),
    Magic("gpt", 4096, b"EFI PART"),  # 4Kn
    Magic("gpt", -512, b"EFI PART"),  # the spare one
    Magic("gpt", -4096, b"EFI PART"),
    Magic("mbr", 510, b"\x55\xaa"),
    Magic("apm", 512, b"PM\x00\x00"),
    Magic("bsd", 512, bytes.fromhex("57455682")),
)


def probe(fd: int, size: int) -> tuple[str, ...]:
    """Return the names of the signatures on an open device or file of `size` bytes. Raises OSError.

    A part of the device that cannot be read raises: what is unknown is not empty.
    """
    head = _read_fully(fd, min(size, 1025 * KIB), 0)
    tail = _read_fully(fd, min(size, 4 * KIB), max(0, size - 4 * KIB))
    found = [m.name for m in MAGICS if _stands(m, head, tail)]
    found += ["md" for at in md_at_end(size) if _read_fully(fd, 4, at) == MD_MAGIC]
    return tuple(dict.fromkeys(found))


def md_at_end(size: int) -> tuple[int, ...]:
    """Return where md's metadata 1.0 and 0.90 stand (super_1_load and MD_NEW_SIZE_SECTORS of the kernel)."""
    version_1_0 = (size // 512 - 16) & ~7
    version_0_90 = (size // 512 & ~127) - 128
    return tuple(sector * 512 for sector in (version_1_0, version_0_90) if sector > 0)


def _stands(magic: Magic, head: bytes, tail: bytes) -> bool:
    if magic.offset >= 0:
        return head.startswith(magic.data, magic.offset)
    return len(tail) >= -magic.offset and tail.startswith(magic.data, len(tail) + magic.offset)


def _read_fully(fd: int, length: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while length > 0 and (part := os.pread(fd, length, offset)):
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)
