"""dataplane/nvmeof: any prefix of the do-steps is undone to nothing, and only the holder is let in."""

import base64
import errno
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvmet import fake_nvmet, snapshot

from fabricbios.dataplane import nvmeof
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.nvmeof import STEPS, NvmeofPlane
from fabricbios.hw import loop
from fabricbios.hw.backing import open_backing
from fabricbios.hw.nvmet import Listener
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, DpAuth, Perm, ResourceType
from fabricbios.ports import LeaseSpec
from fabricbios.wire import NvmeofDhchapKey, NvmeofHostNqn, NvmeofNqn, NvmeofTraddr, NvmeofTrsvcid, NvmeofTrtype

WHOLE = 4 << 20
PART = 1 << 20
LEASE = LeaseSpec(
    lease_id=0xABC,
    resource_id=1,
    kind=ResourceType.BLOCK,
    binding=Binding.NVMEOF,
    size=WHOLE,
    holder=0xD,
    generation=1,
    dp_auth=DpAuth.HMAC_HEADER,
    dp_key=bytes(range(32)),
    rights=Perm.READ | Perm.WRITE,
    expires_ns=0,
    reached="::ffff:192.0.2.7",
)
Attached = dict[str, tuple[str, int, int]]
NQN = "nqn.2026-02.io.fabricbios:lease:00000000000000000000000000000abc"
HOST = "nqn.2026-02.io.fabricbios:host:0000000000000000000000000000000d:00000000000000000000000000000abc"


class World:
    """A pool over one file of 4 MiB and a fake target; `plane()` is another process each time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = directory / "disk"
        self.nvmet = fake_nvmet(directory / "nvmet", Listener("tcp", "0.0.0.0", 4420))
        self.backing = open_backing(Sysfs(), str(self.disk), WHOLE)
        self.journal: ExtentJournal | None = None

    def plane(self) -> NvmeofPlane:
        if self.journal:
            self.journal.close()
        self.journal = ExtentJournal(self.directory / "extents")
        self.pool = BlockPool({LEASE.resource_id: self.backing}, self.journal, "zero")
        return NvmeofPlane(self.pool, self.nvmet)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.backing.close()


@pytest.fixture(autouse=True)
def attached(monkeypatch: pytest.MonkeyPatch) -> Attached:
    """The loop devices that are attached; the driver itself has its tests in the machine."""
    devices: Attached = {}
    monkeypatch.setattr(loop, "attach", lambda name, *backing: devices.setdefault(name, backing))
    monkeypatch.setattr(loop, "detach", lambda name: devices.pop(name, None))
    monkeypatch.setattr(loop, "find", lambda name: "/dev/loop7" if name in devices else "")
    monkeypatch.setattr(loop, "names", lambda: tuple(devices))
    return devices


def bind(world: World, lease: LeaseSpec = LEASE, steps: int = len(STEPS)) -> list[object]:
    plane = world.plane()
    return [tlv for step in plane.steps(lease)[:steps] for tlv in plane.do(step, lease)]


def test_the_answer_says_how_to_connect(world: World) -> None:
    way = [NvmeofTraddr("192.0.2.7"), NvmeofTrsvcid(4420), NvmeofTrtype(0)]
    secret = nvmeof.dhchap_key(LEASE.dp_key)
    assert bind(world) == [NvmeofNqn(NQN), *way, NvmeofDhchapKey(secret), NvmeofHostNqn(HOST)]
    assert world.nvmet.fs.names(f"subsystems/{NQN}/allowed_hosts") == (HOST,)
    assert world.nvmet.fs.read(f"subsystems/{NQN}/namespaces/1/device_path") == str(world.disk)


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_any_prefix_is_undone_to_nothing_by_another_process(world: World, done: int) -> None:
    before = snapshot(world.nvmet.fs.root)
    bind(world, steps=done)
    for _ in range(2):
        plane = world.plane()
        for step in reversed(STEPS[: done + 1]):
            plane.undo(step, LEASE)
    assert snapshot(world.nvmet.fs.root) == before
    assert world.pool.leases() == set()


@pytest.mark.parametrize("done", range(3, len(STEPS) + 1))
def test_what_nobody_knows_of_is_an_orphan_until_released(world: World, done: int) -> None:
    before = snapshot(world.nvmet.fs.root)
    bind(world, steps=done)
    plane = world.plane()
    assert plane.orphans(set()) == {LEASE.lease_id}
    assert plane.orphans({LEASE.lease_id}) == set()
    plane.release(LEASE.lease_id)
    assert snapshot(world.nvmet.fs.root) == before
    assert plane.orphans(set()) == world.pool.leases() == set()


def test_a_part_of_a_disk_is_served_through_a_loop_device(world: World, attached: Attached) -> None:
    part = LEASE._replace(size=PART)
    bind(world, part)
    backing = f"/proc/self/fd/{world.backing.fd}"
    assert attached == {"fabricbios:00000000000000000000000000000abc": (backing, 0, PART)}
    assert world.nvmet.fs.read(f"subsystems/{NQN}/namespaces/1/device_path") == "/dev/loop7"
    for step in reversed(STEPS):
        world.plane().undo(step, part)
    assert attached == {}


def test_a_truncated_backing_is_not_served(world: World) -> None:
    bind(world, steps=3)
    world.disk.write_bytes(b"")
    with pytest.raises(OSError, match="truncated"):
        world.plane().do("nvmeof.namespace", LEASE)


@pytest.mark.parametrize(
    ("lease", "code"),
    [(LEASE._replace(rights=Perm.READ), errno.EROFS), (LEASE._replace(size=PART + 1), errno.EINVAL)],
    ids=["read-only", "half a block"],
)
def test_what_the_target_cannot_serve_is_refused(world: World, lease: LeaseSpec, code: int) -> None:
    with pytest.raises(OSError, match=r"read-only|whole number") as caught:
        world.plane().do("block.extent", lease)
    assert caught.value.errno == code
    assert world.pool.leases() == set()


def test_a_new_key_replaces_the_old_one(world: World) -> None:
    bind(world)
    answer = world.plane().rekey(LEASE._replace(dp_key=bytes(32)))
    assert NvmeofDhchapKey(nvmeof.dhchap_key(bytes(32))) in answer
    assert world.nvmet.fs.read(f"hosts/{HOST}/dhchap_key") == nvmeof.dhchap_key(bytes(32))
    assert world.nvmet.fs.names("ports/64256/subsystems") == (NQN,)


def test_a_successor_goes_on_with_what_is_whole(world: World) -> None:
    answer = bind(world)
    assert world.plane().adopt(LEASE._replace(dp_key=b"")) == answer


@pytest.mark.parametrize("done", range(len(STEPS) - 1))
def test_a_successor_refuses_what_is_not(world: World, done: int) -> None:
    bind(world, steps=done)
    with pytest.raises(OSError, match=r"nothing is known|gone or incomplete") as caught:
        world.plane().adopt(LEASE)
    assert caught.value.errno == errno.ENOENT


def test_the_secret_has_the_form_the_kernel_wants() -> None:
    version, hash_id, body, end = nvmeof.dhchap_key(LEASE.dp_key).split(":")
    data = base64.b64decode(body)
    assert (version, hash_id, end, len(data)) == ("DHHC-1", "01", "", 36)
    assert zlib.crc32(data[:32]).to_bytes(4, "little") == data[32:]
    assert LEASE.dp_key not in data
