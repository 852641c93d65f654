"""daemon/attach: binding TLVs become ways to connect, and the kernel's state tells what is attached."""

from typing import Any

import pytest

from fabricbios.daemon import attach as kernel
from fabricbios.errors import Unsupported, WireError
from fabricbios.hw import nvme_host
from fabricbios.hw.nvme_host import Target
from fabricbios.wire import NvmeofDhchapKey, NvmeofHostNqn, NvmeofNqn, NvmeofTraddr, NvmeofTrsvcid, NvmeofTrtype

NQN = "nqn.2026-02.io.fabricbios:lease:" + "0" * 31 + "7"
WHO = (NvmeofNqn(NQN), NvmeofDhchapKey("key"), NvmeofHostNqn("host"))


def way(address: str, service: int, kind: int) -> tuple[Any, ...]:
    return NvmeofTraddr(address), NvmeofTrsvcid(service), NvmeofTrtype(kind)


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvme_host, "probe", lambda: None)
    monkeypatch.setattr(nvme_host, "wait_for_disk", lambda nqn: "/dev/nvme9n1")


def test_each_way_is_a_target() -> None:
    bindings = (*WHO, *way("192.0.2.1", 4420, 1), *way("", 4421, 0))
    assert kernel.targets(bindings, "192.0.2.9") == [
        Target(NQN, "rdma", "192.0.2.1", 4420, "host", "key"),
        Target(NQN, "tcp", "192.0.2.9", 4421, "host", "key"),
    ]


def test_another_binding_cannot_be_attached() -> None:
    with pytest.raises(Unsupported, match="nvmeof"):
        kernel.targets((), "h")


def test_ways_that_do_not_fit_together_are_the_nodes_fault() -> None:
    with pytest.raises(WireError):
        kernel.targets((*WHO, NvmeofTraddr("192.0.2.1")), "h")


def test_the_next_way_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def connect(target: Target, loss_timeout: int) -> None:
        tried.append((target.transport, loss_timeout))
        if target.transport == "rdma":
            raise OSError(111, "refused")

    monkeypatch.setattr(nvme_host, "connect", connect)
    assert kernel.attach((*WHO, *way("a", 1, 1), *way("b", 2, 0)), "h", 9) == "/dev/nvme9n1"
    assert tried == [("rdma", 9), ("tcp", 9)]
    with pytest.raises(OSError, match="refused"):
        kernel.attach((*WHO, *way("a", 1, 1)), "h")


def test_only_leases_count_as_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvme_host, "subsystems", lambda: ("nqn.disk", NQN))
    monkeypatch.setattr(nvme_host, "disks", lambda nqn: ("/dev/nvme2n1",))
    assert kernel.attached() == {7: "/dev/nvme2n1"}
