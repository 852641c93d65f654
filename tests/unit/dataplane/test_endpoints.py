"""ENDPOINT and how much fits: who reached what, over which family."""

import pytest

from fabricbios.dataplane.endpoints import Listener, Places, address_of, places, sixteen
from fabricbios.model import NS, Transport

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


class Machine:
    """Counts who asks for an MTU, and owns the clock."""

    def __init__(self) -> None:
        self.now, self.mtu, self.asked = 0, 1500, 0
        listeners = [Listener(UDP, "0.0.0.0", 5702), Listener(QUIC, "0.0.0.0", 5701)]
        self.places = Places(listeners, self.tell, lambda: self.now)

    def tell(self, address: str) -> int:
        self.asked += 1
        return self.mtu


def test_an_answer_is_repeated_for_a_while() -> None:
    machine = Machine()
    first = machine.places.of(UDP, "192.0.2.1")
    assert [(p.endpoint.transport, p.message) for p in first] == [(UDP, 1472)]
    machine.mtu, machine.now = 1300, 2 * NS - 1
    assert machine.places.of(UDP, "192.0.2.1") == first
    machine.now = 2 * NS
    assert [p.message for p in machine.places.of(UDP, "192.0.2.1")] == [1272]
    assert machine.asked == 2


def test_every_transport_and_address_has_its_own_answer() -> None:
    machine = Machine()
    assert [p.endpoint.port for p in machine.places.of(QUIC, "192.0.2.1")] == [5701]
    assert [p.endpoint.port for p in machine.places.of(UDP, "192.0.2.1")] == [5702]
    for last in range(200):  # and there is an end to what is kept
        assert machine.places.of(UDP, f"198.51.100.{last}")[0].endpoint.addr[-1] == last
    assert len(machine.places._kept) <= 64
    assert machine.places.of(None, "192.0.2.1") == []
