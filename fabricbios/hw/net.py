"""Network interfaces. Source: Documentation/ABI/testing/sysfs-class-net, networking/operstates.rst.

Whether XDP runs natively is found by attaching a program, never by comparing driver names or versions:
the caller hands in that probe, or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from fabricbios.hw import pci
from fabricbios.hw.sysfs import Sysfs, to_int

NET = "/sys/class/net"
IFNAME = r"[^/\s]{1,15}"  # IFNAMSIZ, and what dev_valid_name() allows
NO_MAC = "00:00:00:00:00:00"
XdpProbe = Callable[[str], str]  # interface name -> "native", "generic" or "" and why not


class Nic(NamedTuple):
    """`name` is stable over reboots where `stable` says so: PCI address (and port), or permanent MAC.

    `bits_per_second` is None while the link is down or the driver does not know. `xdp` is "" unless probed.
    """

    name: str
    stable: bool
    interface: str
    ifindex: int | None
    mac: str
    mtu: int | None
    physical: bool
    kind: str
    driver: str
    bits_per_second: int | None
    duplex: str
    carrier: bool | None
    operstate: str
    master: str
    sriov_total: int | None
    sriov_active: int | None
    is_vf: bool
    node: int | None
    xdp: str


def detect(fs: Sysfs, xdp: XdpProbe | None = None) -> tuple[Nic, ...]:
    """Return every interface of this network namespace; `xdp` is called for physical ones only."""
    names = (n for n in fs.names(NET, IFNAME) if n != "bonding_masters")  # a file that stands among the links
    return tuple(_read(fs, name, xdp) for name in names)


def _read(fs: Sysfs, interface: str, xdp: XdpProbe | None) -> Nic:
    at = f"{NET}/{interface}"
    physical = fs.exists(f"{at}/device")
    name, stable = _stable_name(fs, interface)
    speed = fs.positive(f"{at}/speed")
    carrier = fs.number(f"{at}/carrier")
    address = _address(fs, at)
    function = pci.read(fs, address) if address else None
    return Nic(
        name=name,
        stable=stable,
        interface=interface,
        ifindex=fs.number(f"{at}/ifindex"),
        mac=_mac(fs, at),
        mtu=fs.positive(f"{at}/mtu"),
        physical=physical,
        kind=_kind(fs, at, physical),
        driver=fs.link(f"{at}/device/driver"),
        bits_per_second=speed * 1_000_000 if speed else None,
        duplex=fs.text(f"{at}/duplex"),
        carrier=bool(carrier) if carrier is not None else None,
        operstate=fs.text(f"{at}/operstate"),
        master=fs.link(f"{at}/master"),
        sriov_total=function.sriov_total if function else None,
        sriov_active=function.sriov_active if function else None,
        is_vf=bool(function and function.is_vf),
        node=function.node if function else pci.node_of(fs, f"{at}/device"),
        xdp=xdp(interface) if xdp and physical else "",
    )


def _address(fs: Sysfs, at: str) -> str:
    """Return the PCI address that a NIC hangs on, a virtio one by its parent; "" if none."""
    found = re.findall(rf"/({pci.ADDRESS})(?=/|$)", fs.resolve(f"{at}/device"))
    return str(found[-1]) if found else ""


def _stable_name(fs: Sysfs, interface: str) -> tuple[str, bool]:
    at = f"{NET}/{interface}"
    if address := _address(fs, at):
        port = fs.positive(f"{at}/dev_port")
        return (f"{address}/port{port}" if port else address), True
    mac = _mac(fs, at)
    permanent = fs.number(f"{at}/addr_assign_type") == 0  # NET_ADDR_PERM: burnt in, not made up at boot
    if mac and permanent and fs.exists(f"{at}/device"):
        return mac, True
    return interface, False


def _mac(fs: Sysfs, at: str) -> str:
    """Return a 6-byte address; tunnels have an IP there, InfiniBand 20 bytes, the loopback zeros."""
    text = fs.text(f"{at}/address").lower()
    octets = text.split(":")
    whole = len(octets) == 6 and all(len(o) == 2 and to_int(o, 16) is not None for o in octets)
    return text if whole and text != NO_MAC else ""


def _kind(fs: Sysfs, at: str, physical: bool) -> str:
    """Return what the interface is: loopback, bridge, bond, tun, wlan, vlan ..., physical or virtual."""
    if fs.number(f"{at}/type") == 772:  # ARPHRD_LOOPBACK
        return "loopback"
    told = re.search(r"^DEVTYPE=(\w{1,32})$", fs.text(f"{at}/uevent"), re.MULTILINE)
    if told:
        return told[1]
    if fs.exists(f"{at}/tun_flags"):
        return "tun"
    return "physical" if physical else "virtual"
