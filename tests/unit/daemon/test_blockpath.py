"""From `block = [...]` to a served lease: parsing, opening all or nothing, a server that is started again."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_node import BlockClient
from descriptors import open_descriptors
from fbbu_rig import read_block, write_block
from fbmu_rig import KEY

from fabricbios.daemon import serverwatch
from fabricbios.daemon.blockcheck import BlockCheck
from fabricbios.daemon.blockpath import BlockPath
from fabricbios.daemon.blockstores import BlockStores, split
from fabricbios.daemon.config import Config, load
from fabricbios.daemon.planesockets import bound_sockets
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slots import Extent, Plane, SlotLease, SlotState
from fabricbios.errors import ConfigError
from fabricbios.hw import backing
from fabricbios.hw.backing import GRANULE
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import BLOCK_SIZE, NS, Binding, DpAuth, DpStatus, ResourceType
from fabricbios.ports import LeaseSpec

NODE_ID = 0xA0DE


def config(root: Path, *block: str, **flags: object) -> Config:
    return load(None, {"state_dir": str(root), "block": list(block), **flags})


@pytest.mark.parametrize(
    ("setting", "path", "size"),
    [("/a/disk", "/a/disk", None), ("/a/disk:4M", "/a/disk", 4 << 20), ("/a/b:c", "/a/b:c", None),
     ("/dev/disk/by-path/pci-0000:00:1f.2:1G", "/dev/disk/by-path/pci-0000:00:1f.2", 1 << 30)],
)  # fmt: skip
def test_path_and_size(setting: str, path: str, size: int | None) -> None:
    assert split(setting) == (path, size)


def test_a_path_that_exists_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "odd:4M").touch()
    assert split(str(tmp_path / "odd:4M")) == (str(tmp_path / "odd:4M"), None)


def test_stores_become_resources_with_the_same_id_after_a_restart(tmp_path: Path) -> None:
    settings = config(tmp_path, f"{tmp_path}/one:4M", f"{tmp_path}/two:2M")
    seen = []
    for _ in range(2):
        stores = BlockStores(settings, NODE_ID)
        seen.append(stores.resources([Binding.UDP]))
        stores.close()
    assert seen[0] == seen[1]
    assert [(r.kind, r.capacity, r.path) for r in seen[0]] == [
        (ResourceType.BLOCK, 4 << 20, f"{tmp_path}/one"),
        (ResourceType.BLOCK, 2 << 20, f"{tmp_path}/two"),
    ]


@pytest.mark.parametrize("second", ["missing", "one:4M", "data", "zero:0"])
def test_one_wrong_store_opens_none(tmp_path: Path, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "PATIENCE", 0.05)
    (tmp_path / "data").write_bytes(bytes(1080) + b"\x53\xef" + bytes(GRANULE))
    before = open_descriptors()
    with pytest.raises(ConfigError):
        BlockStores(config(tmp_path, f"{tmp_path}/one:4M", f"{tmp_path}/{second}"), NODE_ID)
    assert open_descriptors() <= before


def named(root: Path, **files: str) -> list[str]:
    """Make links as kernel names are: today's /dev/sdb may be yesterday's /dev/sdc. Return the paths."""
    for name, file in files.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(root / file)
    return [f"{root}/sdb", f"{root}/sdc"]


def by_name(root: Path, paths: list[str]) -> dict[str, str]:
    """Start with these; return file -> why it is not there, "" where it is."""
    stores = BlockStores(config(root, *paths), NODE_ID)
    found = {Path(b.name).name: str(b.absence.strerror) if b.absence else "" for b in stores.by_resource.values()}
    assert [r.resource_id for r in stores.resources([])] == list(stores.by_resource)
    stores.close()
    return found


def test_a_store_that_was_there_before_may_be_missing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(2 * GRANULE))
    paths = named(tmp_path, sdb="one", sdc="two")
    assert by_name(tmp_path, paths) == {"one": "", "two": ""}
    (tmp_path / "sdc").unlink()
    for _ in range(2):
        assert by_name(tmp_path, paths) == {"one": "", "two": "No such file or directory"}
    named(tmp_path, sdc="two")
    assert by_name(tmp_path, paths) == {"one": "", "two": ""}


def test_which_one_is_missing_is_known_although_the_names_moved_up(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(2 * GRANULE))
    by_name(tmp_path, named(tmp_path, sdb="one", sdc="two"))
    paths = named(tmp_path, sdb="two")
    (tmp_path / "sdc").unlink()
    assert by_name(tmp_path, paths) == {"two": "", "one": "No such file or directory"}


def test_another_at_the_path_has_data_on_it_and_stops_nobody(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(2 * GRANULE))
    paths = named(tmp_path, sdb="one", sdc="two")
    by_name(tmp_path, paths)
    (tmp_path / "three").write_bytes(bytes(1080) + b"\x53\xef" + bytes(GRANULE))
    named(tmp_path, sdc="three")
    assert by_name(tmp_path, paths)["two"].startswith(
        f"another store stands here ({tmp_path}/three, not {tmp_path}/two)"
    )


@pytest.mark.parametrize(("size", "why"), [("2M", ""), ("4M", "truncated: it has 2097152 bytes")])
def test_a_file_cut_short_between_two_starts_is_missing_what_is_leased_of_it(
    tmp_path: Path, size: str, why: str
) -> None:
    assert by_name(tmp_path, [f"{tmp_path}/one:4M"]) == {"one": ""}
    os.truncate(tmp_path / "one", 2 * GRANULE)
    assert by_name(tmp_path, [f"{tmp_path}/one:{size}"]) == {"one": why}


def test_extents_beyond_the_end_are_no_contradiction_and_nobody_elses(tmp_path: Path) -> None:
    stores = BlockStores(config(tmp_path, f"{tmp_path}/one:4M"), NODE_ID)
    (resource_id,) = stores.by_resource
    stores.pool.place(7, resource_id, 4 * GRANULE)
    stores.close()
    os.truncate(tmp_path / "one", GRANULE)
    stores = BlockStores(config(tmp_path, f"{tmp_path}/one"), NODE_ID)
    assert stores.pool.leases() == {7}
    assert stores.pool.available(resource_id) == 0
    with pytest.raises(OSError, match="truncated"):
        stores.pool.release(7)
    assert stores.pool.leases() == {7}
    stores.close()


@pytest.mark.parametrize("said", [errno.EACCES, errno.EROFS])
def test_what_may_not_be_opened_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int) -> None:
    by_name(tmp_path, [f"{tmp_path}/one:4M"])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(said, os.strerror(said), f"{tmp_path}/one")

    monkeypatch.setattr("fabricbios.daemon.blockstores.open_backing", refuse)
    with pytest.raises(OSError, match=os.strerror(said)):
        by_name(tmp_path, [f"{tmp_path}/one:4M"])


def test_force_is_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(1080) + b"\x53\xef" + bytes(GRANULE))
    forced = config(tmp_path, f"{tmp_path}/a", block_force=[f"{tmp_path}/a"])
    BlockStores(forced, NODE_ID).close()
    assert "although: ext signature" in caplog.text
    with pytest.raises(ConfigError, match="has data on it"):
        BlockStores(config(tmp_path, f"{tmp_path}/b", block_force=[f"{tmp_path}/a"]), NODE_ID)


def test_a_lease_is_served_and_served_again_after_the_server_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serverwatch, "RESTART_AFTER", 0.01)
    asyncio.run(_serve_kill_serve(tmp_path))


async def _serve_kill_serve(root: Path) -> None:
    stores = BlockStores(config(root, f"{root}/disk:4M"), NODE_ID)
    sockets = bound_sockets(["127.0.0.1"], 0, "fbbu-port")
    path = BlockPath(stores, sockets, "datasync", None, "XDP is off")
    assert (path.label, path.reason, path.checked_by) == ("user", "no XDP check: XDP is off", "")
    plane = path.open([("127.0.0.1", 5701)])
    (resource,) = stores.resources([Binding.UDP])
    end = boottime_ns() + 60 * NS
    lease = LeaseSpec(
        7, resource.resource_id, ResourceType.BLOCK, Binding.UDP, 1 << 20, 3, 1, DpAuth.BLAKE2S_FULL, KEY, 3, end
    )
    for step in plane.steps(lease):
        plane.do(step, lease)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", path.port))
    client = BlockClient(sock, lease)
    assert await asyncio.to_thread(client.write, 0, b"x" * BLOCK_SIZE) == DpStatus.OK
    deadline = time.monotonic() + 60
    while path.counters()["user"]["requests"]["write"] != 1 and time.monotonic() < deadline:
        await asyncio.sleep(0.01)  # counts are published between batches
    pid = path._server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while path._server.pid in (pid, None) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert await asyncio.to_thread(client.read, 0) == (DpStatus.OK, b"x" * BLOCK_SIZE)
    assert path.counters()["user"]["requests"]["write"] == 1
    for step in reversed(plane.steps(lease)):
        plane.undo(step, lease)
    path.close()
    sockets[0].close()
    stores.close()
    sock.close()
    assert not any((root / "disk").read_bytes())


@pytest.mark.parametrize("configured", [("two", "one"), ("one",)])
def test_no_question_reaches_a_store_that_has_the_number_of_another(
    tmp_path: Path, configured: tuple[str, ...]
) -> None:
    asyncio.run(_count_stores_anew(tmp_path, [f"{tmp_path}/{name}:4M" for name in configured]))


async def _count_stores_anew(root: Path, configured: list[str]) -> None:
    """A table that outlived its daemon, which had store `two` as its second, and a client that goes on asking."""
    board = LeaseBoard.create(8)
    check = BlockCheck("xdp_native", "", board, board.table(), dict, lambda: None)
    sockets = bound_sockets(["127.0.0.1"], 0, "fbbu-port")
    with opened(root, [f"{root}/one:4M", f"{root}/two:4M"], sockets, check) as (path, stores):
        plane = path.open([("127.0.0.1", 5701)])
        _, resource = stores.resources([Binding.UDP])
        end = boottime_ns() + 60 * NS
        lease = LeaseSpec(
            7, resource.resource_id, ResourceType.BLOCK, Binding.UDP, 1 << 20, 3, 1, DpAuth.BLAKE2S_FULL, KEY, 3, end
        )
        for step in plane.steps(lease):
            plane.do(step, lease)
    with opened(root, configured, sockets, check) as (path, _), socket.socket(type=socket.SOCK_DGRAM) as sock:
        path.open([])
        sock.connect(("127.0.0.1", path.port))
        sock.send(write_block(0, b"x" * BLOCK_SIZE, lease_id=7))
        await drops(path, "unknown_lease", 1)
        table = check.table
        slot = table.install(SlotLease(8, Plane.FBBU, Extent(0, 512, 9), 3, DpAuth.BLAKE2S_FULL, KEY, 1, end, 1, 1), 0)
        table.set_state(slot, SlotState.ENDED)
        sock.settimeout(60)
        sock.send(read_block(0, lease_id=8))
        assert sock.recv(2048)[56] == DpStatus.EXPIRED
    sockets[0].close()
    assert not any((root / "one").read_bytes() + (root / "two").read_bytes())


@contextlib.contextmanager
def opened(
    root: Path, block: list[str], sockets: list[socket.socket], check: BlockCheck
) -> Iterator[tuple[BlockPath, BlockStores]]:
    stores = BlockStores(config(root, *block), NODE_ID)
    path = BlockPath(stores, sockets, "datasync", check, "")
    try:
        yield path, stores
    finally:
        path.close()
        stores.close()


async def drops(path: BlockPath, reason: str, count: int) -> None:
    """Wait until the server has shown that it dropped so many."""
    deadline = time.monotonic() + 60
    while path.counters()["user"]["drops"][reason] != count and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert path.counters()["user"]["drops"][reason] == count
