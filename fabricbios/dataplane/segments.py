"""Answers of one length to one asker as one message, which the kernel cuts apart (UDP_SEGMENT, udp(7)).

That is what a client with a window of READs or WRITEs in flight gets: one walk through the network
stack for all of them. Where the kernel or the interface will not, they leave one by one.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from fabricbios.dataplane.trains import Train
from fabricbios.hw.syscalls import SOL_UDP, UDP_SEGMENT, iovec, mmsghdr, msghdr, sendmmsg_raw

MOST_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of the oldest kernels that have it (include/linux/udp.h)."""
MOST_BYTES = 65_000
"""A little less than the longest UDP payload (65,507 on IPv4)."""
_VECTOR = 64
_CMSG = struct.Struct("=QiiH6x")  # cmsg_len, level, type, the u16 segment size (cmsg(3), 64 bits)
_CMSG_LEN = 18
_CONTROL = 64
_NAME_AT, _CONTROL_LENGTH_AT = msghdr.msg_name.offset // 8, msghdr.msg_controllen.offset // 8
_WORDS = ctypes.sizeof(mmsghdr) // 8


class Route(NamedTuple):
    """How the questions of a batch came: of message j a sockaddr of `name_bytes` at the address
    `names` + j * `name_stride`, and in `controls`, from j * `control_stride` on, a pktinfo of `info_bytes`."""

    names: int
    name_stride: int
    name_bytes: int
    controls: memoryview
    control_stride: int
    info_bytes: int


class _Message(NamedTuple):
    """`number` answers of `size` bytes each, from byte `start` of what is sent on, to who sent message `origin`."""

    origin: int
    start: int
    size: int
    number: int


class Segments:
    """Sends messages from one socket along the routes by which questions came."""

    def __init__(self, sock: socket.socket, route: Route) -> None:
        self._fd, self._route = sock.fileno(), route
        self._can_segment = _can_segment(sock)
        self._control = bytearray(_CONTROL * _VECTOR)
        self._pieces, self._headers = bytearray(16 * _VECTOR), bytearray(8 * _WORDS * _VECTOR)
        self._piece_words = memoryview(self._pieces).cast("Q")
        self._words = memoryview(self._headers).cast("Q")
        headers = (mmsghdr * _VECTOR).from_buffer(self._headers)
        pieces, control = (ctypes.addressof(ctypes.c_char.from_buffer(b)) for b in (self._pieces, self._control))
        for i, header in enumerate(headers):
            piece = pieces + i * ctypes.sizeof(iovec)
            header.msg_hdr = msghdr(None, route.name_bytes, piece, 1, control + i * _CONTROL, 0, 0)
        self._headers_at = ctypes.addressof(headers)
        self._data = ctypes.c_char_p()
        self._address = memoryview(self._data).cast("B").cast("Q")  # what ctypes.cast tells, without making objects

    def send(self, answers: Sequence[Train]) -> int:
        """Send trains of answers; return how many answers the kernel would not take."""
        if len(answers) == 1 and len(answers[0].data) == answers[0].size:
            return self._send_alone(*answers[0])
        data = b"".join([train.data for train in answers])
        messages: list[_Message] = []
        start = 0
        for train in answers:
            messages += self._messages(train, start)
            start += len(train.data)
        self._data.value = data  # and is kept alive by it
        return self._send(self._address[0], messages)

    def _send_alone(self, data: bytes, size: int, origin: int) -> int:
        """Send one datagram, for whose asker nothing goes on before it has left."""
        self._data.value = data
        self._arrange(0, self._address[0], size, 1, origin)
        return 0 if sendmmsg_raw(self._fd, self._headers_at, 1, 0) == 1 else 1

    def _messages(self, train: Train, start: int) -> list[_Message]:
        """Return a train in as many messages as the kernel wants it to be."""
        data, size, origin = train
        fits = max(1, min(MOST_SEGMENTS, MOST_BYTES // size)) if self._can_segment else 1
        if len(data) <= fits * size:
            return [_Message(origin, start, size, len(data) // size)]
        most = fits * size
        lengths = [min(most, len(data) - at) for at in range(0, len(data), most)]
        return [_Message(origin, start + i * most, size, length // size) for i, length in enumerate(lengths)]

    def _send(self, address: int, messages: Sequence[_Message]) -> int:
        refused = 0
        for i in range(0, len(messages), _VECTOR):
            refused += self._send_some(address, messages[i : i + _VECTOR])
        return refused

    def _send_some(self, address: int, messages: Sequence[_Message]) -> int:
        for i, (origin, start, size, number) in enumerate(messages):
            self._arrange(i, address + start, size, number, origin)
        done, count, failed = 0, len(messages), list[_Message]()
        while done < count:
            n = sendmmsg_raw(self._fd, self._headers_at + 8 * _WORDS * done, count - done, 0)
            if n < 0:
                failed.append(messages[done])
            done += max(n, 1)
        return sum([self._send_apart(address, message) for message in failed]) if failed else 0

    def _send_apart(self, address: int, message: _Message) -> int:
        """Send the answers of a message that the kernel would not take one by one."""
        origin, start, size, number = message
        if number == 1:
            return 1
        return self._send(address, [_Message(origin, start + i * size, size, 1) for i in range(number)])

    def _arrange(self, i: int, address: int, size: int, number: int, origin: int) -> None:
        """Make message header i `number` answers from `address` on."""
        names, name_stride, _, controls, control_stride, info = self._route
        self._words[i * _WORDS + _NAME_AT] = names + origin * name_stride
        self._words[i * _WORDS + _CONTROL_LENGTH_AT] = info + (_CMSG.size if number > 1 else 0)
        self._piece_words[2 * i], self._piece_words[2 * i + 1] = address, size * number
        if info:
            came = origin * control_stride
            self._control[i * _CONTROL : i * _CONTROL + info] = controls[came : came + info]
        if number > 1:
            _CMSG.pack_into(self._control, i * _CONTROL + info, _CMSG_LEN, SOL_UDP, UDP_SEGMENT, size)


def _can_segment(sock: socket.socket) -> bool:
    """Say whether this kernel knows UDP_SEGMENT: try to set it to nothing."""
    try:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True
