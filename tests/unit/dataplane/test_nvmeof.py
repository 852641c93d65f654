"""dataplane/nvmeof: any prefix of the do-steps is undone to nothing, and only the holder is let in."""

import base64
import errno
import zlib
from pathlib import Path

import pytest
from fake_nvmet import fake_nvmet, snapshot

from fabricbios.dataplane import nvmeof
from fabricbios.dataplane.nvmeof import STEPS, Backing, NvmeofPlane
from fabricbios.hw import loop
from fabricbios.hw.nvmet import Listener, Nvmet
from fabricbios.model import Binding, DpAuth, Perm, ResourceType
from fabricbios.ports import LeaseSpec
from fabricbios.wire import NvmeofDhchapKey, NvmeofHostNqn, NvmeofNqn, NvmeofTraddr, NvmeofTrsvcid, NvmeofTrtype

LEASE = LeaseSpec(
    lease_id=0xABC,
    resource_id=1,
    kind=ResourceType.BLOCK,
    binding=Binding.NVMEOF,
    size=4096,
    holder=0xD,
    generation=1,
    dp_auth=DpAuth.HMAC_HEADER,
    dp_key=bytes(range(32)),
    rights=Perm.READ | Perm.WRITE,
    expires_ns=0,
    reached="::ffff:192.0.2.7",
)
NQN = "nqn.2026-02.io.fabricbios:lease:00000000000000000000000000000abc"
HOST = "nqn.2026-02.io.fabricbios:host:0000000000000000000000000000000d:00000000000000000000000000000abc"


class OneFile:
    """Extents over one file; `offset` 0 makes the extent the whole of it."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.backing = Backing(str(path), offset, 4096)
        self.held: set[int] = set()

    def carve(self, lease: LeaseSpec) -> Backing:
        self.held.add(lease.lease_id)
        return self.backing

    def where(self, lease: LeaseSpec) -> Backing:
        if lease.lease_id not in self.held:
            raise OSError(errno.ENOENT, "no extent")
        return self.backing

    def release(self, lease: LeaseSpec) -> None:
        self.held.discard(lease.lease_id)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture
def nvmet(tmp_path: Path) -> Nvmet:
    return fake_nvmet(tmp_path / "nvmet", Listener("tcp", "0.0.0.0", 4420))


@pytest.fixture(autouse=True)
def attached(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, int, int]]:
    """The loop devices that are attached; the driver itself has its tests in the machine."""
    devices: dict[str, tuple[str, int, int]] = {}
    monkeypatch.setattr(loop, "attach", lambda name, *backing: devices.setdefault(name, backing))
    monkeypatch.setattr(loop, "detach", lambda name: devices.pop(name, None))
    monkeypatch.setattr(loop, "find", lambda name: "/dev/loop7" if name in devices else "")
    return devices


def test_the_answer_says_how_to_connect(nvmet: Nvmet, disk: Path) -> None:
    plane = NvmeofPlane(OneFile(disk), nvmet)
    answer = [tlv for step in plane.steps(LEASE) for tlv in plane.do(step, LEASE)]
    way = [NvmeofTraddr("192.0.2.7"), NvmeofTrsvcid(4420), NvmeofTrtype(0)]
    secret = nvmeof.dhchap_key(LEASE.dp_key)
    assert answer == [NvmeofNqn(NQN), *way, NvmeofDhchapKey(secret), NvmeofHostNqn(HOST)]
    assert nvmet.fs.names(f"subsystems/{NQN}/allowed_hosts") == (HOST,)
    assert nvmet.fs.read(f"subsystems/{NQN}/namespaces/1/device_path") == str(disk)


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_any_prefix_is_undone_to_nothing_by_another_process(nvmet: Nvmet, disk: Path, done: int) -> None:
    before = snapshot(nvmet.fs.root)
    extents = OneFile(disk)
    for step in STEPS[:done]:
        NvmeofPlane(extents, nvmet).do(step, LEASE)
    for _ in range(2):
        for step in reversed(STEPS[: done + 1]):
            NvmeofPlane(extents, nvmet).undo(step, LEASE)
    assert snapshot(nvmet.fs.root) == before
    assert not extents.held


def test_a_part_of_a_disk_is_served_through_a_loop_device(
    nvmet: Nvmet, disk: Path, attached: dict[str, tuple[str, int, int]]
) -> None:
    plane = NvmeofPlane(OneFile(disk, offset=512), nvmet)
    for step in STEPS:
        plane.do(step, LEASE)
    assert attached == {"fabricbios:00000000000000000000000000000abc": (str(disk), 512, 4096)}
    assert nvmet.fs.read(f"subsystems/{NQN}/namespaces/1/device_path") == "/dev/loop7"
    for step in reversed(STEPS):
        plane.undo(step, LEASE)
    assert attached == {}


def test_a_backing_that_shrank_is_not_served(nvmet: Nvmet, disk: Path) -> None:
    plane = NvmeofPlane(OneFile(disk), nvmet)
    for step in STEPS[:3]:
        plane.do(step, LEASE)
    disk.write_bytes(b"")
    with pytest.raises(OSError, match="no block device") as caught:
        plane.do("nvmeof.namespace", LEASE)
    assert caught.value.errno == errno.ENOENT


def test_a_lease_without_the_right_to_write_is_refused(nvmet: Nvmet, disk: Path) -> None:
    plane = NvmeofPlane(OneFile(disk), nvmet)
    plane.do("block.extent", LEASE)
    with pytest.raises(OSError, match="read-only"):
        plane.do("nvmeof.device", LEASE._replace(rights=Perm.READ))


def test_a_new_key_replaces_the_old_one(nvmet: Nvmet, disk: Path) -> None:
    plane = NvmeofPlane(OneFile(disk), nvmet)
    for step in STEPS:
        plane.do(step, LEASE)
    answer = plane.rekey(LEASE._replace(dp_key=bytes(32)))
    assert NvmeofDhchapKey(nvmeof.dhchap_key(bytes(32))) in answer
    assert nvmet.fs.read(f"hosts/{HOST}/dhchap_key") == nvmeof.dhchap_key(bytes(32))
    assert nvmet.fs.names("ports/64256/subsystems") == (NQN,)


def test_the_secret_has_the_form_the_kernel_wants() -> None:
    version, hash_id, body, end = nvmeof.dhchap_key(LEASE.dp_key).split(":")
    data = base64.b64decode(body)
    assert (version, hash_id, end, len(data)) == ("DHHC-1", "01", "", 36)
    assert zlib.crc32(data[:32]).to_bytes(4, "little") == data[32:]
    assert LEASE.dp_key not in data
