"""`fabricbios attach --hold` against the kernel's host: it ends well, badly, with its lease, and with its cable."""

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fabricbios.client import Node
from fabricbios.daemon import attach as kernel
from fabricbios.errors import Disconnected
from fabricbios.model import Binding, ResourceType
from vm.direct_io import read_direct, write_direct
from vm.forked import Forked
from vm.site import Site, site_at

pytestmark = pytest.mark.vm

MIB = 1 << 20
NETNS, CABLE, HERE, THERE = "fbhold", "fbhold0", "10.57.8.1", "10.57.8.2"
LOSS = 4  # seconds that the kernel is given to reach the node again
MOST = 90  # two KEEP_ALIVE until it misses the node, then LOSS; the rest is for a busy host. The kernel's own way: 600


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def _another_machine() -> Iterator[None]:
    """A network namespace at the other end of a cable: the kernel's host reconnects from the first one."""
    _ip("netns", "add", NETNS)
    try:
        _ip("link", "add", CABLE, "type", "veth", "peer", "name", "eth0", "netns", NETNS)
        _ip("addr", "add", f"{HERE}/24", "dev", CABLE)
        _ip("link", "set", CABLE, "up")
        _ip("-n", NETNS, "addr", "add", f"{THERE}/24", "dev", "eth0")
        _ip("-n", NETNS, "link", "set", "eth0", "up")
        _ip("-n", NETNS, "link", "set", "lo", "up")
        yield
    finally:
        _ip("netns", "del", NETNS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("hold")
    with _another_machine(), site_at(directory, f"{directory}/disk:{16 * MIB}", bind=THERE, netns=NETNS) as site:
        yield site


@pytest.fixture
def lease_id(site: Site) -> Iterator[int]:
    """A lease of our own for ten minutes; afterwards it is over and detached, whoever saw to it."""
    lease_id = _leased(site, 600)
    yield lease_id
    kernel.detach(lease_id)
    if lease_id in _live(site):
        site.run(lambda node: node.free(lease_id))


def _leased(site: Site, ttl: int) -> int:
    async def ask(node: Node) -> int:
        return (await node.lease_alloc(ttl, ResourceType.BLOCK, 2 * MIB, binding=Binding.NVMEOF)).lease_id

    return site.run(ask)


def _live(site: Site) -> set[int]:
    async def ask(node: Node) -> set[int]:
        return {lease.lease_id for lease in await node.list_active()}

    return site.run(ask)


def _until(done: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.1)


def _held(site: Site, lease_id: int, ttl: str = "10m", loss: int = LOSS) -> tuple[Forked, str]:
    """Begin to hold; return the process, and the disk once it said so."""
    holder = site.command("attach", f"{lease_id:032x}", "--hold", "--ttl", ttl, "--loss-timeout", f"{loss}s")
    line = holder.stdout.readline()
    assert line, (site.directory / "cli.log").read_text()
    disk = str(json.loads(line)["device"])
    write_direct(disk, b"h" * 4096)
    return holder, disk


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_enough_is_said_by_a_signal(site: Site, lease_id: int, number: int) -> None:
    holder, disk = _held(site, lease_id)
    holder.send_signal(number)
    assert holder.wait() == 0
    assert (kernel.attached(), os.path.exists(disk)) == ({}, False)
    assert lease_id in _live(site), "the lease is left to its end"


def test_a_killed_holder_leaves_a_disk_that_works_until_detach(site: Site, lease_id: int) -> None:
    holder, disk = _held(site, lease_id)
    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    assert kernel.attached() == {lease_id: disk}
    assert read_direct(disk) == b"h" * 4096
    assert site.cli("detach", f"{lease_id:032x}"[:8])["attached"] is False
    assert kernel.attached() == {}


def test_a_revoked_lease_ends_the_holder_and_its_disk(site: Site, lease_id: int) -> None:
    holder, disk = _held(site, lease_id)
    site.run(lambda node: node.revoke(lease_id))
    assert holder.wait() == 3
    assert "the node took the lease back" in (site.directory / "cli.log").read_text()
    assert (kernel.attached(), os.path.exists(disk)) == ({}, False)


def test_a_lease_is_renewed_while_held_and_over_when_its_holder_slept_too_long(site: Site) -> None:
    lease_id = _leased(site, 8)
    holder, _ = _held(site, lease_id, ttl="8s")
    time.sleep(9)
    assert lease_id in _live(site), "it was renewed"
    holder.send_signal(signal.SIGSTOP)
    _until(lambda: lease_id not in _live(site))
    holder.send_signal(signal.SIGCONT)
    assert holder.wait() in (3, 4)  # told so by the node, or the kernel has given the disk up already
    assert kernel.attached() == {}


def test_a_pulled_cable_fails_io_in_bounded_time_and_ends_the_holder(site: Site, lease_id: int) -> None:
    holder, disk = _held(site, lease_id)
    with _cable_pulled(site):
        started = time.monotonic()
        with pytest.raises(OSError, match=r"error|No such") as caught:
            write_direct(disk, b"u" * 4096)
        assert caught.value.errno in (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOENT)
        assert time.monotonic() - started < MOST
        assert holder.wait() == 4
        assert kernel.attached() == {}
    assert lease_id in _live(site)
    holder, _ = _held(site, lease_id)
    holder.send_signal(signal.SIGTERM)
    assert holder.wait() == 0


def test_detach_needs_no_node(site: Site, lease_id: int) -> None:
    """Nor a minute's good-bye to one that the kernel has not missed yet."""
    holder, _ = _held(site, lease_id, loss=60)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with _cable_pulled(site):
        started = time.monotonic()
        assert site.cli("detach", f"{lease_id:032x}")["attached"] is False
        assert time.monotonic() - started < 55, "a minute is what the kernel waits for an answer"
        assert kernel.attached() == {}
    assert lease_id in _live(site)


@contextmanager
def _cable_pulled(site: Site) -> Iterator[None]:
    """Afterwards the node can be reached again."""
    _ip("link", "set", CABLE, "down")
    try:
        yield
    finally:
        _ip("link", "set", CABLE, "up")
        _until(lambda: _answers(site))


def _answers(site: Site) -> bool:
    try:
        site.run(lambda node: node.ping())
    except Disconnected:
        return False
    return True
