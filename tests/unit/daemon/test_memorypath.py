"""Which interfaces the kernel path would take, and what is said where there is none; UserMemory needs no rights."""

from pathlib import Path

import pytest

from fabricbios.daemon.config import Config, load
from fabricbios.daemon.memorypath import memory_path


def config(root: Path, **flags: object) -> Config:
    return load(None, {"state_dir": str(root), "mem_capacity": "1M", "fbmu_port": 0, **flags})


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({}, "--bind :: names no network interface, and XDP wants one: --xdp-iface"),
        ({"bind": ["127.0.0.1"]}, "--bind 127.0.0.1 names no network interface, and XDP wants one: --xdp-iface"),
        ({"xdp": "off"}, "XDP is off"),
        ({"mem_capacity": "0"}, "nothing to lease over it"),
        ({"xdp_iface": ["nowhere0"]}, "--xdp-iface nowhere0: No such device"),
    ],
)
def test_without_an_interface_the_reason_names_the_remedy(tmp_path: Path, flags: dict[str, object], why: str) -> None:
    path = memory_path(config(tmp_path, **flags), 1, fbbu_port=5703)
    try:
        assert (path.label, path.reason, path.check) == ("user", why, None)
    finally:
        path.close(keep=False)
