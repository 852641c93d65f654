"""Every kind of data is seen for what it is; blank is blank; unreadable is not blank."""

import os
import shutil
import subprocess

import pytest

from fabricbios.hw import signatures

SIZE = 4 << 20
ZFS = [m for m in signatures.MAGICS if m.name == "zfs"]  # 128 slots of one ring: the ends will do
MAGICS = [m for m in signatures.MAGICS if m.name != "zfs"] + [ZFS[0], ZFS[-1]]


def marks(path) -> tuple[str, ...]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return signatures.probe(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def write(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def test_blank_is_blank(disk):
    assert marks(disk) == ()


@pytest.mark.parametrize("magic", MAGICS, ids=lambda m: f"{m.name}@{m.offset}")
def test_each_magic_is_found_where_it_stands(disk, magic):
    write(disk, magic.offset, magic.data)
    assert magic.name in marks(disk)


@pytest.mark.parametrize("magic", [m for m in MAGICS if len(m.data) > 3], ids=lambda m: f"{m.name}@{m.offset}")
def test_and_nowhere_else(disk, magic):
    write(disk, magic.offset + 7, magic.data)
    assert magic.name not in marks(disk)


@pytest.mark.parametrize("size", [SIZE, SIZE + 4096, SIZE + 12_345])
def test_raid_metadata_at_the_end(disk, size):
    os.truncate(disk, size)
    for offset in signatures.md_at_end(size):
        write(disk, offset, signatures.MD_MAGIC)
        assert marks(disk) == ("md",)
        write(disk, offset, bytes(4))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4095, 4096])
def test_devices_smaller_than_any_superblock(disk, size):
    os.truncate(disk, size)
    assert marks(disk) == ()


@pytest.mark.parametrize(
    ("command", "name"),
    [(["mkfs.ext4", "-q", "-F"], "ext"), (["mkswap"], "swap"), (["mkfs.vfat"], "vfat"), (["mkfs.xfs", "-q"], "xfs"),
     (["mkfs.btrfs", "-q"], "btrfs")],
)  # fmt: skip
def test_what_the_real_tools_write(disk, command, name):
    tool = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if tool is None:
        pytest.skip(f"{command[0]} is not installed")
    os.truncate(disk, 512 << 20)
    subprocess.run([tool, *command[1:], str(disk)], check=True, capture_output=True)
    assert name in marks(disk)


def test_what_cannot_be_read_raises(disk):
    fd = os.open(disk, os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            signatures.probe(fd, SIZE)
    finally:
        os.close(fd)
