"""The UDP sockets of the data planes: one an address and family, all of a plane on one port."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence

from fabricbios.daemon.statedir import AlreadyRunning
from fabricbios.dataplane.endpoints import Listener
from fabricbios.model import Transport

SOCKET_BUFFER = 4 << 20
PICKS = 8  # ports to try where any will do
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}  # a machine without it


def wildcard_pairs(binds: Sequence[str]) -> list[str]:
    """Return the addresses to bind UDP planes to: `::` stands for both families, a socket each."""
    out: list[str] = []
    for bind in binds:
        out += ["0.0.0.0", "::"] if bind == "::" else [bind]
    return list(dict.fromkeys(out))


def bound_sockets(binds: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    """Bind one UDP socket an address, all on the same port, 0 for one free on all. AlreadyRunning if it is taken.

    What the kernel picks for the first address may be taken on the next.
    """
    for _ in range(0 if port else PICKS):
        with contextlib.suppress(AlreadyRunning):
            return _all_bound(binds, port, flag)
    return _all_bound(binds, port, flag)


def _all_bound(binds: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for host in wildcard_pairs(binds):
            try:
                sock = _bound(host, port)
            except OSError as e:
                if host == "::" and sockets and e.errno in _NO_IPV6:
                    continue
                raise AlreadyRunning(f"{flag} {port} on {host}: {e.strerror}") from None
            undo.callback(sock.close)
            sockets.append(sock)
            port = sock.getsockname()[1]
        undo.pop_all()
    return sockets


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def listeners(
    udp: Transport, sockets: Sequence[socket.socket], quic: Transport, controls: Sequence[tuple[str, int]]
) -> list[Listener]:
    """Return where a plane is reached: by datagrams on its sockets, by streams where the control plane is."""
    found = [Listener(udp, *sock.getsockname()[:2]) for sock in sockets]
    return found + [Listener(quic, host, port) for bind, port in controls for host in wildcard_pairs([bind])]
