"""PING, GET_IDENTITY, GET_INVENTORY, GET_BUILD_INFO, GET_THERMAL, TIME_SYNC (wire encoding, "Dev op codes", D6)."""

from __future__ import annotations

from typing import Any

from fabricbios.core.state import Ask, NodeState
from fabricbios.errors import Refused
from fabricbios.model import NS, Instant, Status
from fabricbios.wire import (
    AgeMs,
    BuildInfoItem,
    GetBuildInfoResult,
    GetIdentityResult,
    GetInventoryResult,
    GetThermalResult,
    PingResult,
    TimeSyncParams,
    TimeSyncResult,
)


def ping(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    return PingResult((now.boot_ns - state.setup.started.boot_ns) // NS).pack()


def identity(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    """Say who this is, and who certifies for it: the controller whose key it holds, else the only one it trusts."""
    controller = state.setup.controller_pubkey
    if not any(controller):
        controller = state.trust.only_controller() or controller
    return GetIdentityResult(state.setup.node_id, controller).pack()


def inventory(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    return GetInventoryResult(state.admission.summaries()).pack()


def build_info(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    return GetBuildInfoResult(tuple(BuildInfoItem(k, v) for k, v in state.setup.build_info)).pack()


def thermal(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    """Answer the last reading with its age now; AGE_MS is core's to say, all else the sensor's."""
    if state.thermal is None:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "this node has no thermal sensor")
    tlvs, at = state.thermal
    age_ms = min(max(0, now.boot_ns - at.boot_ns) // 1_000_000, 0xFFFF_FFFF)
    rest = tuple(t for t in tlvs if not isinstance(t, AgeMs))
    return GetThermalResult((AgeMs(age_ms), *rest)).pack()


def time_sync(state: NodeState, ask: Ask, params: TimeSyncParams, now: Instant) -> bytes:
    uptime_ms = (now.boot_ns - state.setup.started.boot_ns) // 1_000_000
    return TimeSyncResult(params.client_unix_ms, now.unix_ms, uptime_ms).pack()
