"""A bound UDP socket in an asyncio loop: reads in batches, and knows which address each datagram reached.

asyncio's own datagram transport allocates 256 KiB for every datagram it reads; here one buffer is used
again and again. Under a wildcard bind the address reached comes from IP_PKTINFO, and answers leave from
that very address: on a machine with several, a peer ignores an answer from another one.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Any

Address = tuple[Any, ...]  # as the socket module has it: (host, port) or (host, port, flow, scope)
BATCH = 64  # datagrams before other tasks of the loop get a turn
LONE = 8  # batches of one datagram, until most are taken to be such
_MAX_DATAGRAM = 65_536
_MAPPED = "::ffff:"
_IP_PKTINFO = 8  # linux/in.h; Python's socket has it only from 3.14 on
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2  # linux/in.h, linux/in6.h
_PKTINFO4 = struct.Struct("=i4s4s")  # struct in_pktinfo: ifindex, spec_dst, addr
_PKTINFO6 = struct.Struct("=16si")  # struct in6_pktinfo: addr, ifindex


def plain(address: Address) -> tuple[str, int]:
    """Return (host, port) as people write it: an IPv4-mapped address as IPv4, no flow or scope."""
    host = address[0]
    return (host[len(_MAPPED) :] if host.startswith(_MAPPED) else host), address[1]


def bind(host: str, port: int, receive_buffer: int) -> socket.socket:
    """Return a non-blocking UDP socket on a numeric address; "::" takes IPv4 too. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def connect(address: Address, receive_buffer: int) -> socket.socket:
    """Return a non-blocking UDP socket that talks to one numeric address alone, and hears of its ICMP errors.

    What it sends is never cut into fragments: EMSGSIZE says that a datagram is too long for the route as the kernel
    knows it. Raises OSError.
    """
    v6 = ":" in address[0]
    level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if v6 else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind)
    try:
        sock.setsockopt(level, option, _PMTUDISC_DO)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def reconnected(sock: socket.socket, address: Address, receive_buffer: int) -> socket.socket | None:
    """Return a new socket where the route to `address` leaves from another address of ours than `sock` does.

    A socket keeps the address it had when it was connected, though this machine may have lost it since.
    """
    try:
        made = connect(address, receive_buffer)
    except OSError:
        return None
    if made.getsockname()[0] != sock.getsockname()[0]:
        return made
    made.close()
    return None


def path_mtu(sock: socket.socket) -> int:
    """Return the MTU of a connected socket's route as the kernel knows it now, 0 if it knows none."""
    v6 = sock.family == socket.AF_INET6
    try:
        return sock.getsockopt(*((socket.IPPROTO_IPV6, _IPV6_MTU) if v6 else (socket.IPPROTO_IP, _IP_MTU)))
    except OSError:
        return 0


def route_mtu(address: Address) -> int:
    """Return the MTU of the route to an address, as `path_mtu`."""
    try:
        with connect(address, 0) as sock:
            return path_mtu(sock)
    except OSError:
        return 0


class Endpoint:
    """Calls `receive(data, address, local, self)` for each datagram and `batch_done()` after each batch.

    `local` is the address reached as a packed pktinfo for `send`, b"" where the socket is bound to one.
    `refused` hears of ICMP errors, which only a connected socket gets, and of a send that is too long for the route.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[bytes, Address, bytes, Endpoint], None],
        batch_done: Callable[[], None],
        refused: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self.sock = sock
        self.host, self.port = plain(sock.getsockname())
        self.dropped_sends = 0
        self.closed = False
        self._receive, self._batch_done, self._refused = receive, batch_done, refused
        self._buffer = bytearray(_MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._wildcard = ipaddress.ip_address(self.host.partition("%")[0]).is_unspecified
        self._v6 = sock.family == socket.AF_INET6
        if self._wildcard:
            self._ask_for_pktinfo()
        self._lone = 0  # batches of one datagram in a row
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def send(self, data: bytes, address: Address, local: bytes = b"") -> None:
        """Send or drop: QUIC repeats what a full socket buffer or an unreachable peer lost."""
        try:
            if local:
                self.sock.sendmsg((data,), self._from(local), 0, address)
            else:
                self.sock.sendto(data, address)
        except OSError as error:
            self.dropped_sends += 1
            if error.errno == errno.EMSGSIZE:
                self._refused(error)

    def reached(self, local: bytes) -> tuple[str, int]:
        """Return the address behind a `local` given to `receive`."""
        if not local:
            return self.host, self.port
        if self._v6:
            address = ipaddress.IPv6Address(_PKTINFO6.unpack(local)[0])
            return str(address.ipv4_mapped or address), self.port
        return str(ipaddress.IPv4Address(_PKTINFO4.unpack(local)[2])), self.port

    def close(self) -> None:
        """Stop reading and close the socket."""
        self.closed = True
        self._loop.remove_reader(self.sock)
        self.sock.close()

    def _ask_for_pktinfo(self) -> None:
        if self._v6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def _from(self, local: bytes) -> list[tuple[int, int, bytes]]:
        if self._v6:
            address, _ = _PKTINFO6.unpack(local)
            return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(address, 0))]
        _, _, address = _PKTINFO4.unpack(local)
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, address, bytes(4)))]

    def _readable(self) -> None:
        """Read a batch. Where they come one by one nothing is asked for behind the first, but every LONE-th time: what
        a batch leaves makes the socket readable in the loop's next turn."""
        read, room = 0, 1 if self._lone > LONE and self._lone % LONE else BATCH
        try:
            while read < room and not self.closed:
                self._read_one()
                read += 1
        except BlockingIOError:  # that was all
            pass
        finally:
            self._lone = self._lone + 1 if read == 1 else 0
            self._batch_done()

    def _read_one(self) -> None:
        try:
            if self._wildcard:
                size, control, _, address = self.sock.recvmsg_into((self._buffer,), 64)
                local = control[0][2] if control else b""
            else:
                size, address = self.sock.recvfrom_into(self._buffer)
                local = b""
        except BlockingIOError:
            raise
        except OSError as error:
            self._refused(error)
            return
        self._receive(bytes(self._view[:size]), address, local, self)
