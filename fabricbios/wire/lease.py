"""Params and results of the lease ops 0x02xx, 0x04xx and 0x08xx (wire encoding, D6, D8)."""

from __future__ import annotations

from enum import IntEnum

from fabricbios.model import LeaseStatus, ResourceType, RevokeOutcome
from fabricbios.wire.bindings import BINDING_TLVS
from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import list_of, tlv_seq, u8, u16, u32, u64, u128
from fabricbios.wire.intents import LEASE_INTENT_TLVS
from fabricbios.wire.tlv import TlvValue

SOURCE = 'wire encoding, "Dev op codes and params", "Lease list op", "Composite tasklet lease ops"; D6, D8'


class LeaseAllocParams(Message):
    """LEASE_ALLOC 0x0200: 8, 10 or 18 bytes, or 18 and intents."""

    duration_secs: int = u32()
    grace_secs: int = u32(default=0)
    resource_type: int | None = u16("MEM if absent", default=None, tail=True, enum=ResourceType)
    requested_bytes: int | None = u64("in the type's unit (D6); 1 MiB if absent", default=None, tail=True)
    intents: tuple[TlvValue, ...] = tlv_seq(LEASE_INTENT_TLVS, default=())


class LeaseAllocResult(Message):
    lease_id: int = u128()
    expires_at: int = u64("Unix seconds, rounded up")
    bindings: tuple[TlvValue, ...] = tlv_seq(BINDING_TLVS, default=())


class LeaseFreeParams(Message):
    """LEASE_FREE 0x0201."""

    lease_id: int = u128()


class LeaseFreeResult(Message):
    """Empty."""


class LeaseRenewParams(Message):
    """LEASE_RENEW 0x0202."""

    lease_id: int = u128()
    duration_secs: int = u32("from now; never shortens")


class LeaseRenewResult(Message):
    expires_at: int = u64("Unix seconds, rounded up")
    bindings: tuple[TlvValue, ...] = tlv_seq(BINDING_TLVS, "GENERATION", default=())


class LeaseQueryParams(Message):
    """LEASE_QUERY 0x0203."""

    lease_id: int = u128()


class LeaseQueryResult(Message):
    lease_status: int = u8(enum=LeaseStatus, closed=True)
    expires_at: int = u64("Unix seconds")


class LeaseListActiveParams(Message):
    """LEASE_LIST_ACTIVE 0x0208."""


class ActiveLease(Struct):
    """64 bytes; lease_id and holder are zero for who may not know them (D7)."""

    lease_id: int = u128()
    resource_id: int = u128()
    holder: int = u128()
    expires_at: int = u64("Unix seconds")
    alloc_bytes: int = u64()


class LeaseListActiveResult(Message):
    leases: tuple[ActiveLease, ...] = list_of(ActiveLease)


class LeaseRevokeParams(Message):
    """LEASE_REVOKE 0x020A."""

    lease_id: int = u128()
    grace_secs: int = u32("until the holder is cut off", default=0)


class LeaseRevokeResult(Message):
    outcome: int = u8(enum=RevokeOutcome, closed=True)


class LeaseAttachParams(Message):
    """LEASE_ATTACH 0x020C: the holder gets its bindings again."""

    lease_id: int = u128()


class LeaseAttachResult(Message):
    lease_id: int = u128()
    expires_at: int = u64("Unix seconds, rounded up")
    bindings: tuple[TlvValue, ...] = tlv_seq(BINDING_TLVS, "with a new DP_KEY", default=())


class SvcTcpBindParams(Message):
    """SVC_TCP_BIND 0x0400: a leased TCP listener on the node's loopback."""

    duration_secs: int = u32()
    backend_port: int = u16("where it proxies to")


class SvcTcpBindResult(Message):
    lease_id: int = u128()
    expires_at: int = u64("Unix seconds")
    ingress_port: int = u16("the leased listener")


class SvcTcpQueryParams(Message):
    """SVC_TCP_QUERY 0x0403."""

    lease_id: int = u128()


class SvcTcpQueryResult(Message):
    lease_status: int = u8(enum=LeaseStatus, closed=True)
    expires_at: int = u64("Unix seconds")
    ingress_port: int = u16("0 if unknown")


class TaskletAffinity(IntEnum):
    SAME_NODE = 0
    SAME_RACK = 1
    ANY = 2


class TaskletLeaseAllocParams(Message):
    """TASKLET_LEASE_ALLOC 0x0800: CPU and memory in one lease."""

    duration_secs: int = u32()
    grace_secs: int = u32()
    num_cores: int = u16()
    mem_bytes: int = u64()
    affinity: int = u8(default=TaskletAffinity.SAME_NODE, enum=TaskletAffinity, closed=True)
    max_threads: int = u8("advisory", default=1)


class TaskletLeaseAllocResult(Message):
    lease_id: int = u128()
    expires_at: int = u64("Unix seconds")
    mem_resource_id: int = u128()
    cpu_resource_id: int = u128()
    arena_size: int = u64("bytes granted")
    num_cores: int = u16("granted")


class TaskletLeaseFreeParams(Message):
    """TASKLET_LEASE_FREE 0x0801."""

    lease_id: int = u128()


class TaskletLeaseFreeResult(Message):
    """Empty."""
