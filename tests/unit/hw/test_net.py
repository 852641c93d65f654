"""NICs: what is told, what is stable, and a link that is down."""

import pytest

from fabricbios.hw import net

ADDRESS = "0000:3b:00.1"
FUNCTION = f"/sys/devices/pci0000:3a/{ADDRESS}"


@pytest.fixture
def nic(tree):
    """A 25 Gbit/s port of a PCI function with SR-IOV, on NUMA node 1."""
    at = f"{FUNCTION}/net/ens1f1"
    tree.link("/sys/class/net/ens1f1", at)
    tree.link(f"{at}/device", FUNCTION)
    tree.link(f"/sys/bus/pci/devices/{ADDRESS}", FUNCTION)
    tree.fill(
        at, address="AA:BB:CC:00:00:01", mtu=9000, speed=25000, duplex="full", carrier=1, operstate="up", ifindex=7
    )
    tree.fill(FUNCTION, vendor="0x8086", device="0x159b", numa_node=1, sriov_totalvfs=64, sriov_numvfs=2)
    tree.directory("/sys/bus/pci/drivers/ice")
    tree.link(f"{FUNCTION}/driver", "/sys/bus/pci/drivers/ice")
    tree.put("/sys/class/net/bonding_masters", "\n")
    return tree


def test_a_physical_port(nic):
    (found,) = net.detect(nic.fs)
    assert (found.name, found.stable, found.interface, found.mac) == (ADDRESS, True, "ens1f1", "aa:bb:cc:00:00:01")
    assert (found.bits_per_second, found.duplex, found.carrier, found.mtu) == (25_000_000_000, "full", True, 9000)
    assert (found.driver, found.sriov_total, found.sriov_active, found.is_vf, found.node) == ("ice", 64, 2, False, 1)
    assert (found.physical, found.kind, found.ifindex, found.xdp) == (True, "physical", 7, "")


def test_a_second_port_of_the_same_function_has_its_own_name(nic):
    nic.fill(f"{FUNCTION}/net/ens1f1", dev_port=1)
    assert net.detect(nic.fs)[0].name == f"{ADDRESS}/port1"


def test_a_link_that_is_down_has_no_speed(nic):
    nic.fill(f"{FUNCTION}/net/ens1f1", speed=-1, carrier="")
    (found,) = net.detect(nic.fs)
    assert (found.bits_per_second, found.carrier) == (None, None)


def test_a_virtual_function_says_so(nic):
    nic.link(f"{FUNCTION}/physfn", "/sys/devices/pci0000:3a/0000:3b:00.0")
    assert net.detect(nic.fs)[0].is_vf


def test_a_virtio_nic_is_named_by_the_function_above_it(tree):
    function = "/sys/devices/pci0000:00/0000:00:03.0"
    tree.fill(f"{function}/virtio2/net/eth0", address="02:00:00:00:00:01", mtu=1400)
    tree.link("/sys/class/net/eth0", f"{function}/virtio2/net/eth0")
    tree.link(f"{function}/virtio2/net/eth0/device", f"{function}/virtio2")
    assert (net.detect(tree.fs)[0].name, net.detect(tree.fs)[0].stable) == ("0000:00:03.0", True)


def test_a_usb_nic_is_named_by_its_burnt_in_mac_only(tree):
    at = "/sys/devices/platform/usb1/1-1/net/enx0"
    tree.link("/sys/class/net/enx0", at)
    tree.link(f"{at}/device", "/sys/devices/platform/usb1/1-1")
    tree.fill(at, address="00:e0:4c:00:00:01", addr_assign_type=0)
    assert (net.detect(tree.fs)[0].name, net.detect(tree.fs)[0].stable) == ("00:e0:4c:00:00:01", True)
    tree.fill(at, addr_assign_type=1)  # made up at boot
    assert (net.detect(tree.fs)[0].name, net.detect(tree.fs)[0].stable) == ("enx0", False)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"type": 772}, "loopback"),
        ({"uevent": "DEVTYPE=bridge"}, "bridge"),
        ({"tun_flags": "0x1001"}, "tun"),
        ({}, "virtual"),
    ],
)
def test_virtual_interfaces(tree, files, kind):
    tree.directory("/sys/class/net/v0")
    tree.fill("/sys/class/net/v0", **files)
    (found,) = net.detect(tree.fs)
    assert (found.kind, found.physical, found.stable, found.name) == (kind, False, False, "v0")


@pytest.mark.parametrize(
    "address", ["00:00:00:00:00:00", "10.0.0.1", "80:00:00:48:fe:80:00:00", "zz:00:00:00:00:01", ""]
)
def test_what_is_no_mac_is_none(tree, address):
    tree.fill("/sys/class/net/v0", address=address)
    assert net.detect(tree.fs)[0].mac == ""


def test_only_physical_ones_are_probed_for_xdp(nic):
    nic.directory("/sys/class/net/lo")
    asked = []
    found = net.detect(nic.fs, lambda name: asked.append(name) or "native")
    assert asked == ["ens1f1"]
    assert [n.xdp for n in found] == ["native", ""]


def test_malformed_numbers_are_no_facts(nic):
    nic.fill(f"{FUNCTION}/net/ens1f1", mtu="lots", speed="fast", ifindex="")
    nic.fill(FUNCTION, sriov_totalvfs="-4", numa_node="-1")
    (found,) = net.detect(nic.fs)
    assert (found.mtu, found.bits_per_second, found.ifindex, found.sriov_total, found.node) == (None,) * 5
