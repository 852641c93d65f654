"""Cores, SMT, NUMA and the names of processors."""

import pytest

from fabricbios.hw import cpu

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\ncpu MHz\t\t: 2100.5\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


@pytest.fixture
def two_sockets_with_smt(tree):
    """Eight threads, four cores, two packages, a node each; cpu7 is offline."""
    tree.put("/proc/cpuinfo", X86)
    tree.fill(cpu.CPU, present="0-7", online="0-6", isolated="2-3")
    tree.fill(f"{cpu.CPU}/smt", active=1)
    for n in range(8):
        tree.fill(f"{cpu.CPU}/cpu{n}/topology", core_id=n // 2 % 2, physical_package_id=n // 4)
        tree.fill(f"{cpu.CPU}/cpu{n}/cpufreq", cpuinfo_max_freq=3_500_000 + n)
    tree.fill(f"{cpu.NODE}/node0", cpulist="0-3")
    tree.fill(f"{cpu.NODE}/node1", cpulist="4-7")
    tree.put("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1\n")
    return tree


def test_topology(two_sockets_with_smt):
    found = cpu.detect(two_sockets_with_smt.fs)
    assert (found.logical, found.physical, found.packages, found.smt, found.nodes) == (7, 4, 2, True, 2)
    assert (found.vendor, found.model, found.max_khz) == ("GenuineIntel", "Xeon", 3_500_007)
    assert (found.allowed, found.isolated) == ((0, 1), (2, 3))
    assert found.cpus[7] == cpu.LogicalCpu(7, False, (1, 0, 1), 1, 3_500_007)


def test_the_same_core_number_in_two_packages_is_two_cores(two_sockets_with_smt):
    cores = {c.core for c in cpu.detect(two_sockets_with_smt.fs).cpus}
    assert cores == {(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)}


def test_without_sysfs_cpuinfo_still_counts(tree):
    tree.put("/proc/cpuinfo", X86 + "\n" + X86.replace(": 0", ": 1"))
    found = cpu.detect(tree.fs)
    assert (found.logical, found.physical, found.smt, found.max_khz) == (2, None, None, 2_100_500)


def test_arm_is_named_by_implementer_and_device_tree(tree):
    tree.put("/proc/cpuinfo", ARM)
    tree.put("/proc/device-tree/model", b"Raspberry Pi 5\0")
    found = cpu.detect(tree.fs)
    assert (found.vendor, found.model) == ("ARM", "Raspberry Pi 5")


def test_an_unknown_implementer_is_shown_as_its_number(tree):
    tree.put("/proc/cpuinfo", "CPU implementer\t: 0x99\n")
    assert cpu.detect(tree.fs).vendor == "0x99"


def test_nothing_at_all(tree):
    found = cpu.detect(tree.fs)
    assert (found.logical, found.model, found.max_khz, found.cpus) == (0, "", None, ())


def test_malformed_files(two_sockets_with_smt):
    tree = two_sockets_with_smt
    tree.fill(cpu.CPU, present="0-7", online="banana")
    tree.fill(f"{cpu.CPU}/cpu0/topology", core_id="?", physical_package_id=0)
    found = cpu.detect(tree.fs)
    assert found.logical == 8  # online is not told: what is present counts
    assert found.cpus[0].core is None
