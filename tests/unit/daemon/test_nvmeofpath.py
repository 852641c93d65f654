"""daemon/nvmeofpath: no target, no plane, and a reason; orphans go."""

from pathlib import Path

import pytest
from fake_nvmet import fake_nvmet, snapshot

from fabricbios.daemon import nvmeofpath
from fabricbios.daemon.nvmeofpath import NvmeofPath
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.hw import loop
from fabricbios.hw.nvmet import Listener, Nvmet


@pytest.fixture
def pool(tmp_path: Path) -> BlockPool:
    return BlockPool({}, ExtentJournal(tmp_path / "extents"), "zero")


def test_a_machine_without_a_target_says_so(pool: BlockPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvmeofpath, "Nvmet", lambda listeners: Nvmet(listeners, tmp_path / "nothing"))
    path = NvmeofPath(pool, ["::"], 4420, ["tcp"])
    assert path.plane is None
    assert "modprobe" in path.reason
    path.release_orphans(set())


def test_one_listener_a_transport(pool: BlockPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Listener] = []
    monkeypatch.setattr(nvmeofpath, "Nvmet", lambda found: seen.extend(found) or fake_nvmet(tmp_path / "t", *found))
    path = NvmeofPath(pool, ["192.0.2.1", "192.0.2.2"], 4420, ["loop", "tcp"])
    assert seen == [Listener("tcp", "192.0.2.1", 4420), Listener("loop")]
    assert path.plane
    assert "DH-HMAC-CHAP" in path.reason


def test_orphans_go(pool: BlockPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvmet = fake_nvmet(tmp_path / "t", Listener("tcp", "::", 4420))
    before = snapshot(nvmet.fs.root)
    nvmet.make_subsystem("nqn.2026-02.io.fabricbios:lease:" + "0" * 31 + "7", "s")
    monkeypatch.setattr(nvmeofpath, "Nvmet", lambda listeners: nvmet)
    monkeypatch.setattr(loop, "names", lambda: ())
    path = NvmeofPath(pool, ["::"], 4420, ["tcp"])
    path.release_orphans({7})
    assert snapshot(nvmet.fs.root) != before
    path.release_orphans(set())
    assert snapshot(nvmet.fs.root) == before
