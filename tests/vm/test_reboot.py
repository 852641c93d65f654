"""The machine loses its power with block leases live: after the boot they are over, and nobody reads their bytes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabricbios.client import Node
from fabricbios.errors import LeaseExpired, NotFound, Revoked
from fabricbios.hw import nvme_host
from fabricbios.hw.nvme_host import Target
from fabricbios.hw.nvmet import Nvmet
from fabricbios.model import Binding, LeaseStatus, ResourceType
from vm.direct_io import read_direct, write_direct
from vm.nvmeof_rig import MIB, load_modules, targets
from vm.power_cut import PLACE, cut_power, disk_by_serial, facts
from vm.site import Site, site_at

pytestmark = pytest.mark.vm("reboot")

SECRET = b"what an earlier holder wrote".ljust(4096, b"!")
SIZES = {"nvmeof": 8 * MIB, "other nvmeof": 4 * MIB, "udp": 2 * MIB}


def _before(disk: str) -> None:
    """Three holders write to an NVMe disk, and the power fails: no daemon, no kernel target, no page cache is left."""
    load_modules()
    site = Site(PLACE, disk)
    site.start()

    async def lease(node: Node) -> dict[str, Any]:
        kept: dict[str, Any] = {"node": node.node_id, "ids": {}, "ways": []}
        for name in ("nvmeof", "other nvmeof"):
            answer = await node.lease_alloc(86_400, ResourceType.BLOCK, SIZES[name], binding=Binding.NVMEOF)
            kept["ids"][name] = answer.lease_id
            kept["ways"] += targets(list(answer.bindings))
        memory = await node.lease_alloc(600, ResourceType.MEM, 4096)
        kept["ids"]["memory"] = memory.lease_id
        plain = node.lease_block(SIZES["udp"], ttl=600)
        await plain.open()
        await plain.write(0, SECRET)
        await plain.detach()
        kept["ids"]["udp"] = plain.lease_id
        return kept

    kept = site.run(lease)
    for way in kept["ways"]:
        nvme_host.connect(way)
        write_direct(nvme_host.wait_for_disk(way.nqn), SECRET)
        write_direct(nvme_host.wait_for_disk(way.nqn), SECRET, 3 * MIB)
    cut_power(kept)


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """What was before the power failed; the first boot does not come back from here."""
    found = facts()
    if found is None:
        _before(disk_by_serial("vmtest-nvme"))
    assert found
    return found


@pytest.fixture(scope="module")
def raw(kept: dict[str, Any]) -> bytes:
    """The disk as the power cut left it, before any daemon ran."""
    return Path(disk_by_serial("vmtest-nvme")).read_bytes()


@pytest.fixture(scope="module")
def site(kept: dict[str, Any], raw: bytes) -> Iterator[Site]:
    """The daemon as it comes up after the boot: same state directory, same disk."""
    with site_at(PLACE, disk_by_serial("vmtest-nvme")) as site:
        yield site


def test_the_secrets_outlived_the_power_cut(raw: bytes) -> None:
    """Else the tests below would prove nothing."""
    assert raw.count(SECRET) == 5


def test_the_leases_are_over(site: Site, kept: dict[str, Any]) -> None:
    async def work(node: Node) -> None:
        assert await node.list_active() == ()
        for name, lease_id in kept["ids"].items():
            with pytest.raises((Revoked, LeaseExpired, NotFound)):
                await node.attach(lease_id)
            assert await _status(node, lease_id) in ("REVOKED", "unknown"), name
        for store in await node.inventory():
            assert (store.available, store.flags) == (store.capacity, 0)

    site.run(work)


async def _status(node: Node, lease_id: int) -> str:
    try:
        return LeaseStatus((await node.query(lease_id)).lease_status).name
    except NotFound:
        return "unknown"


def test_nothing_of_them_can_be_read_any_more(site: Site) -> None:
    disk = Path(disk_by_serial("vmtest-nvme")).read_bytes()
    assert SECRET[:512] not in disk


def test_a_host_that_comes_back_is_refused(site: Site, kept: dict[str, Any]) -> None:
    """With no lease nobody listens; with another one live, its port lets nobody in to what is no more."""
    ways = [Target(*way) for way in kept["ways"]]
    assert Nvmet().ours() == ()
    for way in ways:
        with pytest.raises(OSError, match=way.nqn):
            nvme_host.connect(way)

    async def lease(node: Node) -> tuple[int, list[Target]]:
        answer = await node.lease_alloc(600, ResourceType.BLOCK, SIZES["nvmeof"], binding=Binding.NVMEOF)
        return answer.lease_id, targets(list(answer.bindings))

    lease_id, (new,) = site.run(lease)
    for way in ways:
        with pytest.raises(OSError, match=way.nqn):
            nvme_host.connect(way)
    nvme_host.connect(new)
    assert read_direct(nvme_host.wait_for_disk(new.nqn), 0, MIB) == bytes(MIB)
    nvme_host.disconnect(new.nqn)
    site.run(lambda node: node.free(lease_id))


def test_the_journal_is_sound_and_the_node_is_who_it_was(site: Site, kept: dict[str, Any]) -> None:
    """A successor by kill -9 reads what the first daemon after the boot wrote, and finds nothing to take back."""
    assert site.end(signal.SIGKILL) == -signal.SIGKILL
    before = os.path.getsize(site.log)
    site.start()

    async def look(node: Node) -> None:
        assert node.node_id == kept["node"]
        assert await node.list_active() == ()

    site.run(look)
    assert "took back lease" not in site.log.read_text()[before:]
