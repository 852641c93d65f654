"""The block server process on loopback: real sockets, real files and loop devices, and what happens on bad days."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_node import BlockClient, BlockNode, stop_at_rest
from facilities import require
from fbbu_rig import write_block
from fbmu_rig import KEY

from fabricbios.dataplane.fbbu import Sync
from fabricbios.hw.backing import GRANULE
from fabricbios.model import BLOCK_SIZE, DpStatus

SIZE = 4 * GRANULE


def udp(connected_to: socket.socket | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if connected_to is None:
        sock.bind(("127.0.0.1", 0))
    else:
        sock.connect(connected_to.getsockname())
    return sock


class Served:
    """A node on loopback and its clients."""

    def __init__(self, root: Path, store: str, size: int | None, sync: Sync = Sync.DATASYNC) -> None:
        self.sock = udp()
        self.node = BlockNode(root, store, size, [self.sock], sync)

    def client(self, lease_id: int = 7, size: int = SIZE) -> BlockClient:
        """Bind a lease and return its holder."""
        lease = self.node.lease(lease_id, size)
        self.node.bind(lease)
        return BlockClient(udp(self.sock), lease)

    def close(self) -> None:
        self.node.close()
        self.sock.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, str(tmp_path / "disk"), SIZE)
    yield made
    made.close()


@pytest.fixture(params=[512, 4096])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A loop device with blocks of 512 bytes, and one with 4096 (4Kn)."""
    tool = shutil.which("losetup")
    require("loop", os.geteuid() == 0 and tool is not None, "losetup wants root")
    (tmp_path / "image").write_bytes(bytes(SIZE))
    made = subprocess.run(
        ["losetup", "--find", "--show", "--sector-size", str(request.param), str(tmp_path / "image")],
        capture_output=True, text=True,
    )  # fmt: skip
    require("loop", made.returncode == 0, f"losetup: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_a_device_whatever_its_block_size_is_served_in_512_bytes(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, loop, None)
    try:
        client = served.client()
        assert client.hello() == (DpStatus.OK, BLOCK_SIZE, SIZE // BLOCK_SIZE, 2)
        blocks = [os.urandom(BLOCK_SIZE) for _ in range(16)]
        for index in (3, 9, 1, 15, 0, 8, 7, 2, 14, 4, 13, 5, 12, 6, 11, 10):  # no 4 KiB is ever written whole
            assert client.write(index, blocks[index]) == DpStatus.OK
        assert [client.read(index) for index in range(16)] == [(DpStatus.OK, block) for block in blocks]
        assert (tmp_path / "image").read_bytes()[: 16 * BLOCK_SIZE] == b"".join(blocks)  # durable: fdatasync reached it
        served.node.end(client.lease)
        assert not any((tmp_path / "image").read_bytes())
    finally:
        served.close()


def test_after_re_lease_nothing_of_the_earlier_holder_is_left(served: Served) -> None:
    first = served.client(1)
    for index in (0, 1, SIZE // BLOCK_SIZE - 2):
        assert first.write(index, b"secret".ljust(BLOCK_SIZE, b"!") * 2) == DpStatus.OK
    served.node.end(first.lease)
    second = served.client(2)
    for index in (0, 1, 2, SIZE // BLOCK_SIZE - 1):
        assert second.read(index) == (DpStatus.OK, bytes(BLOCK_SIZE))
    assert first.read(0) == (DpStatus.EXPIRED, b"")
    assert first.write(0, b"x" * BLOCK_SIZE) == DpStatus.EXPIRED
    assert second.read(0) == (DpStatus.OK, bytes(BLOCK_SIZE))


def written(served: Served) -> int:
    return served.node.server.counters()["bytes"]["written"]


def test_revoked_in_the_middle_of_writes_not_a_byte_lands_after_the_wipe(served: Served, tmp_path: Path) -> None:
    client = served.client()
    stop = threading.Event()

    def storm() -> None:
        """Write without waiting for answers, so that the server always has a batch in its hands."""
        nonce, data = client.nonce, b"\xee" * 2 * BLOCK_SIZE
        while not stop.is_set():
            nonce += 1
            client.sock.send(write_block(nonce % 4096, data, nonce, lease_id=7, key=KEY))

    writer = threading.Thread(target=storm)
    writer.start()
    while not written(served):
        time.sleep(0.01)
    served.node.end(client.lease)
    after = (tmp_path / "disk").read_bytes()
    batches = served.node.server._batch() + 10
    while served.node.server._batch() < batches:  # it goes on with what came after the end
        time.sleep(0.01)
    stop.set()
    writer.join()
    served.node.server.quiesce(5)
    assert not any(after)
    assert not any((tmp_path / "disk").read_bytes())


def test_a_file_truncated_under_a_live_lease(served: Served, tmp_path: Path) -> None:
    client = served.client()
    assert client.write(0, b"x" * BLOCK_SIZE) == DpStatus.OK
    os.truncate(tmp_path / "disk", GRANULE)
    assert client.write(0, b"y" * BLOCK_SIZE) == DpStatus.INTERNAL
    assert client.read(SIZE // BLOCK_SIZE - 1) == (DpStatus.INTERNAL, b"")
    with pytest.raises(OSError, match="truncated"):
        served.node.end(client.lease)


def test_a_server_that_was_killed_serves_on_with_the_same_leases(served: Served) -> None:
    client = served.client()
    assert client.write(5, b"x" * BLOCK_SIZE) == DpStatus.OK
    pid = served.node.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    served.node.server.start()
    assert client.read(5) == (DpStatus.OK, b"x" * BLOCK_SIZE)
    served.node.end(client.lease)


def test_a_stopped_server_keeps_the_extent_until_it_can_be_waited_for(served: Served, tmp_path: Path) -> None:
    client = served.client()
    client.write(0, b"x" * BLOCK_SIZE)
    pid = served.node.server.pid
    assert pid is not None
    stop_at_rest(served.node.server)
    try:
        client.sock.send(write_block(1, b"z" * BLOCK_SIZE, 50, lease_id=7, key=KEY))
        served.node.plane.undo("block.slot", client.lease)  # between batches there is nothing to wait for
    finally:
        os.kill(pid, signal.SIGCONT)
    assert client.sock.recv(2048)[56] == DpStatus.EXPIRED
    served.node.end(client.lease)
    assert not any((tmp_path / "disk").read_bytes())


def test_sync_none_is_taken_to_the_process(tmp_path: Path) -> None:
    served = Served(tmp_path, str(tmp_path / "disk"), SIZE, Sync.NONE)
    try:
        client = served.client()
        assert client.write(0, b"x" * BLOCK_SIZE) == DpStatus.OK
        assert client.read(0) == (DpStatus.OK, b"x" * BLOCK_SIZE)
    finally:
        served.close()
