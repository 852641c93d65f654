"""Stores that go, fail or fill up under live NVMe-oF leases: the host is told, and so is everybody who asks."""

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fabricbios.client import Node
from fabricbios.errors import FabricError
from fabricbios.hw import nvme, nvme_host
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, LeaseStatus, ResourceFlags, ResourceType
from vm.direct_io import read_direct, write_direct
from vm.nvmeof_rig import MIB, TREE, lease_of, load_modules, node_at, nothing_left, targets
from vm.power_cut import disk_by_serial
from vm.site import Site, site_at

pytestmark = pytest.mark.vm

LEASE = lease_of(0xC3, 8 * MIB)


@pytest.fixture(scope="module", autouse=True)
def _modules() -> None:
    load_modules()


class NvmeDisk:
    """The machine's NVMe disk, which keeps its bytes while it is pulled and may come back under another name."""

    serial, size = "vmtest-nvme", 64 * MIB

    @property
    def path(self) -> str:
        return disk_by_serial(self.serial)

    def head(self) -> bytes:
        """Return its first bytes, past every cache."""
        return read_direct(self.path, 0, MIB)

    def pull(self) -> None:
        (controller,) = (c for c in nvme.detect(Sysfs()) if c.serial == self.serial)
        Path(f"/sys/class/nvme/{controller.kernel_name}/device/remove").write_text("1")

    def put_back(self) -> None:
        Path("/sys/bus/pci/rescan").write_text("1")
        _until(self._is_there)

    def _is_there(self) -> bool:
        try:
            return os.path.exists(self.path)
        except FileNotFoundError:
            return False


def _until(done: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.1)


@pytest.mark.parametrize("size", [NvmeDisk.size, 4 * MIB], ids=["whole disk", "part through loop"])
def test_a_disk_pulled_under_a_live_lease(tmp_path: Path, size: int) -> None:
    """Pulled: I/O fails, the lease is ended, the resource FENCED, others go on, the daemon starts without it. Put back:
    taken in, cleared, wiped, leased."""
    disk, name = NvmeDisk(), tmp_path / "by-id"  # as /dev/disk/by-id does it
    name.symlink_to(disk.path)
    with site_at(tmp_path, str(name), f"{tmp_path}/file:{24 * MIB}") as site:
        pulled, other = _leased(site, disk.size, size), _leased(site, 24 * MIB, 4 * MIB)
        disk.pull()
        with pytest.raises(OSError, match=r"error|No such|No space"):  # a disk of no size is full for a loop device
            write_direct(pulled.disk, b"q" * 4096)
        _until(lambda: "lease.fenced" in site.log.read_text())
        assert _fenced(site) == {pulled.resource_id}
        assert site.run(lambda node: node.query(pulled.lease_id)).lease_status == LeaseStatus.REVOKED
        assert "a store is gone" in site.log.read_text()
        write_direct(other.disk, b"r" * 4096)
        assert read_direct(other.disk) == b"r" * 4096, "the other lease goes on"
        assert len(list((TREE / "subsystems").iterdir())) == 1, "what can be taken down is"

        assert site.end() == 0
        site.start()
        assert _fenced(site) == {pulled.resource_id}, "that outlives the daemon, which starts without the disk"
        assert "absent" in _told(site, pulled.resource_id)
        disk.put_back()
        name.unlink()
        name.symlink_to(disk.path)
        _until(lambda: not _told(site, pulled.resource_id))
        assert _fenced(site) == {pulled.resource_id}, "what was leased is there still"
        assert b"p" * 4096 in disk.head()
        site.run(lambda node: node.fence_clear(pulled.resource_id))
        assert not any(disk.head()), "wiped before it is anybody's again"
        assert _fenced(site) == set()
        again = _leased(site, disk.size, size)
        disk.pull()
        _until(lambda: "absent" in _told(site, pulled.resource_id))
        disk.put_back()
        name.unlink()
        name.symlink_to(disk.path)
        _until(lambda: not _told(site, pulled.resource_id))
        assert site.run(lambda node: node.query(again.lease_id)).lease_status == LeaseStatus.REVOKED


class Leased(NamedTuple):
    resource_id: int
    lease_id: int
    disk: str


def _leased(site: Site, capacity: int, size: int) -> Leased:
    """Lease of the store with this capacity, attach, and write a page of it."""

    async def ask(node: Node) -> Leased:
        await node.cap_request()  # the first one claims the node
        (store,) = [r for r in await node.inventory() if r.capacity == capacity]
        wish = (600, ResourceType.BLOCK, size)
        answer = await node.lease_alloc(*wish, binding=Binding.NVMEOF, resource_id=store.resource_id)
        (way,) = targets(list(answer.bindings))
        nvme_host.connect(way, loss_timeout=4)
        return Leased(store.resource_id, answer.lease_id, nvme_host.wait_for_disk(way.nqn))

    leased = site.run(ask)
    write_direct(leased.disk, b"p" * 4096)
    return leased


def _fenced(site: Site) -> set[int]:
    """Return the resources that the node calls FENCED."""

    async def ask(node: Node) -> set[int]:
        return {r.resource_id for r in await node.inventory() if r.flags & ResourceFlags.FENCED}

    return site.run(ask)


def _told(site: Site, resource_id: int) -> str:
    """Return what the node says is wrong with a store, "" if nothing is."""
    return site.run(lambda node: node.build_info()).get(f"store.0x{resource_id:032x}", "")


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A device-mapper disk over a loop device; call it with a target to switch it to that one."""
    with (tmp_path / "below").open("wb") as file:
        file.truncate(16 * MIB)
    below = subprocess.run(["losetup", "--find", "--show", file.name], check=True, capture_output=True, text=True)
    device, sectors = below.stdout.strip(), 16 * MIB // 512

    made: list[str] = []

    def switch(target: str) -> str:
        table = f"0 {sectors} {target}" + (f" {device} 0" if target == "linear" else "")
        if not made:
            made.append("fbailing")
            subprocess.run(["dmsetup", "create", "fbailing", "--uuid", "fbailing", "--table", table], check=True)
        else:
            subprocess.run(["dmsetup", "suspend", "--nolockfs", "fbailing"], check=True)
            subprocess.run(["dmsetup", "load", "fbailing", "--table", table], check=True)
            subprocess.run(["dmsetup", "resume", "fbailing"], check=True)
        minor = subprocess.run(
            ["dmsetup", "info", "-c", "--noheadings", "-o", "minor", "fbailing"], check=True, capture_output=True
        )
        return f"/dev/dm-{int(minor.stdout)}"

    yield switch
    subprocess.run(["dmsetup", "remove", "--retry", "fbailing"], check=True)
    subprocess.run(["losetup", "-d", device], check=True)


def test_a_disk_that_errs_fails_the_holder_and_is_not_given_away_unwiped(
    tmp_path: Path, mapped: Callable[[str], str]
) -> None:
    with node_at(tmp_path, disk=Path(mapped("linear"))) as node:
        (way,) = targets(node.bind(LEASE))
        nvme_host.connect(way)
        disk = nvme_host.wait_for_disk(way.nqn)
        write_direct(disk, b"s" * 4096)
        mapped("error")
        with pytest.raises(OSError, match="Input/output error"):
            write_direct(disk, b"t" * 4096)
        nvme_host.disconnect(way.nqn)
        with pytest.raises(OSError, match="error"):
            node.unbind(LEASE)
        assert nothing_left(), "access is over all the same"
        assert node.pool.find(LEASE.lease_id), "what cannot be wiped is not given away"
        mapped("linear")
        node.unbind(LEASE)  # FENCE_CLEAR's probe
        assert not any(os.pread(node.backing.fd, 4096, 0))
        assert node.pool.find(LEASE.lease_id) is None


def test_a_disk_that_errs_under_udp_is_told_and_as_good_as_gone_until_it_can_be_read(
    tmp_path: Path, mapped: Callable[[str], str]
) -> None:
    """The server process meets the errors, and the daemon hears of them."""
    with site_at(tmp_path, mapped("linear")) as site:

        async def work(node: Node) -> int:
            await node.cap_request()
            (store,) = [r for r in await node.inventory() if r.resource_type == ResourceType.BLOCK]
            lease = node.lease_block(MIB, ttl=600)
            await lease.open()
            await lease.write(0, b"u" * 4096)
            mapped("error")
            with pytest.raises(FabricError):
                await lease.write(8192, b"v" * 4096)
            await lease.detach()  # it is for the daemon to end it
            return store.resource_id

        resource_id = site.run(work)
        _until(lambda: "nothing can be read: Input/output error" in _told(site, resource_id))
        _until(lambda: "lease.fenced" in site.log.read_text())
        assert "a store errs" in site.log.read_text()
        mapped("linear")
        _until(lambda: not _told(site, resource_id))
        site.run(lambda node: node.fence_clear(resource_id))

        async def again(node: Node) -> bytes:
            async with node.lease_block(MIB, ttl=600) as lease:
                return await lease.read(0, 4096)

        assert site.run(again) == bytes(4096)


def test_a_file_system_that_is_full_tells_the_holder_and_still_wipes(tmp_path: Path) -> None:
    """A holder's discards give a file's space back, and somebody else takes it."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], check=True)
    try:
        with node_at(tmp_path, disk=_file(place / "disk", 16 * MIB)) as node:
            (way,) = targets(node.bind(LEASE))
            nvme_host.connect(way)
            disk = nvme_host.wait_for_disk(way.nqn)
            write_direct(disk, b"s" * MIB)
            subprocess.run(["blkdiscard", "--offset", str(MIB), disk], check=True)
            _fill(place / "hog")
            with pytest.raises(OSError, match=r"No space|Input/output") as caught:
                write_direct(disk, b"t" * MIB, 4 * MIB)
            assert caught.value.errno in (errno.ENOSPC, errno.EIO)
            assert read_direct(disk, 0, MIB) == b"s" * MIB, "what has its space is served on"
            nvme_host.disconnect(way.nqn)
            node.unbind(LEASE)
            assert not any((place / "disk").read_bytes())
            assert node.pool.find(LEASE.lease_id) is None, "no room is no reason to fence"
            with pytest.raises(OSError, match="cannot reserve the space") as caught:
                node.bind(LEASE)
            assert caught.value.errno == errno.ENOSPC
            node.unbind(LEASE)
    finally:
        subprocess.run(["umount", place], check=True)


def _file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def _fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb") as hog:
        room = os.statvfs(path)
        os.posix_fallocate(hog.fileno(), 0, room.f_bavail * room.f_frsize)
