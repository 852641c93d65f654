"""Every probe answers on every machine, leaves nothing behind, and has a remedy for failure."""

import os
import threading

import pytest
from descriptors import open_descriptors

from fabricbios.hw import probes
from fabricbios.hw.sysfs import Sysfs

NAMES = [facility.name for facility in probes.FACILITIES]


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_found_and_a_remedy_where_it_failed(name):
    found = probes.probe(name, Sysfs("/"))
    assert found.name == name
    assert found.found
    assert found.serves
    assert bool(found.remedy) is not found.ok


def test_nothing_is_left_behind():
    probes.probe_all(Sysfs("/"))
    files, threads, network = open_descriptors(), set(threading.enumerate()), os.readlink("/proc/self/ns/net")
    probes.probe_all(Sysfs("/"))
    assert open_descriptors() <= files
    assert set(threading.enumerate()) <= threads
    assert os.readlink("/proc/self/ns/net") == network


def test_an_empty_root_lacks_what_only_files_show(tree):
    found = {p.name: p.ok for p in probes.probe_all(tree.fs)}
    lacking = {
        "hugepages",
        "bpffs",
        "nvmet",
        "nvme-fabrics",
        "rdma",
        "sriov",
        "udev",
        "systemd",
        "cgroup2",
        "capabilities",
    }
    assert not any(found[name] for name in lacking)


def test_a_server_with_everything(tree):
    tree.fill("/sys/kernel/mm/hugepages/hugepages-2048kB", nr_hugepages=8, free_hugepages=8)
    tree.directory("/sys/class/infiniband/mlx5_0")
    tree.directory("/sys/kernel/config/nvmet/subsystems")
    tree.directory("/run/systemd/system")
    tree.put("/dev/nvme-fabrics")
    tree.fill("/sys/bus/pci/devices/0000:01:00.0", vendor="0x8086", device="1", sriov_totalvfs=8)
    tree.fill("/sys/fs/cgroup", **{"cgroup.controllers": "cpu memory"})
    tree.put("/proc/self/mountinfo", "31 24 0:27 / /sys/fs/bpf rw - bpf bpf rw\n")
    tree.put("/proc/self/status", "CapEff:\t000001ffffffffff\n")
    found = {p.name: p for p in probes.probe_all(tree.fs)}
    able = ["hugepages", "rdma", "nvmet", "systemd", "nvme-fabrics", "sriov", "cgroup2", "bpffs", "capabilities"]
    assert [name for name in able if not found[name].ok] == []
    assert found["sriov"].found == "0000:01:00.0 (0 of 8 VFs)"


def test_missing_capabilities_are_named(tree):
    tree.put("/proc/self/status", f"CapEff:\t{0x1FFFFFFFFFF & ~(1 << 39 | 1 << 12):016x}\n")
    assert probes.probe("capabilities", tree.fs).found == "without CAP_NET_ADMIN, CAP_BPF"


def test_only_what_no_node_can_do_without_is_required():
    assert {f.name for f in probes.FACILITIES if f.required} == {"CLOCK_BOOTTIME", "memfd"}


def test_a_machine_whose_system_calls_nobody_knows_lacks_bpf_and_xdp(monkeypatch):
    monkeypatch.setattr(probes.bpf, "_SYSCALL", {})
    for name in ("bpf", "xdp"):
        assert not probes.probe(name, Sysfs("/")).ok
