"""A leased disk for people: daemon and command line as processes, a filesystem, and a daemon that is killed."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabricbios.client import Identity, Lease, Node, Wish, connect
from fabricbios.errors import CapacityExceeded
from fabricbios.hw import loop, nvme, thermal
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, ResourceType
from fabricbios.wire.thermal import NvmeStatus, NvmeTempMilliC
from vm.nvmeof_rig import nothing_left
from vm.power_cut import disk_by_serial
from vm.site import Site, site_at

pytestmark = pytest.mark.vm

SIZE = 16 << 20
QEMU_MILLI_C = 323_000 - 273_150  # NVME_TEMPERATURE of QEMU's hw/nvme/ctrl.c is 323 K


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    with site_at(directory, f"{directory}/disk:{SIZE * 2}") as site:
        yield site


def test_lease_attach_mkfs_detach_free(site: Site, tmp_path: Path) -> None:
    lease, device = site.leased_disk(SIZE)
    assert site.cli("attach", lease)["device"] == device, "attaching twice is as once"
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, mountpoint], check=True)
    (mountpoint / "letter").write_text("from another machine")
    subprocess.run(["umount", mountpoint], check=True)
    assert site.cli("detach", lease) == {
        "schema": "fabricbios.attachment/1",
        "lease_id": lease,
        "device": None,
        "attached": False,
    }
    device = site.cli("attach", lease)["device"]
    subprocess.run(["mount", "-o", "ro", device, mountpoint], check=True)
    assert (mountpoint / "letter").read_text() == "from another machine"
    subprocess.run(["umount", mountpoint], check=True)
    site.cli("detach", lease)
    site.cli("free", lease)
    assert nothing_left()


def test_a_killed_daemons_lease_lives_on_under_its_successor(site: Site) -> None:
    lease, device = site.leased_disk(SIZE)
    fd = os.open(device, os.O_RDWR | os.O_SYNC)
    try:
        os.pwrite(fd, b"before the kill", 0)
        assert site.end(signal.SIGKILL) == -signal.SIGKILL
        site.start()
        os.pwrite(fd, b"after", 4096)
        assert os.pread(fd, 15, 0) == b"before the kill"
    finally:
        os.close(fd)
    assert lease in [found["lease_id"] for found in site.cli("leases")["leases"]]
    site.cli("detach", lease)
    site.cli("free", lease)


def test_two_clients_race_for_the_last_extent(site: Site) -> None:
    """Two connections ask at once for more than half each: one has it whole, the other is told, and nothing leaks."""

    async def work(node: Node) -> None:
        owner = Identity.load(site.directory / "client")
        async with connect(site.bind, site.port, identity=owner) as other:
            for _ in range(3):
                wish = Wish(ResourceType.BLOCK, SIZE + (1 << 20), 60, binding=Binding.NVMEOF)
                asked = [Lease(each, wish).open() for each in (node, other)]
                got = await asyncio.gather(*asked, return_exceptions=True)
                (won,) = [lease for lease in got if isinstance(lease, Lease)]
                assert [type(error) for error in got if not isinstance(error, Lease)] == [CapacityExceeded]
                assert len(loop.names()) == 1, "the loser has no device"
                await won.close()
        (store,) = [r for r in await node.inventory() if r.resource_type == ResourceType.BLOCK]
        assert store.available == store.capacity

    site.run(work)
    assert nothing_left()


def test_the_temperature_of_a_real_nvme_reaches_the_wire_and_people(site: Site) -> None:
    fs = Sysfs()
    (disk,) = [c for c in nvme.detect(fs) if c.serial == "vmtest-nvme"]
    assert (disk.transport, disk.state) == ("pcie", "live")
    assert [f"/dev/{name}" for name in disk.namespaces] == [disk_by_serial("vmtest-nvme")]
    identity = nvme.identify(f"/dev/{disk.kernel_name}")
    assert (identity.model, identity.serial, identity.firmware) == (disk.model, disk.serial, disk.firmware)
    assert identity.model == "QEMU NVMe Ctrl"
    assert thermal.smart_temperature(fs)(disk.kernel_name) == QEMU_MILLI_C, "by ioctl, as where no hwmon is"
    tlvs = site.run(lambda node: node.thermal())
    assert {NvmeTempMilliC(QEMU_MILLI_C), NvmeStatus(0)} <= set(tlvs)
    assert site.cli("status")["thermal"]["nvme_temp_milli_c"] == QEMU_MILLI_C


def test_sigterm_leaves_nothing_behind(site: Site) -> None:
    site.leased_disk(SIZE)
    assert site.end(signal.SIGTERM) == 0
    assert nothing_left()
    site.start()
