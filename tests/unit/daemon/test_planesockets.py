"""A plane's sockets: one port on every address, or none at all."""

from __future__ import annotations

import socket

import pytest

from fabricbios.daemon import planesockets
from fabricbios.daemon.planesockets import bound_sockets
from fabricbios.daemon.statedir import AlreadyRunning


def ports(sockets: list[socket.socket]) -> set[int]:
    found = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()
    return found


def holder(host: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, port))
    return sock


def test_all_addresses_share_the_port() -> None:
    sockets = bound_sockets(["127.0.0.1", "127.0.0.2"], 0, "fbmu-port")
    assert len(sockets) == 2
    assert len(ports(sockets)) == 1


@pytest.mark.parametrize("taken", ["127.0.0.2", "::"])
def test_a_port_that_is_taken_on_any_address_is_not_served_on_the_others(taken: str) -> None:
    """Not even where only IPv6 has it, which a machine may lack."""
    binds = ["127.0.0.1", "127.0.0.2"] if taken == "127.0.0.2" else ["::"]
    with holder(taken) as held:
        port = held.getsockname()[1]
        with pytest.raises(AlreadyRunning, match=f"fbmu-port {port}"):
            bound_sockets(binds, port, "fbmu-port")
        holder("127.0.0.1", port).close()  # nothing was left behind


def test_where_any_port_will_do_one_is_found_that_is_free_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    real, held = planesockets._bound, []

    def bound(host: str, port: int) -> socket.socket:
        """Somebody else is quicker with the first two ports that the kernel picks."""
        sock = real(host, port)
        if not port and len(held) < 2:
            held.append(holder("127.0.0.2", sock.getsockname()[1]))
        return sock

    monkeypatch.setattr(planesockets, "_bound", bound)
    assert len(ports(bound_sockets(["127.0.0.1", "127.0.0.2"], 0, "fbmu-port"))) == 1
    assert len(held) == 2
    for sock in held:
        sock.close()
