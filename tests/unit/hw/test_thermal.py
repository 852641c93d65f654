"""Temperatures: which sensor speaks, what is out of bounds, who is throttled."""

import pytest

from fabricbios.hw import thermal
from fabricbios.hw.thermal import SensorStatus


def zone(tree, number, kind, temp, **trips):
    tree.fill(f"{thermal.THERMAL}/thermal_zone{number}", type=kind, temp=temp, **trips)


def hwmon(tree, number, chip, **files):
    tree.fill(f"{thermal.HWMON}/hwmon{number}", name=chip, **files)


def test_a_machine_without_sensors_supports_nothing(tree):
    assert thermal.read(tree.fs) == thermal.Reading(None, None, None, None, None)
    assert thermal.detect(tree.fs) == thermal.Thermals((), (), (), None)


@pytest.mark.parametrize(
    "kind", ["x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "cpu0-thermal", "cpu-thermal-0"]
)
def test_the_soc_by_its_zone(tree, kind):
    zone(tree, 0, "acpitz", 20_000)
    zone(tree, 1, kind, 48_250)
    found = thermal.read(tree.fs)
    assert (found.soc_temp_milli_c, found.soc_status) == (48_250, SensorStatus.OK)


def test_then_by_its_hwmon_chip_then_by_acpi(tree):
    zone(tree, 0, "acpitz", 20_000)
    assert thermal.read(tree.fs).soc_temp_milli_c == 20_000
    hwmon(tree, 0, "k10temp", temp1_input=61_000, temp1_label="Tctl", temp3_input=59_000)
    assert thermal.read(tree.fs).soc_temp_milli_c == 61_000


def test_a_battery_is_not_the_soc(tree):
    zone(tree, 0, "BAT0", 30_000)
    assert thermal.read(tree.fs).soc_status is None


@pytest.mark.parametrize(
    ("milli_c", "status"),
    [(-40_000, SensorStatus.OK), (150_000, SensorStatus.OK), (-40_001, SensorStatus.UNAVAILABLE),
     (150_001, SensorStatus.UNAVAILABLE), ("garbage", SensorStatus.UNAVAILABLE), ("", SensorStatus.UNAVAILABLE)],
)  # fmt: skip
def test_bounds_of_the_wire(tree, milli_c, status):
    zone(tree, 0, "soc-thermal", milli_c)
    found = thermal.read(tree.fs)
    assert found.soc_status is status
    assert (found.soc_temp_milli_c is None) == (status is SensorStatus.UNAVAILABLE)


def test_the_hottest_nvme_by_hwmon_composite_only(tree):
    hwmon(tree, 0, "nvme", temp1_input=41_850, temp1_label="Composite", temp2_input=99_000, temp2_label="Sensor 1")
    hwmon(tree, 1, "nvme", temp1_input=45_850, temp1_label="Composite")
    found = thermal.read(tree.fs)
    assert (found.nvme_temp_milli_c, found.nvme_status) == (45_850, SensorStatus.OK)


@pytest.mark.parametrize("transport", ["tcp", "rdma", "fc", "loop"])
def test_a_disk_over_fabrics_is_in_another_machine_and_so_is_its_heat(tree, transport):
    tree.put("/sys/class/nvme/nvme0/transport", "pcie")
    tree.put("/sys/class/nvme/nvme1/transport", transport)
    for number, value in ((0, 41_850), (1, 99_850)):
        hwmon(tree, number, "nvme", temp1_input=value, temp1_label="Composite")
        tree.link(f"/sys/class/hwmon/hwmon{number}/device", f"/sys/class/nvme/nvme{number}")
    assert thermal.read(tree.fs).nvme_temp_milli_c == 41_850


@pytest.mark.parametrize("transport", ["pcie", "tcp"])
def test_nor_is_it_asked_by_smart(tree, transport):
    tree.put("/sys/class/nvme/nvme0/transport", transport)
    found = thermal.read(tree.fs, {"nvme0": 33_850}.get)
    assert found.nvme_temp_milli_c == (33_850 if transport == "pcie" else None)


def test_without_hwmon_the_controllers_are_asked(tree):
    tree.directory("/sys/class/nvme/nvme0")
    tree.directory("/sys/class/nvme/nvme1")
    found = thermal.read(tree.fs, {"nvme0": 33_850, "nvme1": 36_850}.get)
    assert (found.nvme_temp_milli_c, found.nvme_status) == (36_850, SensorStatus.OK)


def test_a_controller_that_does_not_answer_is_unavailable(tree):
    def smart(_name):
        raise PermissionError(1, "no")

    tree.directory("/sys/class/nvme/nvme0")
    found = thermal.read(tree.fs, smart)
    assert (found.nvme_temp_milli_c, found.nvme_status) == (None, SensorStatus.UNAVAILABLE)


@pytest.mark.parametrize(("state", "throttled"), [(0, False), (3, True)])
def test_a_cpu_cooler_at_work_is_throttling(tree, state, throttled):
    tree.fill(f"{thermal.THERMAL}/cooling_device0", type="Processor", cur_state=state, max_state=10)
    tree.fill(f"{thermal.THERMAL}/cooling_device1", type="Fan", cur_state=9, max_state=10)
    assert thermal.read(tree.fs).throttled is throttled


@pytest.mark.parametrize(("temp", "throttled"), [(79_999, False), (80_000, True)])
def test_a_zone_at_its_passive_trip_is_throttling(tree, temp, throttled):
    zone(tree, 0, "soc-thermal", temp, trip_point_0_temp=110_000, trip_point_0_type="critical",
         trip_point_1_temp=80_000, trip_point_1_type="passive")  # fmt: skip
    assert thermal.read(tree.fs).throttled is throttled


@pytest.mark.parametrize(
    ("bits", "throttled"), [("0", False), ("4", True), ("50000", False), ("1", False), ("8", True)]
)
def test_what_the_firmware_of_a_pi_says_now_counts_and_not_what_once_was(tree, bits, throttled):
    tree.put(thermal.FIRMWARE_THROTTLED, bits)
    assert thermal.read(tree.fs).throttled is throttled
