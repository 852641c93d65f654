"""The whole inventory: any machine gives a document of the published schema, none gives a crash."""

import json
from pathlib import Path

import jsonschema
import pytest
from effort import effort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabricbios.hw import block, cpu, gpu, inventory, machine, memory, net, nvme, pci, thermal

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schema/inventory.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RECORDS = {
    "machine": machine.Machine, "cpu": cpu.Cpus, "logical_cpu": cpu.LogicalCpu, "memory": memory.Memory,
    "memory_node": memory.MemoryNode, "huge_pool": memory.HugePool, "block": block.BlockDevice,
    "nvme": nvme.NvmeController, "nic": net.Nic, "gpu": gpu.Gpu, "pci": pci.PciDevice, "thermal": thermal.Thermals,
    "zone": thermal.Zone, "sensor": thermal.Sensor, "cooler": thermal.Cooler,
}  # fmt: skip
FILES = [
    "/proc/cpuinfo", "/proc/meminfo", "/proc/self/mountinfo", "/proc/swaps", "/proc/self/status", "/proc/self/cgroup",
    f"{cpu.CPU}/present", f"{cpu.CPU}/online", f"{cpu.CPU}/cpu0/topology/core_id", f"{cpu.NODE}/node0/cpulist",
    f"{cpu.NODE}/node0/meminfo", f"{cpu.NODE}/node0/distance", f"{memory.HUGEPAGES}/hugepages-2048kB/nr_hugepages",
    "/sys/class/block/sda/dev", "/sys/class/block/sda/size", "/sys/class/block/sda/queue/rotational",
    "/sys/class/block/sda/queue/logical_block_size", "/sys/class/block/sda/partition", "/dev/sda",
    "/sys/class/net/eth0/address", "/sys/class/net/eth0/speed", "/sys/class/net/eth0/type",
    "/sys/class/net/eth0/uevent", f"{thermal.HWMON}/hwmon0/temp1_input",
    f"{pci.DEVICES}/0000:00:01.0/vendor", f"{pci.DEVICES}/0000:00:01.0/device", f"{pci.DEVICES}/0000:00:01.0/class",
    f"{pci.DEVICES}/0000:00:01.0/resource", f"{thermal.THERMAL}/thermal_zone0/temp",
    f"{thermal.THERMAL}/cooling_device0/cur_state", "/sys/class/nvme/nvme0/model", "/proc/uptime",
]  # fmt: skip
LIKELY = st.sampled_from(
    [b"", b"0", b"-1", b"8:0", b"0-3", b"0x030000", b"\xff\0", b"9" * 40, b"1 2 3\n" * 3, b"x" * 5000]
)


def check(root) -> inventory.Inventory:
    found = inventory.detect(root)
    VALIDATOR.validate(json.loads(json.dumps(found.to_json())))
    return found


def test_an_empty_machine_is_a_valid_inventory(tmp_path):
    found = check(tmp_path)
    assert (found.block, found.net, found.gpu, found.cpu.logical) == ((), (), (), 0)


def test_this_machine_has_a_processor_and_memory():
    found = check("/")
    assert found.cpu.logical >= 1
    assert found.memory.total


@settings(
    max_examples=effort(quick=20, full=60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.sampled_from(FILES), LIKELY | st.binary(max_size=64)))
def test_no_content_of_any_file_breaks_it(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("machine")
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    check(root)


def test_directories_where_files_should_be(tree):
    for name in FILES:
        tree.directory(name)
    assert check(tree.root).unreadable


@pytest.mark.parametrize("name", RECORDS)
def test_the_schema_names_exactly_the_fields(name):
    record = SCHEMA["$defs"][name]
    assert set(record["properties"]) == set(RECORDS[name]._fields) == set(record["required"])


def test_a_machine_with_firmware_tables(tree):
    tree.fill(machine.DMI, sys_vendor="QEMU", product_name="Standard PC", bios_vendor="SeaBIOS", bios_version="1.16")
    tree.fill("/proc/sys/kernel", osrelease="6.12.0", hostname="box")
    tree.put("/proc/sys/kernel/random/boot_id", "abc\n")
    tree.put("/proc/uptime", "1234.56 99.0\n")
    tree.put("/run/systemd/container", "lxc\n")
    found = check(tree.root).machine
    assert (found.vendor, found.firmware, found.virtualization, found.container) == (
        "QEMU",
        "SeaBIOS 1.16",
        "qemu",
        "lxc",
    )
    assert (found.kernel, found.boot_id, found.uptime_seconds) == ("6.12.0", "abc", 1234)


def test_a_hypervisor_that_only_the_cpu_shows(tree):
    tree.put("/proc/cpuinfo", "flags\t\t: fpu hypervisor lm\n")
    assert check(tree.root).machine.virtualization == "unknown hypervisor"
