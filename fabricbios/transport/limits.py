"""Every bound of the QUIC endpoint in one value (D1, D3), so that tests can make them small."""

from __future__ import annotations

from typing import NamedTuple

KIB, MIB = 1 << 10, 1 << 20


class Limits(NamedTuple):
    """Sizes in bytes, times in seconds. The defaults are D1's where D1 has a number.

    A window bounds what one connection can make us hold: bytes of requests not finished yet, holes
    included. It opens from `first_window` to `window` when the handler grants a request more than twice
    `first_request`, which is how it says that the peer is trusted. `window` has room for `streams`
    data messages at once, so that a peer that sends them side by side never blocks itself.
    """

    connections: int = 1024
    connections_a_peer: int = 128  # with one proven key
    half_open: int = 128  # handshakes under way; the oldest makes room
    streams: int = 64  # open at once, a connection
    pushes: int = 64  # events not yet acknowledged, a connection
    first_request: int = 4 * KIB + 116  # a request before the peer is trusted, and its frame's header and signature
    first_window: int = 64 * KIB
    window: int = 80 * MIB
    handshake_seconds: float = 5.0
    stream_seconds: float = 10.0
    idle_seconds: float = 60.0
    receive_buffer: int = 4 * MIB  # SO_RCVBUF asked for; the kernel may give less

    def says_trusted(self, granted: int) -> bool:
        """Whether a handler that grants a request so many bytes trusts the peer."""
        return granted > 2 * self.first_request


DEFAULTS = Limits()
