"""A daemon without room on its disk, or without file descriptors: it refuses what it cannot do, keeps what it has, and
goes on when there is room again. The state directory is a small tmpfs that only the daemon sees."""

import asyncio
import contextlib
import itertools
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import urllib.error
from contextlib import closing
from pathlib import Path

import pytest
from facilities import require
from node_rig import NodeProcess

from fabricbios.daemon.admin_client import AdminClient
from fabricbios.errors import FabricError, Refused
from fabricbios.model import ResourceType, Status
from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(120)
OWNER = Identity.generate()
MIB = 1 << 20


class SmallDisk(NodeProcess):
    """`state` is a tmpfs of the daemon's own mount namespace; `fill` and `clear` it from here."""

    def __init__(self, directory: Path, size: str, *flags: str) -> None:
        super().__init__(directory, *flags)
        self.size = size
        (directory / "state").mkdir()

    def spawn(self) -> None:
        self.log = (self.directory / "node.log").open("a")
        state = shlex.quote(str(self.directory / "state"))
        daemon = shlex.join([sys.executable, *self.program, "node", *self.flags])
        mount = f"mount -t tmpfs -o mode=0700,size={self.size} small {state}"
        self.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", f"{mount} && exec {daemon}"],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip

    @property
    def ballast(self) -> Path:
        return Path(f"/proc/{self.process.pid}/root{self.directory}/state/ballast")

    def fill(self) -> None:
        with self.ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 512, 1):  # tmpfs counts pages; the last one of a file takes what fits in it
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def clear(self) -> None:
        self.ballast.unlink()


def mounts() -> None:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True)
    require("mounts", probe.returncode == 0, probe.stderr.strip())


@pytest.fixture
def full(tmp_path):
    mounts()
    with closing(SmallDisk(tmp_path, "256k", "--announce-interval", "1")) as node:
        node.start()
        yield node


async def until_refused(ask) -> Refused:
    """Go on until the page of the journal that was begun is full, too."""
    for _ in range(200):
        try:
            await ask()
        except Refused as refusal:
            return refusal
    raise AssertionError("the journal had room for everything")


def test_a_full_disk_refuses_what_is_new_and_keeps_what_is_there(full):
    async def work():
        async with full.connect(OWNER) as client:
            memory = client.lease_memory(MIB, ttl=60)
            await memory.open()
            await memory.write(0, b"kept")
            full.fill()
            assert (await until_refused(lambda: client.lease_alloc(30, ResourceType.MEM, 4096))).status
            assert (await until_refused(memory.renew)).status is Status.INTERNAL_ERROR
            assert await memory.read(0, 4) == b"kept"
            for lease in await client.list_active():
                if lease.lease_id != memory.lease_id:
                    await client.free(lease.lease_id)  # what ends wants no room
            full.clear()
            await memory.renew()
            assert (await client.lease_alloc(30, ResourceType.MEM, 4096)).lease_id
            assert await memory.read(0, 4) == b"kept"

    asyncio.run(work())
    assert "journal is out of space" in full.said()
    assert "Traceback" not in full.said()
    assert full.end() == 0


def test_a_claim_on_a_full_disk_is_none(full):
    full.fill()

    async def claim():
        async with full.connect(OWNER) as client:
            await client.cap_request()

    with pytest.raises(FabricError):
        asyncio.run(claim())
    full.clear()
    assert full.run(lambda client: client.cap_request(), OWNER).audience == OWNER.node_id
    assert "Traceback" not in full.said()


def test_a_start_on_a_full_disk_is_one_line(tmp_path):
    mounts()
    node = SmallDisk(tmp_path, "4k")
    (tmp_path / "state").chmod(0o700)
    node.spawn()
    assert node.process.wait(60) == 1
    node.process.stdout.close()
    assert "No space left on device" in node.said()
    assert "Traceback" not in node.said()


def lowest_free(pid: int) -> int:
    taken = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    return next(fd for fd in itertools.count() if fd not in taken)


@contextlib.contextmanager
def without_descriptors(pid: int):
    """Leave a process the descriptors that it has, and none more: the limit is the lowest that is free."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = before[0]
    try:
        while (lowest := lowest_free(pid)) < limit:  # one that was open for a moment may have hidden a lower one
            limit = lowest
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_leases_go_on_and_the_rest_comes_back(tmp_path):
    node = NodeProcess(tmp_path)
    node.start()

    async def work():
        async with node.connect(OWNER) as client, client.lease_memory(MIB, ttl=60) as memory:
            with without_descriptors(node.process.pid):
                await memory.write(0, b"kept")
                await memory.renew()
                async with client.lease_memory(MIB, ttl=60) as another:
                    assert await another.read(0, 4) == bytes(4)
                async with node.connect(Identity.generate()) as stranger:
                    await stranger.ping()
                with pytest.raises((TimeoutError, urllib.error.URLError)):
                    await asyncio.to_thread(node.metric, "fabricbios_build_info", 3)
                with socket.socket(socket.AF_UNIX) as admin:
                    admin.connect(str(tmp_path / "run" / "admin.sock"))
                    await asyncio.sleep(0.2)
                node.kill(signal.SIGHUP)
                while "going on as before" not in node.said():  # nobody is distrusted because nobody could look
                    await asyncio.sleep(0.02)
                await memory.renew()
            assert await memory.read(0, 4) == b"kept"
            node.kill(signal.SIGHUP)
            while "reloaded trust" not in node.said():
                await asyncio.sleep(0.02)
            await memory.renew()

    try:
        asyncio.run(work())
        while True:
            with contextlib.suppress(OSError):
                assert node.metric("fabricbios_build_info")
                break
        with AdminClient(tmp_path / "run") as admin:  # asyncio listens again within a second
            assert admin.ask(ask="paths")["planes"]
        assert node.end() == 0
    finally:
        node.close()
    assert "Traceback" not in node.said()
