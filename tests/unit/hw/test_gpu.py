"""GPUs and the PCI functions they are, with a label on every guess."""

import pytest

from fabricbios.hw import gpu, pci

ADDRESS = "0000:c1:00.0"
AT = f"{pci.DEVICES}/{ADDRESS}"
MEM64_PREFETCH = 0x14220C  # what the kernel prints for a 64-bit prefetchable memory BAR
MEM = 0x40200


def bar(start: int, size: int, flags: int) -> str:
    return f"{start:#018x} {start + size - 1:#018x} {flags:#018x}"


@pytest.fixture
def card(tree):
    tree.fill(AT, vendor="0x1002", device="0x73bf", **{"class": "0x030000"}, numa_node=0)
    empty = "0x0000000000000000 " * 2 + "0x0000000000000000"
    rows = [bar(1 << 40, 256 << 20, MEM64_PREFETCH), empty, bar(1 << 41, 1 << 31, MEM), empty, empty, empty,
            bar(1 << 42, 1 << 40, MEM64_PREFETCH)]  # fmt: skip
    tree.put(f"{AT}/resource", "\n".join(rows))
    tree.directory(f"{AT}/drm/card0")
    tree.directory(f"{AT}/drm/renderD128")
    return tree


def detect(tree):
    return gpu.detect(tree.fs, pci.detect(tree.fs))


def test_vram_as_the_driver_tells_it(card):
    card.fill(AT, mem_info_vram_total=16 << 30)
    (found,) = detect(card)
    assert (found.name, found.vendor, found.device_id) == (ADDRESS, "AMD", 0x73BF)
    assert (found.vram, found.vram_source) == (16 << 30, gpu.BY_DRIVER)
    assert (found.cards, found.render_nodes) == (("card0",), ("renderD128",))


def test_else_the_largest_prefetchable_bar_labelled_as_such(card):
    (found,) = detect(card)
    assert (found.vram, found.vram_source) == (256 << 20, gpu.BY_BAR)  # not the 2 GiB register BAR, not the VFs' BAR


def test_no_bar_no_number(card):
    card.put(f"{AT}/resource", "garbage\n")
    (found,) = detect(card)
    assert (found.vram, found.vram_source) == (None, "")


def test_only_display_class(card):
    card.fill(f"{pci.DEVICES}/0000:00:1f.0", vendor="0x8086", device="0x0001", **{"class": "0x060100"})
    assert [g.name for g in detect(card)] == [ADDRESS]


def test_nvidia_names_its_model(card):
    card.fill(AT, vendor="0x10de")
    card.put(f"/proc/driver/nvidia/gpus/{ADDRESS}/information", "Model: \t NVIDIA H100 PCIe\nIRQ: 1\n")
    (found,) = detect(card)
    assert (found.vendor, found.model) == ("NVIDIA", "NVIDIA H100 PCIe")


def test_a_vendor_nobody_knows_is_shown_as_its_number(card):
    card.fill(AT, vendor="0xbeef")
    assert detect(card)[0].vendor == "0xbeef"


def test_the_gpu_of_a_soc(tree):
    device = "/sys/devices/platform/axi/1002000000.v3d"
    tree.put(f"{device}/of_node/compatible", b"brcm,2712-v3d\0")
    tree.directory(f"{device}/drm/card1")
    tree.link("/sys/class/drm/renderD128", f"{device}/drm/renderD128")
    tree.link(f"{device}/drm/renderD128/device", device)
    (found,) = detect(tree)
    assert (found.name, found.vendor, found.vram, found.render_nodes) == (
        "1002000000.v3d",
        "brcm",
        None,
        ("renderD128",),
    )


def test_a_function_that_went_away_is_left_out(tree):
    tree.directory(f"{pci.DEVICES}/0000:00:01.0")
    assert pci.detect(tree.fs) == ()


def test_a_pci_function(card):
    card.fill(AT, sriov_totalvfs=8, sriov_numvfs=0, current_link_width=16, current_link_speed="16.0 GT/s PCIe",
              subsystem_vendor="0x1043", subsystem_device="0x0001")  # fmt: skip
    card.link(f"{AT}/iommu_group", "/sys/kernel/iommu_groups/17")
    (found,) = pci.detect(card.fs)
    assert found == pci.PciDevice(
        ADDRESS, 0x1002, 0x73BF, (0x1043, 1), 0x030000, "", 0, "17", "16.0 GT/s PCIe", 16, 8, 0, False
    )
