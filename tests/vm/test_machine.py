"""The machine is what it claims to be: a real Debian kernel with the modules and devices that the tests need."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from vm.rdma_link import soft_roce

pytestmark = pytest.mark.vm


def test_it_is_debians_own_kernel() -> None:
    assert os.uname().release.startswith("6.12.")
    assert "-cloud-" not in os.uname().release


def test_pyverbs_sees_a_soft_roce_device() -> None:
    from pyverbs.device import Context, get_device_list

    with soft_roce() as name:
        assert name in [device.name.decode() for device in get_device_list()]
        with Context(name=name) as context:
            assert context.query_port(1).state == 4  # IBV_PORT_ACTIVE


def test_igb_makes_virtual_functions() -> None:
    device = next(Path("/sys/bus/pci/drivers/igb").glob("0000:*"))
    assert int((device / "sriov_totalvfs").read_text()) >= 2
    (device / "sriov_numvfs").write_text("2")
    try:
        assert len(list(device.glob("virtfn*"))) == 2
    finally:
        (device / "sriov_numvfs").write_text("0")


def test_nvme_answers_identify_and_has_a_temperature() -> None:
    assert Path("/sys/class/nvme/nvme0/serial").read_text().strip() == "vmtest-nvme"
    subprocess.run(["nvme", "smart-log", "/dev/nvme0"], check=True, capture_output=True)


@pytest.mark.parametrize("module", ["nvmet_tcp", "nvmet_rdma", "nvme_loop", "nvme_tcp", "nvme_rdma"])
def test_nvme_over_fabrics_modules_load(module: str) -> None:
    subprocess.run(["modprobe", module], check=True)
    assert Path(f"/sys/module/{module}").is_dir()


def test_what_is_written_in_the_checkout_stays_inside() -> None:
    Path("/project/written-inside").write_text("gone with the machine")
    assert time.monotonic() < 3600
