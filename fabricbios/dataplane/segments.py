"""Many answers of one length to one asker as one message, which the kernel cuts apart (UDP_SEGMENT, udp(7)).

That is what a client with a window of READs or WRITEs in flight gets: one walk through the network
stack for all of them. Where the kernel or the interface will not, the caller sends them one by one.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from fabricbios.hw.syscalls import SOL_UDP, UDP_SEGMENT, iovec, mmsghdr, sendmmsg_raw

MOST_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of the oldest kernels that have it (include/linux/udp.h)."""
MOST_BYTES = 65_000
"""A little less than the longest UDP payload (65,507 on IPv4)."""
_CMSG = struct.Struct("=QiiH6x")  # cmsg_len, level, type, the u16 segment size (cmsg(3), 64 bits)
_CMSG_LEN = 18


class Segments:
    """Prepared messages over the answers of a batch.

    `first` is a batch's answer header number 0; the pieces of answer j begin three iovecs a buffer after it.
    """

    def __init__(self, fd: int, first: mmsghdr) -> None:
        self._fd, self._first = fd, first
        self._control_bytes = first.msg_hdr.msg_controllen
        self._control = ctypes.create_string_buffer(self._control_bytes + _CMSG.size)
        self._message = mmsghdr.from_buffer_copy(bytes(first))
        self._message.msg_hdr.msg_control = ctypes.addressof(self._control)
        self._message.msg_hdr.msg_controllen = len(self._control)

    def send(self, answers: int, length: int) -> int:
        """Send the first `answers` answers of `length` bytes each; return how many the kernel took."""
        head = self._message.msg_hdr
        if self._control_bytes:
            ctypes.memmove(self._control, self._first.msg_hdr.msg_control, self._control_bytes)
        _CMSG.pack_into(self._control, self._control_bytes, _CMSG_LEN, SOL_UDP, UDP_SEGMENT, length)
        a_message = min(MOST_SEGMENTS, MOST_BYTES // length)
        for start in range(0, answers, a_message):
            head.msg_iov = self._first.msg_hdr.msg_iov + 3 * start * ctypes.sizeof(iovec)
            head.msg_iovlen = 3 * min(a_message, answers - start)
            if sendmmsg_raw(self._fd, ctypes.addressof(self._message), 1, 0) != 1:
                return start
        return answers


def can_segment(sock: socket.socket) -> bool:
    """Say whether this kernel knows UDP_SEGMENT: try to set it to nothing."""
    try:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True
