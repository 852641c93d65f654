import errno
import ipaddress
import socket

import pytest

from fabricbios.daemon.reachable import reachable_address
from fabricbios.ports import UdpPeer


def test_there_is_always_an_address_and_it_can_be_told() -> None:
    for towards in ([], [UdpPeer("127.0.0.1", 1)], [UdpPeer("239.57.0.1%nosuch0", 1), UdpPeer("ff02::5701%lo", 1)]):
        address = ipaddress.ip_address(reachable_address(towards))
        assert not address.is_unspecified
        assert not address.is_link_local


def test_who_cannot_ask_the_kernel_just_now_does_not_call_itself_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        reachable_address([UdpPeer("192.0.2.1", 1)])
