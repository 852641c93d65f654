"""NVMe-oF leases on a real target and a real host: data, keys, revocation, and nothing left behind."""

import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabricbios.dataplane.nvmeof import STEPS, dhchap_key, subsystem_nqn
from fabricbios.hw import loop, nvme_host
from fabricbios.hw.nvmet import Listener
from vm.direct_io import read_direct, write_direct
from vm.nvmeof_rig import MIB, TCP, Node, lease_of, load_modules, node_at, nothing_left, targets, tree
from vm.rdma_link import ADDRESS, soft_roce

pytestmark = pytest.mark.vm

LEASE = lease_of(0xA1)
NQN = subsystem_nqn(LEASE.lease_id)


@pytest.fixture(scope="module", autouse=True)
def _modules() -> None:
    load_modules()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    nvme_host.disconnect(NQN)
    assert nothing_left()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


def attached(node: Node) -> str:
    """Bind LEASE, connect its holder, who gives up soon, and return the disk."""
    nvme_host.connect(targets(node.bind(LEASE))[0], loss_timeout=4)
    return nvme_host.wait_for_disk(NQN)


@pytest.mark.parametrize("size", [2 * MIB, 8 * MIB], ids=["part through loop", "whole file"])
def test_the_holder_reads_what_it_wrote(node: Node, size: int) -> None:
    lease = LEASE._replace(size=size)
    nvme_host.connect(targets(node.bind(lease))[0])
    disk = nvme_host.wait_for_disk(NQN)
    data = os.urandom(MIB)
    write_direct(disk, data, size - MIB)
    assert read_direct(disk, size - MIB, MIB) == data
    assert int(Path(f"/sys/block/{os.path.basename(disk)}/size").read_text()) * 512 == size
    nvme_host.disconnect(NQN)
    node.unbind(lease)


def test_after_revocation_no_io_succeeds_and_the_disk_goes(node: Node) -> None:
    disk = attached(node)
    fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
    try:
        node.plane.undo("nvmeof.port", LEASE)
        node.plane.undo("nvmeof.host", LEASE)
        started = time.monotonic()
        with mmap.mmap(-1, 4096) as buffer, pytest.raises(OSError, match=r"Input/output error|No such"):
            os.preadv(fd, [buffer], 0)
        assert time.monotonic() - started < 60
    finally:
        os.close(fd)
    node.unbind(LEASE)


def test_a_host_busy_writing_does_not_hold_up_revocation(node: Node) -> None:
    disk = attached(node)
    failed: list[OSError] = []

    def hammer() -> None:
        try:
            while True:
                write_direct(disk, bytes(MIB))
        except OSError as error:
            failed.append(error)

    writer = threading.Thread(target=hammer)
    writer.start()
    time.sleep(0.5)
    started = time.monotonic()
    node.unbind(LEASE)
    assert time.monotonic() - started < 45, "who does not let go is waited for longer"
    writer.join(60)
    assert failed, "the writer was told"


@pytest.mark.parametrize(
    "change",
    [
        {"dhchap_key": ""},
        {"dhchap_key": dhchap_key(bytes(32))},
        {"host_nqn": "nqn.2026-02.io.fabricbios:host:somebody-else"},
    ],
    ids=["no key", "wrong key", "other host"],
)
def test_nobody_else_is_let_in(node: Node, change: dict[str, str]) -> None:
    target = targets(node.bind(LEASE))[0]
    with pytest.raises(OSError, match=NQN) as caught:
        nvme_host.connect(target._replace(**change))
    assert target.dhchap_key not in str(caught.value)
    assert nvme_host.disks(NQN) == ()
    node.unbind(LEASE)


def test_a_new_key_ends_the_old_ones_connection(node: Node) -> None:
    attached(node)
    old = targets(node.bind(LEASE))[0]
    new = targets(list(node.plane.rekey(LEASE._replace(dp_key=os.urandom(32)))))[0]
    nvme_host.disconnect(NQN)
    with pytest.raises(OSError, match=NQN):
        nvme_host.connect(old)
    nvme_host.connect(new)
    nvme_host.wait_for_disk(NQN)
    nvme_host.disconnect(NQN)
    node.unbind(LEASE)


def test_loop_transport(tmp_path: Path) -> None:
    with node_at(tmp_path, Listener("loop")) as node:
        write_direct(attached(node), b"x" * 4096)
        nvme_host.disconnect(NQN)
        node.unbind(LEASE)


def test_rdma_and_tcp_side_by_side(tmp_path: Path) -> None:
    with soft_roce(), node_at(tmp_path, TCP, Listener("rdma", ADDRESS, 4420)) as node:
        over_tcp, over_rdma = targets(node.bind(LEASE))
        nvme_host.connect(over_rdma)
        disk = nvme_host.wait_for_disk(NQN)
        write_direct(disk, b"y" * 4096)
        nvme_host.disconnect(NQN)
        nvme_host.connect(over_tcp)
        assert read_direct(nvme_host.wait_for_disk(NQN)) == b"y" * 4096
        nvme_host.disconnect(NQN)
        node.unbind(LEASE)


def test_the_next_holder_reads_zeros(node: Node) -> None:
    write_direct(attached(node), b"s" * MIB)
    node.unbind(LEASE)
    nvme_host.disconnect(NQN)
    disk = attached(node)
    assert read_direct(disk, 0, MIB) == bytes(MIB)
    nvme_host.disconnect(NQN)
    node.unbind(LEASE)


def test_a_successor_adopts_a_live_connection(tmp_path: Path) -> None:
    with node_at(tmp_path) as node:
        disk = attached(node)
        write_direct(disk, b"z" * 4096)
    with node_at(tmp_path) as successor:
        answer = successor.plane.adopt(LEASE._replace(dp_key=b""))
        assert targets(list(answer))[0].dhchap_key == dhchap_key(LEASE.dp_key)
        assert read_direct(disk) == b"z" * 4096
        nvme_host.disconnect(NQN)
        successor.unbind(LEASE)


def test_a_held_device_refuses_to_go_and_then_goes(node: Node) -> None:
    node.bind(LEASE)
    device = loop.find(f"fabricbios:{LEASE.lease_id:032x}")
    fd = os.open(device, os.O_RDONLY)
    with pytest.raises(OSError, match=device) as caught:
        node.unbind(LEASE)
    assert caught.value.errno == errno.EBUSY
    assert node.pool.find(LEASE.lease_id), "what cannot be taken back is not given away"
    os.close(fd)
    node.unbind(LEASE)
    assert node.pool.find(LEASE.lease_id) is None


def test_a_truncated_file_fails_the_holder_and_fences_the_extent(tmp_path: Path) -> None:
    with node_at(tmp_path) as node:
        disk = attached(node)
        os.truncate(tmp_path / "disk", 0)
        with pytest.raises(OSError, match="Input/output error"):
            read_direct(disk)
        nvme_host.disconnect(NQN)
        with pytest.raises(OSError, match="truncated"):
            node.unbind(LEASE)
        assert nothing_left(), "access is over all the same"
        assert node.pool.find(LEASE.lease_id)


def test_foreign_objects_stay_as_they_are(node: Node, foreign: dict[str, str]) -> None:
    node.bind(LEASE)
    node.unbind(LEASE)
    assert tree() == foreign


def test_a_foreign_port_on_our_subsystem_fences_it(node: Node, foreign: dict[str, str]) -> None:
    node.bind(LEASE)
    link = Path(f"/sys/kernel/config/nvmet/ports/1/subsystems/{NQN}")
    link.symlink_to(f"/sys/kernel/config/nvmet/subsystems/{NQN}")
    with pytest.raises(OSError, match=NQN) as caught:
        node.unbind(LEASE)
    assert caught.value.errno == errno.EBUSY
    assert link.is_symlink()
    link.unlink()
    node.unbind(LEASE)
    assert tree() == foreign


@pytest.fixture
def foreign() -> Iterator[dict[str, str]]:
    """Somebody else's subsystem, host and loop port; yields the tree as they left it."""
    config = Path("/sys/kernel/config/nvmet")
    objects = ["subsystems/nqn.2014-08.org.example:theirs", "hosts/nqn.2014-08.org.example:host", "ports/1"]
    for name in objects:
        (config / name).mkdir()
    (config / "ports/1/addr_trtype").write_text("loop")
    link = config / "ports/1/subsystems/nqn.2014-08.org.example:theirs"
    link.symlink_to(config / objects[0])
    yield tree()
    link.unlink()
    for name in reversed(objects):
        (config / name).rmdir()


def test_the_steps_are_all_there() -> None:
    assert STEPS[-1] == "nvmeof.port", "access begins last and ends first"
