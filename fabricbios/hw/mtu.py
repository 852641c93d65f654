"""Which MTU an address of this machine has, asked of the kernel by ioctl (netdevice(7)).

Not by /sys/class/net: that shows the network namespace it was mounted in, which need not be ours.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

SIOCGIFADDR, SIOCGIFMTU, SIOCGIFCONF = 0x8915, 0x8921, 0x8912
DEFAULT_MTU = 1500
_IFREQ = 40  # sizeof(struct ifreq) on 64-bit kernels
_MAX_ADDRESSES = 1024


def mtu_of(address: str) -> int:
    """Return the MTU in bytes of the interface that has this address, DEFAULT_MTU if none has."""
    wanted = ip_address(address.partition("%")[0])
    name = _v4_interface(wanted) if isinstance(wanted, IPv4Address) else _v6_interface(wanted)
    return _mtu(name) if name else DEFAULT_MTU


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
