"""Datagrams by the batch: recvmmsg(2) into one room, sendmmsg(2) out of one piece of bytes.

Where the kernel can, it hands over what one asker sent in one go as one message (UDP_GRO, udp(7)), whose datagrams have
one length but for the last. Where it cannot, or they came one by one, they are coupled here.
The sender's address, and under a wildcard bind the address it reached, go from question to answer untouched by Python.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby

from fabricbios.dataplane.segments import Route, Segments
from fabricbios.dataplane.trains import Train
from fabricbios.hw.syscalls import (
    IP_PKTINFO,
    MSG_DONTWAIT,
    SOL_UDP,
    UDP_GRO,
    iovec,
    mmsghdr,
    msghdr,
    recvmmsg_raw,
)

DATAGRAM_LIMIT = {socket.AF_INET: 1472, socket.AF_INET6: 1452}
"""UDP payload of a datagram (D10)."""
_MESSAGES = 32
"""Messages a batch. One may be a train of 128 segments; so many are more than loop.py answers in one go."""
_ROOM = 1 << 16
_STRIDE = _ROOM + 1472
"""Bytes from one message to the next: more than any UDP payload, and no power of two, whose multiples would all
compete for the same lines of the cache."""
_NAME, _CONTROL = 32, 96
_CMSG = struct.Struct("=QiiI")  # cmsg_len, level, type, the first four bytes of the data (cmsg(3), 64 bits)
_CMSG_HEAD = 16
_PKTINFO = {(socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)}
_WORDS = ctypes.sizeof(mmsghdr) // 8


class Batch:
    """What is received from one socket together, `messages` of them at most, and answered together."""

    def __init__(self, sock: socket.socket, messages: int = _MESSAGES) -> None:
        self._sock, self._count = sock, messages
        self.limit = DATAGRAM_LIMIT[socket.AddressFamily(sock.family)]
        self._room = mmap.mmap(-1, messages * _STRIDE)
        self._names, self._controls = bytearray(_NAME * messages), bytearray(_CONTROL * messages)
        name_bytes, self._info_bytes = _address_sizes(sock)
        trains = _ask_for_trains(sock)
        self._pieces = self._rooms()
        self._headers = self._message_headers(name_bytes, _CONTROL if self._info_bytes or trains else 0)
        self._headers_at, self._pristine = _address(self._headers), bytes(self._headers)
        self._first = self._pristine[: ctypes.sizeof(mmsghdr)]
        self._soiled = self._pristine  # what has to be there again of those that the kernel wrote into
        words = memoryview(self._headers)
        self._lengths = words.cast("I")[mmsghdr.msg_len.offset // 4 :: 2 * _WORDS]
        self._control_lengths = words.cast("Q")[msghdr.msg_controllen.offset // 8 :: _WORDS]
        route = Route(_address(self._names), _NAME, name_bytes, memoryview(self._controls), _CONTROL, self._info_bytes)
        self._segments = Segments(sock, route)

    def _rooms(self) -> ctypes.Array[iovec]:
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._room))
        return (iovec * self._count)(*(iovec(start + j * _STRIDE, _ROOM) for j in range(self._count)))

    def _message_headers(self, name_bytes: int, control_bytes: int) -> bytearray:
        names, controls, rooms = _address(self._names), _address(self._controls), ctypes.addressof(self._pieces)
        raw = bytearray(self._count * ctypes.sizeof(mmsghdr))
        headers = (mmsghdr * self._count).from_buffer(raw)
        for j in range(self._count):
            room = rooms + j * ctypes.sizeof(iovec)
            control = controls + _CONTROL * j
            headers[j].msg_hdr = msghdr(names + _NAME * j, name_bytes, room, 1, control, control_bytes, 0)
        return raw

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> list[Train]:
        """Return the datagrams that are there, none if there are none."""
        self._headers[: len(self._soiled)] = self._soiled  # how long names and control data were stands there
        n = recvmmsg_raw(self._sock.fileno(), self._headers_at, self._count, MSG_DONTWAIT, None)
        if n < 0:
            if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
                raise OSError(ctypes.get_errno(), f"recvmmsg: {os.strerror(ctypes.get_errno())}")
            return []
        self._soiled = self._pristine if n > 1 else self._first
        if n == 1:  # who waits for each answer is not to wait for the rest of this
            length = self._lengths[0]
            is_alone = self._control_lengths[0] == self._info_bytes
            return [Train(self._room[:length], length, 0)] if is_alone else list(self._cut(0, length))
        lengths = self._lengths[:n].tolist()
        if sum(self._control_lengths[:n].tolist()) == n * self._info_bytes:
            return self._joined(lengths)
        return [train for j, length in enumerate(lengths) for train in self._cut(j, length)]

    def _joined(self, lengths: list[int]) -> list[Train]:
        """Return messages of a datagram each as trains: neighbours of one length from one asker together."""
        trains, room, j = [], self._room, 0
        for (_, length), alike in groupby(zip(map(self._asker, range(len(lengths))), lengths, strict=True)):
            count = sum(1 for _ in alike)
            starts = range(j * _STRIDE, (j + count) * _STRIDE, _STRIDE)
            if length:
                trains.append(Train(b"".join([room[at : at + length] for at in starts]), length, j))
            else:
                trains += [Train(b"", 0, j)] * count
            j += count
        return trains

    def _asker(self, j: int) -> tuple[bytearray, bytearray]:
        """Return whom message j is from, and how it came."""
        name, control = j * _NAME, j * _CONTROL
        return self._names[name : name + _NAME], self._controls[control : control + self._info_bytes]

    def _cut(self, j: int, length: int) -> Iterator[Train]:
        """Yield message j, which may be a train whose last datagram is shorter than the others."""
        start = j * _STRIDE
        size = length if self._control_lengths[j] == self._info_bytes else self._segment_size(j) or length
        rest = length % size if size else 0
        if length > rest or not length:
            yield Train(self._room[start : start + length - rest], size, j)
        if rest:
            yield Train(self._room[start + length - rest : start + length], rest, j)

    def _segment_size(self, j: int) -> int:
        """Return how long the datagrams of message j are, 0 if it is no train; leave its pktinfo in front."""
        at = start = _CONTROL * j
        end, size = start + self._control_lengths[j], 0
        while at + _CMSG.size <= end:
            length, level, kind, first = _CMSG.unpack_from(self._controls, at)
            if (level, kind) == (SOL_UDP, UDP_GRO):
                size = first
            elif (level, kind) in _PKTINFO:
                self._controls[start : start + self._info_bytes] = self._controls[at : at + self._info_bytes]
            at += max(length + 7 & ~7, _CMSG_HEAD)
        return size

    def send(self, answers: Sequence[Train]) -> int:
        """Send answers to who asked; return how many the kernel would not take, as for an unreachable address."""
        return self._segments.send(answers)


def _address(buffer: bytearray) -> int:
    """Return where a buffer lies; it stays there because nobody resizes it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _ask_for_trains(sock: socket.socket) -> bool:
    """Ask for what came together in one message; False where the kernel does not know of it."""
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def _address_sizes(sock: socket.socket) -> tuple[int, int]:
    """Return (bytes of a sockaddr, bytes of a pktinfo message), and ask for the pktinfo.

    Under a wildcard bind the answer has to come from the address that was asked: IP_PKTINFO as it is
    received is what sendmsg wants to be told (ip(7), ipv6(7)).
    """
    v6 = sock.family == socket.AF_INET6
    if sock.getsockname()[0] not in ("0.0.0.0", "::"):
        return (28, 0) if v6 else (16, 0)
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return 28, socket.CMSG_SPACE(20)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    return 16, socket.CMSG_SPACE(12)
