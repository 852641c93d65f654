"""A frame around a datagram that came to a socket, so that the XDP program can be asked about it.

Addresses are zero and no checksum is right: the program looks at neither where the tag covers the bytes, and what it
answers goes back by the socket, which knows the addresses.
"""

from __future__ import annotations

import struct

_ETHERNET = bytes(12)
_V4 = struct.Struct(">2sBBHHHBBH8x")
_V6 = struct.Struct(">2sIHBB32x")
_UDP = struct.Struct(">HHHH")
_HEADS = {False: 14 + 20 + 8, True: 14 + 40 + 8}
_UDP_NUMBER, _TTL = 17, 64


def wrap(datagram: bytes, port: int, *, v6: bool) -> bytes:
    """Return an Ethernet frame that carries the datagram to `port`."""
    carried = _UDP.size + len(datagram)
    if v6:
        ip = _V6.pack(b"\x86\xdd", 6 << 28, carried, _UDP_NUMBER, _TTL)
    else:
        ip = _V4.pack(b"\x08\x00", 0x45, 0, 20 + carried, 0, 0, _TTL, _UDP_NUMBER, 0)
    return b"".join((_ETHERNET, ip, _UDP.pack(0, port, carried, 0), datagram))


def strip(frame: bytes, *, v6: bool) -> bytes:
    """Return the datagram that such a frame carries."""
    return frame[_HEADS[v6] :]
