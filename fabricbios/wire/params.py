"""Params and results of the node's own control ops (wire encoding, "Dev op codes", D6): identity, facts, fences."""

from __future__ import annotations

from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import boolean, fixed, list_of, str16, u32, u64, u128
from fabricbios.wire.rules import Rules

SOURCE = 'wire encoding, "Dev op codes and params" and "Scheduler fencing ops"; D6'


class PingParams(Message):
    """PING 0x0001."""


class PingResult(Message):
    uptime_secs: int = u64()


class GetInventoryParams(Message):
    """GET_INVENTORY 0x0002; the result is in `inventory`."""


class GetIdentityParams(Message):
    """GET_IDENTITY 0x0003."""


class GetIdentityResult(Message):
    node_id: int = u128()
    controller_pubkey: bytes = fixed(32)


class EnrollRequestParams(Message):
    """ENROLL_REQUEST 0x0004; the result is a Certificate."""

    node_id: int = u128()
    public_key: bytes = fixed(32, "raw Ed25519 key")


class GetBuildInfoParams(Message):
    """GET_BUILD_INFO 0x0005."""


class BuildInfoItem(Struct):
    key: str = str16()
    value: str = str16()


class GetBuildInfoResult(Message):
    items: tuple[BuildInfoItem, ...] = list_of(BuildInfoItem)


class GetThermalParams(Message):
    """GET_THERMAL 0x0006; the result is in `thermal`."""


class TimeSyncParams(Message):
    """TIME_SYNC 0x0007."""

    client_unix_ms: int = u64()


class TimeSyncResult(Message):
    client_unix_ms: int = u64("as asked")
    node_unix_ms: int = u64()
    node_uptime_ms: int = u64()


class SchedulerFenceSetParams(Message):
    """SCHEDULER_FENCE_SET 0x0009."""

    new_epoch: int = u64("above the installed one")


class SchedulerFenceSetResult(Message):
    """Empty."""


class SchedulerFenceGetParams(Message):
    """SCHEDULER_FENCE_GET 0x000A."""


class SchedulerFenceGetResult(Message):
    installed: int = boolean("1 if a fence is installed")
    epoch: int = u64("0 when installed is 0", default=0)

    def complaint(self, rules: Rules) -> str:
        return "an epoch without a fence" if self.epoch and not self.installed else ""


class CapRequestParams(Message):
    """CAP_REQUEST 0x0100, 24, 32 or 48 bytes (D6); the result is a Token."""

    perms: int = u32("Perm bits wished for")
    ttl_secs: int = u32()
    audience: int = u128("who will use it; zero: any trusted peer", default=0)
    epoch: int | None = u64("scheduler epoch, 0 for none", default=None, tail=True)
    lease_id: int | None = u128("bind the token to this lease", default=None, tail=True)


class CapRefreshParams(Message):
    """CAP_REFRESH 0x0101; the result is a Token."""

    ttl_secs: int = u32()


class CapRevokeParams(Message):
    """CAP_REVOKE 0x0102; the result is a RevokeBroadcast."""

    token_id: int = u128()
    ttl_secs: int = u32()


class FenceClearParams(Message):
    """FENCE_CLEAR 0x020B."""

    resource_id: int = u128()


class FenceClearResult(Message):
    """Empty."""
