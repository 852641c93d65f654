"""The UDP sockets of the data planes: one an address and family, all of a plane on one port."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from fabricbios.daemon.statedir import AlreadyRunning
from fabricbios.dataplane.endpoints import Listener
from fabricbios.model import Transport

SOCKET_BUFFER = 4 << 20


def wildcard_pairs(binds: Sequence[str]) -> list[str]:
    """Return the addresses to bind UDP planes to: `::` stands for both families, a socket each."""
    out: list[str] = []
    for bind in binds:
        out += ["0.0.0.0", "::"] if bind == "::" else [bind]
    return list(dict.fromkeys(out))


def bound_sockets(binds: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    """Bind one UDP socket an address, all on the same port; AlreadyRunning if it is taken."""
    sockets: list[socket.socket] = []
    for host in wildcard_pairs(binds):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            sock.bind((host, port))
        except OSError as e:
            if host == "::" and sockets:
                continue  # a machine without IPv6
            for other in sockets:
                other.close()
            raise AlreadyRunning(f"{flag} {port} on {host}: {e.strerror}") from None
        port = sock.getsockname()[1]
        sockets.append(sock)
    return sockets


def listeners(
    udp: Transport, sockets: Sequence[socket.socket], quic: Transport, controls: Sequence[tuple[str, int]]
) -> list[Listener]:
    """Return where a plane is reached: by datagrams on its sockets, by streams where the control plane is."""
    found = [Listener(udp, *sock.getsockname()[:2]) for sock in sockets]
    return found + [Listener(quic, host, port) for bind, port in controls for host in wildcard_pairs([bind])]
