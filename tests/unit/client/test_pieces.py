"""The small parts: pace, order of writes, where a lease is reached."""

import asyncio
import ipaddress

import pytest
from quic_rig import run

from fabricbios.client.datagram_size import FIRST_PAUSE, LONGEST_PAUSE, SMALLEST, DatagramSize
from fabricbios.client.pace import (
    FAR_WINDOW,
    SHORTEST_OVERTAKEN,
    SHORTEST_WAIT,
    SMALLEST_REORDERED,
    SMALLEST_WINDOW,
    SMALLEST_WITHOUT_QUEUE,
    Pace,
)
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
    assert pace.window == SMALLEST_WITHOUT_QUEUE
    for _ in range(64 * 64):
        pace.answered(0.001)
    assert pace.window == 64


def test_where_a_queue_builds_up_the_window_becomes_smaller_still() -> None:
    pace = Pace(64)
    pace.answered(0.001)
    for n in range(100):
        pace.answered(0.3)
        pace.lost(10.0 + n * 10)
    assert pace.window == SMALLEST_WINDOW


def test_what_was_only_slow_gives_the_window_back() -> None:
    pace = Pace(64)
    pace.answered(0.001)
    pace.lost(10.0)
    pace.late()
    assert pace.window == 64
    pace.lost(20.0)
    pace.answered(0.001)
    pace.reordered(30.0)
    pace.late()
    assert pace.window == SMALLEST_REORDERED


def test_a_far_node_is_asked_more_at_once() -> None:
    near, far = Pace(64), Pace(64)
    for _ in range(400):
        near.answered(0.001)
        far.answered(0.1)
    assert (near.window, far.window) == (64, FAR_WINDOW)


def test_what_was_overtaken_is_missed_sooner_and_does_not_make_us_wait_longer() -> None:
    pace = Pace(64)
    for _ in range(50):
        pace.answered(0.0001)
    assert (pace.overtaken, pace.wait) == (SHORTEST_OVERTAKEN, SHORTEST_WAIT)
    pace.lost(10.0, overtaken=True)
    assert pace.wait == SHORTEST_WAIT
    pace.lost(20.0)
    assert pace.wait == 2 * SHORTEST_WAIT


def test_long_datagrams_that_vanish_make_short_ones_and_are_tried_again_ever_more_rarely() -> None:
    size = DatagramSize(1472)
    for _ in range(3):
        assert size.take(0.0) == 1472
        size.lost(1472, 0.0)
    assert size.take(0.1) == 1200
    pause, now = FIRST_PAUSE, 0.0
    while pause <= LONGEST_PAUSE:
        now += pause
        assert (size.take(now - 0.01), size.take(now), size.take(now)) == (1200, 1472, 1200)
        size.lost(1472, now)
        size.passed(1200)
        pause *= 2
    size.passed(1472)
    assert size.take(now) == 1472


def test_long_datagrams_of_which_some_arrive_stay_long() -> None:
    size = DatagramSize(1472)
    for _ in range(10):
        size.lost(1472, 0.0)
        size.lost(1472, 0.0)
        size.passed(1472)
        size.lost(900, 0.0)
    assert size.take(0.0) == 1472


def test_what_a_router_says_fits_holds_within_reason() -> None:
    size = DatagramSize(1472)
    size.told(1392)
    size.told(1472)
    assert size.take(0.0) == 1392
    size.told(40)
    assert size.take(0.0) == SMALLEST


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
