"""Interfaces of this network namespace, asked of the kernel by ioctl (netdevice(7)): addresses, MTU, driver.

Not by /sys/class/net: that shows the network namespace it was mounted in, which need not be ours.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

SIOCGIFMTU, SIOCGIFCONF, SIOCETHTOOL = 0x8921, 0x8912, 0x8946
ETHTOOL_GDRVINFO = 3
DEFAULT_MTU = 1500
_IFREQ = 40  # sizeof(struct ifreq) on 64-bit kernels
_MAX_ADDRESSES = 1024


def mtu_of(address: str) -> int:
    """Return the MTU in bytes of the interface that has this address, DEFAULT_MTU if none has."""
    name = interface_of(address)
    return _mtu(name) if name else DEFAULT_MTU


def interface_of(address: str) -> str:
    """Return the name of the interface that has this address, "" if none has; ValueError if it is no address."""
    wanted = ip_address(address.partition("%")[0])
    return _v4_interface(wanted) if isinstance(wanted, IPv4Address) else _v6_interface(wanted)


def driver_of(name: str) -> str:
    """Return the driver of an interface (ethtool -i), "" where it does not say."""
    info = bytearray(struct.pack("=I", ETHTOOL_GDRVINFO) + bytes(196))  # struct ethtool_drvinfo
    pinned = (ctypes.c_char * len(info)).from_buffer(info)
    request = struct.pack("@16sP16x", name.encode()[:15], ctypes.addressof(pinned))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        try:
            fcntl.ioctl(s, SIOCETHTOOL, request)
        except OSError:
            return ""
    return bytes(info[4:36]).split(b"\0")[0].decode(errors="replace")


def _v4_interface(address: IPv4Address) -> str:
    buffer = bytearray(_MAX_ADDRESSES * _IFREQ)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        pinned = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        conf = bytearray(struct.pack("@iP", len(buffer), ctypes.addressof(pinned)))
        fcntl.ioctl(s, SIOCGIFCONF, conf)
    (used,) = struct.unpack_from("@i", conf)
    for at in range(0, used, _IFREQ):
        if bytes(buffer[at + 20 : at + 24]) == address.packed:
            return bytes(buffer[at : at + 16]).split(b"\0")[0].decode().partition(":")[0]
    return "lo" if address.is_loopback else ""


def _v6_interface(address: IPv6Address) -> str:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        digits, *_, name = line.split()
        if bytes.fromhex(digits) == address.packed:
            return name
    return ""


def _mtu(name: str) -> int:
    request = bytearray(name.encode()[:15].ljust(_IFREQ, b"\0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        try:
            fcntl.ioctl(s, SIOCGIFMTU, request)
        except OSError:
            return DEFAULT_MTU  # it went away just now
    return int(struct.unpack_from("@i", request, 16)[0])
