"""Disks that are pulled, put back, replaced or err under a running daemon, for real: loop devices of the test's own.

A loop device errs where its file was cut short: a READ there is EIO (loop(4), lo_complete_rq).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from facilities import require
from frozen_rig import Frozen, frozen_at
from node_rig import NodeProcess

from fabricbios.client import Node
from fabricbios.errors import Fenced, Refused, Revoked
from fabricbios.model import Binding, ResourceFlags, ResourceType, Status
from fabricbios.transport import Identity
from fabricbios.wire import ResourceSummary

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
OWNER = Identity.generate()
MIB = 1 << 20
SIZE = 8 * MIB


def losetup(*arguments: str) -> str:
    done = subprocess.run(["losetup", *arguments], capture_output=True, text=True)
    require("loop", done.returncode == 0, f"losetup: {done.stderr.strip()}")
    return done.stdout.strip()


class Disk:
    """A loop device on a file."""

    def __init__(self, root: Path) -> None:
        self.file, self.other = root / "platter", root / "another"
        for file in (self.file, self.other):
            file.write_bytes(bytes(SIZE))
        self.path = losetup("--find", "--show", str(self.file))

    @property
    def below(self) -> str:
        """Return the file it is on, "" if it is on none."""
        try:
            return Path(f"/sys/block/{Path(self.path).name}/loop/backing_file").read_text().strip()
        except FileNotFoundError:
            return ""

    def cut(self, size: int) -> None:
        """Let everything from there on fail to be read."""
        os.truncate(self.file, size)

    def pull(self) -> None:
        os.truncate(self.file, 0)
        losetup("--set-capacity", self.path)
        losetup("--detach", self.path)  # when the last one has closed it
        os.truncate(self.file, SIZE)

    def put(self, file: Path) -> None:
        losetup(self.path, str(file))

    def close(self) -> None:
        if self.below:
            losetup("--detach", self.path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    require("losetup", bool(shutil.which("losetup")) and not os.geteuid(), "losetup wants root")
    made = Disk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path, disk: Disk) -> Iterator[NodeProcess]:
    with closing(NodeProcess(tmp_path, "--block", disk.path, "--block", f"{tmp_path}/file:4M", mem="1M")) as process:
        process.start()
        yield process


async def store(client: Node, capacity: int = SIZE) -> ResourceSummary:
    (found,) = [r for r in await client.inventory() if r.capacity == capacity]
    return found


async def state(client: Node) -> str:
    """Return what `fabricbios status` says of the disk, "" if all is well."""
    return (await client.build_info()).get(f"store.0x{(await store(client)).resource_id:032x}", "")


async def until(client: Node, word: str) -> str:
    while not (said := await state(client)).startswith(word) or (not word and said):
        await asyncio.sleep(0.05)
    return said


async def opened(client: Node, size: int = MIB, binding: Binding = Binding.UDP, **wish: Any) -> Any:
    await client.cap_request()
    wanted = (await store(client)).resource_id
    lease = client.lease_block(size, ttl=120, binding=binding, resource_id=wanted, **wish)
    await lease.open()
    return lease


async def cleared(client: Node) -> None:
    """Wait until all of the disk is free; where its teardown was given up, clear the fence."""
    while (found := await store(client)).available < SIZE:
        if found.flags == ResourceFlags.FENCED:
            await client.fence_clear(found.resource_id)
        await asyncio.sleep(0.05)


def test_a_disk_that_is_pulled_and_put_back_wants_no_restart_and_another_in_its_place_is_not_touched(
    node: NodeProcess, disk: Disk
) -> None:
    async def work(client: Node) -> None:
        lease = await opened(client)
        await lease.write(0, b"mine".ljust(512))
        async with client.lease_block(MIB, ttl=60, resource_id=(await store(client, 4 * MIB)).resource_id) as well:
            disk.pull()
            assert "the device is gone" in await until(client, "absent")
            while lease.over is None:
                await asyncio.sleep(0.05)
            assert isinstance(lease.over, Revoked)
            await well.write(0, b"served on".ljust(512))
            while disk.below:
                await asyncio.sleep(0.05)  # nobody has the dead device open any more, so its name is free

            disk.put(disk.other)
            while "another store stands here" not in await state(client):
                await asyncio.sleep(0.05)
            with pytest.raises(Fenced):
                await opened(client)
            assert not any(disk.other.read_bytes())
            while disk.below:
                subprocess.run(["losetup", "--detach", disk.path], capture_output=True)
                await asyncio.sleep(0.05)

            disk.file.write_bytes(b"mine".ljust(SIZE, b"\0"))
            disk.put(disk.file)
            await until(client, "")
            assert (await well.read(0, 512)).startswith(b"served on"), "nor was the server started again"
        await cleared(client)
        assert not any(disk.file.read_bytes()), "wiped before it is anybody's"
        for binding in (Binding.UDP, Binding.QUIC):
            again = await opened(client, SIZE, binding)
            await again.write(0, b"anew".ljust(512))
            assert (await again.read(0, 512)).startswith(b"anew")
            await again.close()

    node.run(work, OWNER)
    assert node.said().count("that store is not back") == 1
    assert "server process ended" not in node.said()
    assert node.end() == 0


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_a_bad_place_is_told_and_ends_nobodys_lease(node: NodeProcess, disk: Disk, binding: Binding) -> None:
    async def work(client: Node) -> None:
        lease = await opened(client, SIZE, binding)
        await lease.write(0, b"readable".ljust(512))
        disk.cut(4 * MIB)
        with pytest.raises(Refused):
            await lease.read(6 * MIB, 512)
        said = await until(client, "errs")
        told = r": [1-9]\d* reads, 0 writes, 0 flushes failed, the last with Input/output error"
        assert re.search(re.escape(disk.path) + told, said)  # over UDP a question may have been asked twice
        assert (await store(client)).flags == ResourceFlags.DEGRADED
        await asyncio.sleep(5)  # two looks
        assert lease.over is None
        assert (await lease.read(0, 512)).startswith(b"readable")
        disk.cut(SIZE)
        assert await lease.read(6 * MIB, 512) == bytes(512)
        await lease.close()

    node.run(work, OWNER)
    assert node.said().count("a store errs") == 1
    errors = node.metric("fabricbios_store_errors_total")
    counts = {name.partition('io="')[2].partition('"')[0]: n for name, n in errors.items() if disk.path in name}
    assert counts.pop("reads") >= 1
    assert counts == {"writes": 0, "flushes": 0}


def test_a_disk_of_which_nothing_can_be_read_is_as_good_as_gone_until_it_can(node: NodeProcess, disk: Disk) -> None:
    async def work(client: Node) -> None:
        lease = await opened(client)
        disk.cut(0)
        with pytest.raises(Refused):
            await lease.read(512 * 1024, 512)
        assert "nothing can be read" in await until(client, "absent")
        while lease.over is None:
            await asyncio.sleep(0.05)
        with pytest.raises(Fenced):
            await opened(client)
        disk.cut(SIZE)
        await until(client, "")
        await cleared(client)
        await (await opened(client, SIZE)).close()

    node.run(work, OWNER)


def test_a_file_system_without_room_is_a_write_that_errs(tmp_path: Path) -> None:
    """A file with holes, as a holder's discards make them, on a file system that somebody else has filled."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, text=True)
    require("tmpfs", done.returncode == 0, done.stderr)
    node = NodeProcess(tmp_path, "--block", f"{place}/disk:8M", mem="1M")
    node.start()

    async def work(client: Node) -> None:
        lease = await opened(client, SIZE)
        subprocess.run(["fallocate", "--punch-hole", "--length", str(SIZE), place / "disk"], check=True)
        subprocess.run(["fallocate", "--length", str(11 * MIB), place / "hog"], check=True)
        with pytest.raises(Refused):
            await lease.write(0, b"x" * SIZE)
        assert "No space left on device" in await until(client, "errs")
        assert lease.over is None
        await lease.close()

    try:
        node.run(work, OWNER)
    finally:
        node.close()
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Frozen]:
    with frozen_at(tmp_path) as made:
        yield made


def test_who_frees_a_lease_on_a_disk_that_hangs_has_an_answer_before_he_gives_up(
    tmp_path: Path, frozen: Frozen
) -> None:
    """And nobody else waits: neither for his answer, nor for another lease on another disk, nor for memory."""
    node = NodeProcess(tmp_path, "--block", f"{frozen.mount}/disk:8M", "--block", f"{tmp_path}/file:4M", mem="1M")

    async def elsewhere(client: Node) -> None:
        async with client.lease_memory(65536, ttl=60) as memory:
            assert await memory.read(0, 8) == bytes(8)
        wanted = (await store(client, 4 * MIB)).resource_id
        async with client.lease_block(MIB, ttl=60, binding=Binding.QUIC, resource_id=wanted) as well:
            await well.write(0, b"w" * 512)

    async def work(client: Node) -> None:
        await client.cap_request()
        wanted = (await store(client)).resource_id
        leases = [await client.lease_alloc(120, ResourceType.BLOCK, MIB, binding=Binding.QUIC, resource_id=wanted)
                  for _ in range(3)]  # fmt: skip
        frozen.freeze()
        freed = asyncio.gather(*(client.free(lease.lease_id) for lease in leases), return_exceptions=True)
        await asyncio.sleep(0.5)
        await elsewhere(client)
        assert not freed.done(), "it was answered before it hung"
        said = await freed
        assert [error.status for error in said if isinstance(error, Refused)] == [Status.RESOURCE_BUSY] * 3
        assert all("access is over" in str(error) for error in said)
        await elsewhere(client)
        frozen.thaw()
        while (await store(client)).available < SIZE:
            await asyncio.sleep(0.1)

    try:
        node.start()
        node.run(work, OWNER)
        assert node.end() == 0
    finally:
        frozen.thaw()
        node.close()
