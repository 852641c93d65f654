"""Datagrams by the batch: everything that recvmmsg(2) and sendmmsg(2) need, allocated once.

A datagram is scattered as it arrives: its auth_tag to the front of its buffer, then the header up to the
tag, then the payload. So the message that the tag covers (D10) lies in one piece, and the answer is
written over the question and gathered back in the order of the wire. The sender's address, and under a
wildcard bind the address it reached, go from question to answer untouched by Python.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket

from fabricbios.dataplane.segments import Segments, can_segment
from fabricbios.hw.syscalls import IP_PKTINFO, MSG_DONTWAIT, iovec, mmsghdr, msghdr, recvmmsg_raw, sendmmsg_raw
from fabricbios.wire.dataplane import DP_HEADER_SIZE, TAGGED_SIZE

HEADER, HEAD_BYTES, TAG_BYTES = DP_HEADER_SIZE, TAGGED_SIZE, DP_HEADER_SIZE - TAGGED_SIZE
STRIDE = 2048
"""Bytes from one buffer of the arena to the next."""
DATAGRAM_LIMIT = {socket.AF_INET: 1472, socket.AF_INET6: 1452}
"""UDP payload of a datagram (D10)."""
_NAME, _CONTROL = 32, 64
_HDR_BYTES, _HDR_U32, _LEN_AT = ctypes.sizeof(mmsghdr), ctypes.sizeof(mmsghdr) // 4, mmsghdr.msg_len.offset // 4


class Batch:
    """`count` buffers for one socket, which tells the family and whether it is bound to a wildcard.

    Buffer b is arena[b * STRIDE:][:STRIDE]: tag (16 bytes), header without tag (40), payload. A datagram
    that is longer than the family's limit shows one byte more than that.
    """

    def __init__(self, sock: socket.socket, count: int = 64) -> None:
        self._sock, self._count = sock, count
        self.limit = DATAGRAM_LIMIT[socket.AddressFamily(sock.family)]
        self.arena = bytearray(count * STRIDE)
        self._names, self._controls = bytearray(_NAME * count), bytearray(_CONTROL * count)
        room = self.limit + 1 - HEADER
        self._in_pieces, self._out_pieces = self._pieces(room), self._pieces(0)
        self._questions, self._answers = self._headers(self._in_pieces), self._headers(self._out_pieces)
        self._questions_at, self._answers_at = _address(self._questions), _address(self._answers)
        self._pristine = bytes(self._answers)
        self._lengths = memoryview(self._questions).cast("I")[_LEN_AT::_HDR_U32]
        self._answer_bytes = memoryview(self._answers)
        self._payload_lens = memoryview(self._out_pieces).cast("Q")[5::6]  # iov_len of each third piece
        self._sends = list(range(count))
        self._arranged: list[int] = []
        self._queued, self._are_alike = 0, True
        first = mmsghdr.from_buffer(self._answers)
        self._segments = Segments(sock.fileno(), first) if can_segment(sock) else None

    def _pieces(self, room: int) -> bytearray:
        """Return three iovecs a buffer, in the order of the wire: header, tag, `room` bytes of payload."""
        start = _address(self.arena)
        raw = bytearray(3 * self._count * ctypes.sizeof(iovec))
        pieces = (iovec * (3 * self._count)).from_buffer(raw)
        for b in range(self._count):
            at = start + b * STRIDE
            parts = ((at + TAG_BYTES, HEAD_BYTES), (at, TAG_BYTES), (at + HEADER, room))
            for i, part in enumerate(parts):
                pieces[3 * b + i] = iovec(*part)
        return raw

    def _headers(self, pieces: bytearray) -> bytearray:
        names, controls = _address(self._names), _address(self._controls)
        iovs, width = _address(pieces), ctypes.sizeof(iovec)
        name_bytes, control_bytes = _address_sizes(self._sock)
        raw = bytearray(self._count * _HDR_BYTES)
        headers = (mmsghdr * self._count).from_buffer(raw)
        for b in range(self._count):
            control = controls + _CONTROL * b if control_bytes else None
            headers[b].msg_hdr = msghdr(
                names + _NAME * b, name_bytes, iovs + 3 * width * b, 3, control, control_bytes, 0
            )
        return raw

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> int:
        """Take what is there, at most `count` datagrams; return how many, 0 if none."""
        n = recvmmsg_raw(self._sock.fileno(), self._questions_at, self._count, MSG_DONTWAIT, None)
        if n >= 0:
            return int(n)
        if ctypes.get_errno() in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
            return 0
        raise OSError(ctypes.get_errno(), f"recvmmsg: {os.strerror(ctypes.get_errno())}")

    def lengths(self, n: int) -> list[int]:
        """Return how long the datagrams in buffers 0 .. n-1 are, header and tag included."""
        return self._lengths[:n].tolist()

    def send(self, answers: list[int]) -> int:
        """Send the answers that stand in the first buffers; return how many the kernel would not take.

        `answers` has their payloads' lengths, -1 where there is none. An unreachable address is such a refusal.
        """
        if answers != self._arranged:
            self._arrange(answers)
        queued = self._queued
        done = self._send_as_one(queued) if queued > 1 and self._segments else 0
        return self._send_each(done, queued) if done < queued else 0

    @property
    def answers(self) -> list[int]:
        """Return what was sent last, as send() takes it; buffers are as they were then until the next receive()."""
        return self._arranged

    def _arrange(self, answers: list[int]) -> None:
        """Close up the headers of what is sent. Most batches are as the last one was and need nothing."""
        answered = [b for b, payload_len in enumerate(answers) if payload_len >= 0]
        for j, b in enumerate(answered):
            self._payload_lens[b] = answers[b]
            if self._sends[j] != b:
                self._sends[j] = b
                at, pristine = j * _HDR_BYTES, b * _HDR_BYTES
                self._answer_bytes[at : at + _HDR_BYTES] = self._pristine[pristine : pristine + _HDR_BYTES]
        self._arranged, self._queued = answers, len(answered)
        self._are_alike = answers == answers[:1] * len(answered)

    def _send_as_one(self, queued: int) -> int:
        """Send answers that are alike in one message; return how many were sent, 0 where they are not alike."""
        assert self._segments is not None
        if not self._are_alike:
            return 0
        for addresses, width in ((self._names, _NAME), (self._controls, _CONTROL)):
            if addresses[: width * queued] != addresses[:width] * queued:
                return 0
        return self._segments.send(queued, HEADER + self._arranged[0])

    def _send_each(self, done: int, queued: int) -> int:
        refused, fd = 0, self._sock.fileno()
        while done < queued:
            n = sendmmsg_raw(fd, self._answers_at + done * _HDR_BYTES, queued - done, 0)
            if n < 0:
                n, refused = 1, refused + 1
            done += n
        return refused


def _address(buffer: bytearray) -> int:
    """Return where a buffer lies; it stays there because nobody resizes it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _address_sizes(sock: socket.socket) -> tuple[int, int]:
    """Return (bytes of a sockaddr, bytes of control data), and ask for the control data.

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
