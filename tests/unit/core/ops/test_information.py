"""PING, GET_IDENTITY, GET_INVENTORY, GET_BUILD_INFO, GET_THERMAL, TIME_SYNC."""

from fabricbios.model import Op, ResourceFlags, ResourceType, Status
from fabricbios.testing import NODE_ID, FakeNode
from fabricbios.wire import (
    AgeMs,
    GetBuildInfoResult,
    GetIdentityResult,
    GetInventoryResult,
    GetThermalResult,
    PingResult,
    SocTempMilliC,
    TimeSyncParams,
    TimeSyncResult,
)


def test_ping_tells_seconds_since_the_start() -> None:
    node = FakeNode()
    node.clock.advance(61.9)
    assert PingResult.unpack(node.ask(0, Op.PING).result).uptime_secs == 61


def test_identity_names_node_and_controller() -> None:
    node = FakeNode(controller_pubkey=b"c" * 32)
    assert GetIdentityResult.unpack(node.ask(0, Op.GET_IDENTITY).result) == GetIdentityResult(NODE_ID, b"c" * 32)
    node.trust.controller = b"t" * 32  # its own key comes first
    assert GetIdentityResult.unpack(node.ask(0, Op.GET_IDENTITY).result).controller_pubkey == b"c" * 32


def test_identity_names_the_controller_that_is_trusted() -> None:
    node = FakeNode()
    assert GetIdentityResult.unpack(node.ask(0, Op.GET_IDENTITY).result).controller_pubkey == bytes(32)
    node.trust.controller = b"t" * 32
    assert GetIdentityResult.unpack(node.ask(0, Op.GET_IDENTITY).result).controller_pubkey == b"t" * 32


def test_inventory_counts_what_is_free() -> None:
    node = FakeNode()
    node.alloc(1, size=10_000)
    (ram,) = GetInventoryResult.unpack(node.ask(1, Op.GET_INVENTORY).result).resources
    assert (ram.resource_type, ram.capacity, ram.available) == (ResourceType.MEM, 1 << 30, (1 << 30) - 12_288)
    assert (ram,) == node.node.summaries()
    assert ram.flags == ResourceFlags(0)


def test_build_info_is_what_the_daemon_said() -> None:
    node = FakeNode(build_info=(("version", "1.2"), ("kernel", "6.18")))
    items = GetBuildInfoResult.unpack(node.ask(1, Op.GET_BUILD_INFO).result).items
    assert [(i.key, i.value) for i in items] == [("version", "1.2"), ("kernel", "6.18")]


def test_thermal_has_the_age_of_the_reading_now() -> None:
    node = FakeNode()
    assert node.ask(1, Op.GET_THERMAL).status is Status.RESOURCE_NOT_FOUND
    node.node.set_thermal((SocTempMilliC(51_000),), node.clock.now)
    node.clock.advance(1.5)
    tlvs = GetThermalResult.unpack(node.ask(1, Op.GET_THERMAL).result).tlvs
    assert tlvs == (AgeMs(1500), SocTempMilliC(51_000))


def test_time_sync_repeats_the_clients_time() -> None:
    node = FakeNode()
    node.clock.advance(2)
    got = TimeSyncResult.unpack(node.ask(1, Op.TIME_SYNC, TimeSyncParams(42)).result)
    assert got == TimeSyncResult(42, node.clock.now.unix_ms, 2000)
