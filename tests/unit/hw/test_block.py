"""Block devices: identity, geometry, and above all whether somebody uses them, and why."""

import errno

import pytest

from fabricbios.hw import block

DISK = "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda"
SIZE = 1 << 20


@pytest.fixture
def disk(tree):
    """An idle 4Kn-emulating hard disk, sda, blank, with a WWID."""
    tree.link("/sys/class/block/sda", DISK)
    tree.link(f"{DISK}/device", DISK.removesuffix("/block/sda"))
    tree.fill(DISK, dev="8:0", size=SIZE // 512, ro=0, removable=0, uevent="DEVTYPE=disk")
    tree.fill(f"{DISK}/queue", rotational=1, logical_block_size=512, physical_block_size=4096, discard_granularity=0)
    tree.fill(DISK.removesuffix("/block/sda"), model="ST4000NM   ", wwid="naa.5000c500a1b2c3d4", numa_node=1)
    tree.directory(f"{DISK}/holders")
    tree.put("/dev/sda", bytes(SIZE))
    tree.put("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
    tree.put("/proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/vda rw\n")
    return tree


def partition(tree, number, **files):
    at = f"{DISK}/sda{number}"
    tree.link(f"/sys/class/block/sda{number}", at)
    tree.fill(at, dev=f"8:{number}", partition=number, size=512, ro=0)
    tree.put(f"/dev/sda{number}", bytes(512 * 512))


def one(tree, name="sda"):
    return next(d for d in block.detect(tree.fs) if d.kernel_name == name)


def test_an_idle_disk(disk):
    found = one(disk)
    assert (found.name, found.stable, found.path, found.number) == ("naa.5000c500a1b2c3d4", True, "/dev/sda", (8, 0))
    assert (found.size, found.model, found.rotational, found.kind) == (SIZE, "ST4000NM", True, "disk")
    assert (found.logical_block, found.physical_block, found.node) == (512, 4096, 1)
    assert (found.in_use, found.signatures, found.read_only, found.removable) == ((), (), False, False)


def test_mounted_by_number_with_blanks_in_the_path(disk):
    disk.put("/proc/self/mountinfo", "30 22 8:0 / /mnt/my\\040disk rw - xfs /dev/sda rw\n")
    assert one(disk).in_use == ("mounted on /mnt/my disk",)


def test_mounted_by_source_where_the_number_is_anonymous(disk):
    disk.put("/proc/self/mountinfo", "30 22 0:44 / /data rw - btrfs /dev/sda rw\n")
    assert one(disk).in_use == ("mounted on /data",)


def test_mounted_through_a_symlink_of_udev(disk):
    disk.link("/dev/disk/by-id/wwn-1", "/dev/sda")
    disk.put("/proc/self/mountinfo", "30 22 0:44 / /data rw - btrfs /dev/disk/by-id/wwn-1 rw\n")
    assert one(disk).in_use == ("mounted on /data",)


def test_swap(disk):
    disk.put("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n")
    assert one(disk).in_use == ("swap",)


def test_held_by_device_mapper_and_md(disk):
    disk.directory(f"{DISK}/holders/dm-0")
    disk.directory(f"{DISK}/holders/md127")
    disk.fill("/sys/class/block/dm-0/dm", name="vg0-root")
    assert one(disk).in_use == ("held by dm-0 (vg0-root)", "held by md127")


def test_a_disk_is_in_use_when_one_of_its_partitions_is(disk):
    partition(disk, 1)
    partition(disk, 2)
    disk.put("/proc/self/mountinfo", "30 22 8:2 / /home rw - ext4 /dev/sda2 rw\n")
    assert one(disk).in_use == ("partition sda2: mounted on /home",)
    assert one(disk, "sda1").in_use == ()
    assert one(disk, "sda2").in_use == ("mounted on /home",)


def test_a_partition_has_its_disks_identity_and_its_own_number(disk):
    partition(disk, 3)
    found = one(disk, "sda3")
    assert (found.kind, found.partition_of, found.name) == ("partition", "sda", "naa.5000c500a1b2c3d4-part3")
    assert (found.model, found.physical_block) == ("ST4000NM", 4096)


def test_an_attached_loop_device_names_its_file(tree):
    tree.fill("/sys/class/block/loop0", dev="7:0", size=8)
    tree.fill("/sys/class/block/loop0/loop", backing_file="/var/lib/image")
    tree.put("/dev/loop0", bytes(4096))
    found = one(tree, "loop0")
    assert (found.kind, found.name, found.in_use) == ("loop", "/var/lib/image", ("loop device on /var/lib/image",))


def test_what_the_kernel_alone_knows(disk, monkeypatch):
    """Mounted in another mount namespace: nothing in /proc of ours tells, O_EXCL does."""
    monkeypatch.setattr(block.stat, "S_ISBLK", lambda mode: True)
    monkeypatch.setattr(block, "exclusive_open_fails", lambda path: True)
    assert one(disk).in_use == ("opened exclusively by somebody",)


def test_exclusive_open_tells_busy_from_broken(tmp_path, monkeypatch):
    def refuse(code):
        def fail(*_args):
            raise OSError(code, "no")

        return fail

    monkeypatch.setattr(block.os, "open", refuse(errno.EBUSY))
    assert block.exclusive_open_fails(tmp_path)
    monkeypatch.setattr(block.os, "open", refuse(errno.EIO))
    with pytest.raises(OSError, match="no"):
        block.exclusive_open_fails(tmp_path)


def test_a_signature_is_not_use_but_is_shown(disk):
    disk.put("/dev/sda", bytes(1080) + b"\x53\xef" + bytes(SIZE - 1082))
    assert (one(disk).in_use, one(disk).signatures) == ((), ("ext",))


def test_a_device_that_cannot_be_read_is_unknown_and_not_blank(disk):
    (disk.root / "dev/sda").unlink()
    fs = disk.fs
    (found,) = block.detect(fs)
    assert found.signatures is None
    assert fs.unreadable["/dev/sda"] == "No such file or directory"


@pytest.mark.parametrize(
    ("files", "name", "stable"),
    [({"wwid": "eui.0025"}, "eui.0025", True), ({"serial": "S1"}, "S1", True),
     ({"dm/uuid": "LVM-abc"}, "LVM-abc", True), ({"md/uuid": "1:2"}, "1:2", True), ({}, "thing", False)],
)  # fmt: skip
def test_names_in_their_order(tree, files, name, stable):
    tree.fill("/sys/class/block/thing", dev="9:9", size=8)
    for file, content in files.items():
        tree.put(f"/sys/class/block/thing/{file}", content)
    assert block.stable_name(tree.fs, "thing") == (name, stable)


def test_a_disk_without_identity_is_named_by_where_it_hangs(disk):
    disk.fill(DISK.removesuffix("/block/sda"), wwid="", model="")
    assert block.stable_name(disk.fs, "sda") == ("0:0:0:0", True)


def test_hidden_and_empty_devices_are_left_out(tree):
    tree.fill("/sys/class/block/nvme0c0n1", dev="259:1", size=8, hidden=1)
    tree.fill("/sys/class/block/loop1", dev="7:1", size=0)
    tree.fill("/sys/class/block/gone", size=8)
    assert block.detect(tree.fs) == ()


def test_malformed_mountinfo_and_swaps(disk):
    disk.put("/proc/self/mountinfo", "x\n1 2 8:0\n - \n30 22 banana / / rw - ext4 /dev/sda rw\n30 22 8:0 / /\n")
    disk.put("/proc/swaps", "\n\n")
    assert one(disk).in_use == ()
