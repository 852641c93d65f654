"""daemon/nvmeofpath: which ways in, and what happens where the kernel has no target."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvmet import fake_nvmet

from fabricbios.daemon import nvmeofpath
from fabricbios.daemon.nvmeofpath import listeners, nvmeof_plane
from fabricbios.errors import ConfigError, Unsupported
from fabricbios.hw.nvmet import Listener, Nvmet

STORES: Any = SimpleNamespace(pool=None)


def config(nvmeof: str) -> Any:
    return SimpleNamespace(nvmeof=nvmeof, bind=("192.0.2.1", "192.0.2.2"))


def test_the_ways_in_are_those_named() -> None:
    assert listeners("auto", ("::",)) == (Listener("tcp", "::", 4420),)
    named = (Listener("tcp", "192.0.2.1", 4420), Listener("rdma", "192.0.2.1", 4421), Listener("loop"))
    assert listeners("tcp, rdma:4421, loop", ("192.0.2.1",)) == named


@pytest.mark.parametrize("setting", ["fc", "tcp:x", "tcp,,loop", ""])
def test_others_are_refused_by_name(setting: str) -> None:
    with pytest.raises(ConfigError, match="nvmeof"):
        listeners(setting, ("::",))


def test_without_a_target_auto_goes_without_and_a_wish_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvmeofpath, "Nvmet", lambda found: Nvmet(found, tmp_path / "nothing"))
    assert nvmeof_plane(config("auto"), STORES) is None
    with pytest.raises(Unsupported, match="modprobe"):
        nvmeof_plane(config("tcp"), STORES)


def test_off_does_not_even_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvmeofpath, "Nvmet", lambda found: fake_nvmet(tmp_path, *found))
    assert nvmeof_plane(config("off"), STORES) is None
    assert nvmeof_plane(config("auto"), STORES) is not None
