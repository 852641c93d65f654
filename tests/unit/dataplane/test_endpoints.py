"""ENDPOINT and how much fits: who reached what, over which family."""

import pytest

from fabricbios.dataplane.endpoints import Listener, address_of, places, sixteen
from fabricbios.model import Transport

UDP, QUIC = Transport.FBMU_UDP, Transport.FBMU_QUIC


def mtu(address: str) -> int:
    return 1400 if address.endswith("9") else 9000


def told(listener: Listener, reached: str) -> list[tuple[str, int, int]]:
    return [
        (str(address_of_bytes(p.endpoint.addr)), p.endpoint.port, p.message) for p in places([listener], reached, mtu)
    ]


def address_of_bytes(addr: bytes) -> object:
    return address_of(":".join(addr[i : i + 2].hex() for i in range(0, 16, 2)))


@pytest.mark.parametrize(
    ("bound", "reached", "expected"),
    [
        ("192.0.2.1", "", [("192.0.2.1", 5702, 1472)]),
        ("192.0.2.9", "192.0.2.1", [("192.0.2.9", 5702, 1372)]),
        ("0.0.0.0", "192.0.2.1", [("192.0.2.1", 5702, 1472)]),
        ("0.0.0.0", "::ffff:192.0.2.1", [("192.0.2.1", 5702, 1472)]),
        ("0.0.0.0", "2001:db8::1", []),
        ("0.0.0.0", "", []),
        ("::", "2001:db8::1", [("2001:db8::1", 5702, 1452)]),
        ("::", "fe80::9%eth0", [("fe80::9", 5702, 1352)]),
        ("::", "192.0.2.1", []),
    ],
)
def test_a_wildcard_is_told_as_what_was_reached(bound: str, reached: str, expected: list[tuple[str, int, int]]) -> None:
    assert told(Listener(UDP, bound, 5702), reached) == expected


def test_quic_messages_know_no_mtu() -> None:
    assert told(Listener(QUIC, "192.0.2.9", 5701), "") == [("192.0.2.9", 5701, 1 << 20)]


def test_ipv4_is_mapped_on_the_wire() -> None:
    assert sixteen(address_of("192.0.2.1")).hex() == "00000000000000000000ffffc0000201"


@pytest.mark.parametrize("host", ["", "example.org", "192.0.2", "2001:db8::g"])
def test_a_name_is_no_address(host: str) -> None:
    with pytest.raises(ValueError, match="address"):
        address_of(host)
