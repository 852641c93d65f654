"""NVMe: the pages as the specification lays them out, and the command block as the kernel does."""

import pytest

from fabricbios.hw import nvme


def smart_page(kelvin: int) -> bytes:
    page = bytearray(512)
    page[0] = 0x02
    page[1:3] = kelvin.to_bytes(2, "little")
    page[3], page[5] = 100, 7
    page[128:144] = (12_345).to_bytes(16, "little")
    page[160:176] = (2**64).to_bytes(16, "little")
    return bytes(page)


def test_smart():
    assert nvme.parse_smart(smart_page(315)) == nvme.Smart(2, 41_850, 100, 7, 12_345, 2**64)


def test_no_temperature_reported_is_none():
    assert nvme.parse_smart(smart_page(0)).temp_milli_c is None


def test_identify():
    page = bytearray(4096)
    page[0:2] = (0x144D).to_bytes(2, "little")
    page[4:24] = b"S1234".ljust(20)
    page[24:64] = b"A fine disk".ljust(40)
    page[64:72] = b"1.0".ljust(8)
    page[77] = 5
    page[266:268] = (343).to_bytes(2, "little")
    page[516:520] = (32).to_bytes(4, "little")
    assert nvme.parse_identity(bytes(page)) == nvme.Identity(
        0x144D, "A fine disk", "S1234", "1.0", 32, 32, 69_850, None
    )


@pytest.mark.parametrize(("parse", "size"), [(nvme.parse_smart, 512), (nvme.parse_identity, 4096)])
def test_half_an_answer_is_an_error(parse, size):
    with pytest.raises(OSError, match="bytes where"):
        parse(bytes(size - 1))


def test_the_command_block_is_the_kernels():
    assert nvme.PASSTHRU_CMD.size == 72
    offsets = nvme.PASSTHRU_CMD.offset
    assert [offsets[n] for n in ("nsid", "addr", "data_len", "cdw", "timeout_ms", "result")] == [4, 24, 36, 40, 64, 68]
    assert (3 << 30 | nvme.PASSTHRU_CMD.size << 16 | ord("N") << 8 | 0x41) == nvme.NVME_IOCTL_ADMIN_CMD


def test_a_device_that_is_no_nvme_raises_oserror(tmp_path):
    with pytest.raises(OSError, match="Inappropriate"):
        nvme.smart("/dev/null")


def test_the_disk_over_a_multipath_is_named_and_not_its_hidden_path(tree):
    tree.fill(f"{nvme.NVME}/nvme1", transport="pcie", address="0000:01:00.0")
    tree.directory(f"{nvme.NVME}/nvme1/nvme0c1n2")  # numbered by its subsystem, which need not be the controller's
    tree.directory(f"{nvme.NVME}/nvme1/hwmon4")
    (controller,) = nvme.detect(tree.fs)
    assert controller.namespaces == ("nvme0n2",)


def test_controllers_from_sysfs(tree):
    tree.fill(f"{nvme.NVME}/nvme0", model="Disk  ", serial="S1", firmware_rev="1.0", transport="pcie",
              address="0000:01:00.0", state="live", subsysnqn="nqn.x")  # fmt: skip
    tree.directory(f"{nvme.NVME}/nvme0/nvme0n1")
    tree.directory(f"{nvme.NVME}/nvme0/hwmon1")
    tree.fill(f"{nvme.NVME}/nvme1", transport="tcp", address="traddr=10.0.0.1,trsvcid=4420", subsysnqn="nqn.y")
    local, fabric = nvme.detect(tree.fs)
    assert (local.name, local.model, local.namespaces) == ("0000:01:00.0", "Disk", ("nvme0n1",))
    assert fabric.name == "nqn.y traddr=10.0.0.1,trsvcid=4420"
    assert nvme.detect(type(tree)(tree.root / "nowhere").fs) == ()
