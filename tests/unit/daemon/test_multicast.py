"""What our multicast sockets are set to; nothing is sent here."""

import socket

import pytest

from fabricbios.daemon import multicast
from fabricbios.daemon.udp_port import bound, reaches, to_address, to_peer
from fabricbios.errors import ConfigError
from fabricbios.ports import UdpPeer


def test_what_is_sent_stays_on_the_link() -> None:
    index = socket.if_nametoindex("lo")
    with multicast.sending("lo", "239.57.0.1") as v4, multicast.sending("lo", "ff02::5701") as v6:
        assert v4.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        assert v6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS) == 1
        assert v6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF) == index


def test_no_socket_takes_what_another_joined() -> None:
    with bound("127.0.0.1", 0) as v4, bound("::", 0) as any_:
        for sock in (v4, any_):
            assert sock.getsockopt(socket.IPPROTO_IP, multicast.IP_MULTICAST_ALL) == 0
        assert any_.getsockopt(socket.IPPROTO_IPV6, multicast.IPV6_MULTICAST_ALL) == 0


def test_an_interface_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigError, match="nosuch0"):
        multicast.sending("nosuch0", "239.57.0.1")


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("192.0.2.1", 5), UdpPeer("192.0.2.1", 5)),
        (("::ffff:192.0.2.1", 5, 0, 0), UdpPeer("192.0.2.1", 5)),
        (("fe80::1", 5, 0, 3), UdpPeer("fe80::1%3", 5)),
        (("2001:db8::1", 5, 0, 0), UdpPeer("2001:db8::1", 5)),
    ],
)
def test_a_peer_is_the_same_whatever_socket_it_came_by(address: tuple[str, int], peer: UdpPeer) -> None:
    assert to_peer(address, "") == peer
    assert to_address(peer, socket.AF_INET if len(address) == 2 else socket.AF_INET6) == address


@pytest.mark.parametrize(
    ("family", "local", "host", "can"),
    [
        (socket.AF_INET, "0.0.0.0", "192.0.2.1", True),
        (socket.AF_INET, "0.0.0.0", "::1", False),
        (socket.AF_INET6, "::", "192.0.2.1", True),
        (socket.AF_INET6, "::1", "192.0.2.1", False),
        (socket.AF_INET6, "fe80::1%lo", "::1", True),
    ],
)
def test_who_reaches_whom(family: int, local: str, host: str, can: bool) -> None:
    assert reaches(family, local, UdpPeer(host, 1)) is can
