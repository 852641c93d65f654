"""What reached the FBMU sockets although XDP runs, answered by the same program (XdpPath.answer).

A thread and not a process: what comes here is the exception, and a system call does the work with Python's lock let go.
An answer leaves from the address that was asked: IP_PKTINFO as it is received is what sendmsg(2) wants to be told.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Sequence

from fabricbios.hw.syscalls import IP_PKTINFO

ROOM, ANCILLARY = 2048, 128
Answer = Callable[..., bytes | None]
"""answer(datagram, v6=...) -> the answer, or None for a drop."""


class XdpSocketServer:
    """Serves `sockets` (bound, UDP, the caller's) from start() to close(). `refused` counts answers not sent."""

    def __init__(self, answer: Answer, sockets: Sequence[socket.socket]) -> None:
        self._answer, self._sockets = answer, tuple(sockets)
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="fbmu-sockets", daemon=True)
        self.refused = 0

    def start(self) -> None:
        for sock in self._sockets:
            _ask_for_address(sock)
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread; the sockets stay open."""
        os.write(self._stop_write, b"x")
        self._thread.join()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _serve(self) -> None:
        by_fd = {sock.fileno(): sock for sock in self._sockets}
        poll = select.poll()
        for fd in (self._stop_read, *by_fd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._stop_read in ready:
                return
            for fd in ready:
                self._serve_one(by_fd[fd])

    def _serve_one(self, sock: socket.socket) -> None:
        """Answer one datagram. A socket error is a peer's doing (an ICMP error, an address without a route)."""
        try:
            datagram, ancillary, _, peer = sock.recvmsg(ROOM, ANCILLARY, socket.MSG_DONTWAIT)
            answer = self._answer(datagram, v6=sock.family == socket.AF_INET6)
            if answer is not None:
                sock.sendmsg([answer], ancillary, socket.MSG_DONTWAIT, peer)
        except OSError:
            self.refused += 1


def _ask_for_address(sock: socket.socket) -> None:
    """Have the asked address with each datagram, where the socket is bound to all of them."""
    if sock.getsockname()[0] == "::":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif sock.getsockname()[0] == "0.0.0.0":
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
