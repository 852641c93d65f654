"""The small parts: pace, order of writes, where a lease is reached."""

import asyncio
import ipaddress

import pytest
from quic_rig import run

from fabricbios.client.pace import SHORTEST_WAIT, SMALLEST_WINDOW, Pace
from fabricbios.client.reach import read_bindings
from fabricbios.client.write_order import WriteOrder
from fabricbios.errors import Unsupported
from fabricbios.model import Binding, DpAuth, ResourceType, Transport
from fabricbios.wire import BlockGeometry, DpAuthTlv, DpKey, Endpoint, Generation, Limits


def test_the_window_halves_once_a_round_trip_and_grows_back() -> None:
    pace = Pace(64)
    for _ in range(20):
        pace.answered(0.001)
    assert pace.wait == SHORTEST_WAIT
    pace.lost(10.0)
    pace.lost(10.001)
    assert pace.window == 32
    for n in range(20):
        pace.lost(20.0 + n * 10)
    assert pace.window == SMALLEST_WINDOW
    for _ in range(64 * 64):
        pace.answered(0.001)
    assert pace.window == 64


def test_waiting_follows_the_round_trip() -> None:
    pace = Pace(64)
    for _ in range(50):
        pace.answered(0.5)
    assert 0.5 <= pace.wait < 0.7


def test_overlapping_writes_wait_and_others_do_not() -> None:
    async def body() -> None:
        order, log = WriteOrder(), []

        async def write(name: str, start: int, stop: int) -> None:
            async with order.claim(start, stop):
                log.append(f"+{name}")
                await asyncio.sleep(0.01)
                log.append(f"-{name}")

        await asyncio.gather(write("a", 0, 10), write("b", 9, 20), write("c", 10, 12), write("d", 30, 40))
        assert log.index("+b") > log.index("-a")
        assert log.index("+c") > log.index("-b")
        assert log.index("+d") < log.index("-a")

    run(body)


def test_a_write_that_fails_lets_the_next_one_in() -> None:
    async def body() -> None:
        order = WriteOrder()
        with pytest.raises(KeyError):
            async with order.claim(0, 10):
                raise KeyError
        async with asyncio.timeout(1), order.claim(5, 6):
            pass

    run(body)


def packed(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


def test_each_endpoint_has_its_own_limits() -> None:
    tlvs = [
        Endpoint(Transport.FBMU_UDP, packed("::ffff:192.0.2.7"), 5702), Limits(1 << 20, 1408, 1404),
        Endpoint(Transport.FBMU_QUIC, packed("::"), 5701), Limits(1 << 20, 1 << 20, 1 << 20),
        DpKey(bytes(32)), DpAuthTlv(DpAuth.SIPHASH_FULL), Generation(3),
    ]  # fmt: skip
    found = read_bindings(tlvs, "node")
    assert (found.dp_auth, found.generation, found.dp_key) == (DpAuth.SIPHASH_FULL, 3, bytes(32))
    udp, quic = (found.pick(ResourceType.MEM, b) for b in (Binding.UDP, Binding.QUIC))
    assert (udp.host, udp.port, udp.length, udp.max_read, udp.max_write) == ("192.0.2.7", 5702, 1 << 20, 1408, 1404)
    assert (quic.host, quic.max_read) == ("node", 1 << 20)
    with pytest.raises(Unsupported, match="BLOCK over UDP"):
        found.pick(ResourceType.BLOCK, Binding.UDP)


def test_a_blocks_geometry_is_counted_in_bytes() -> None:
    tlvs = [
        Endpoint(Transport.FBBU_UDP, packed("2001:db8::5"), 5703),
        Limits(4096, 1024, 1024),
        BlockGeometry(512, 8, 2),
    ]
    reach = read_bindings(tlvs, "node").pick(ResourceType.BLOCK, Binding.UDP)
    assert (reach.host, reach.length, reach.max_read, reach.max_write) == ("2001:db8::5", 4096, 1024, 1024)


def test_an_endpoint_without_limits_is_not_used() -> None:
    with pytest.raises(Unsupported):
        read_bindings([Endpoint(Transport.FBMU_UDP, packed("::1"), 1)], "h").pick(ResourceType.MEM, Binding.UDP)
