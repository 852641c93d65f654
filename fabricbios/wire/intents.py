"""Lease intents: wishes in LEASE_ALLOC's params (wire encoding 0x09xx, and D8's 0x0107, 0x0108).

0x0401 REQUESTED_BYTES is unknown here on purpose: the flat field counts (D1).
"""

from __future__ import annotations

from enum import IntEnum

from fabricbios.wire.bindings import BindingTlv, DpAuthTlv
from fabricbios.wire.description import Message
from fabricbios.wire.fields import When, boolean, bytes16, fixed, tlv_seq, u8, u16, u32, u128
from fabricbios.wire.rules import Rules
from fabricbios.wire.tlv import Tlv, TlvTable, TlvValue

SOURCE = 'wire encoding, "0x09xx - Lease Intent TLVs"; D8'


class TierPreference(IntEnum):
    """KV-cache tiers (D14)."""

    HBM = 1
    DDR = 2
    CXL = 3
    PMEM = 4


class SharingMode(IntEnum):
    EXCLUSIVE = 0
    READ_SHARED = 1
    COPY_ON_WRITE = 2


class CpuIsolation(IntEnum):
    BEST_EFFORT = 0
    WHOLE_CORE = 1
    STRICT_ISOLATED = 2


class GpuExclusivity(IntEnum):
    """PARTITION_EXCLUSIVE is reserved: it decodes and is then INVALID_ARGS (D1)."""

    SHARED = 0
    SESSION_EXCLUSIVE = 1
    DEVICE_EXCLUSIVE = 2
    PARTITION_EXCLUSIVE = 3


class AffinityCategory(IntEnum):
    """FACILITY is reserved: it decodes and is then INVALID_ARGS (D1)."""

    RESOURCE = 1
    STATE = 2
    TOPOLOGY = 3
    TRUST = 4
    FACILITY = 5


class AffinityStrength(IntEnum):
    """Bits 0-6 of strength; ADAPTIVE is reserved."""

    REQUIRED = 1
    PREFERRED = 2
    ADAPTIVE = 3


class AffinityTarget(IntEnum):
    NODE_ID = 1
    RESOURCE_ID = 2
    LEASE_ID = 3
    SERVICE_ID = 4
    TRUST_DOMAIN = 5
    RACK_ID = 6


ANTI_AFFINITY = 0x80  # bit 7 of strength
_STRENGTHS = tuple(s | anti for anti in (0, ANTI_AFFINITY) for s in AffinityStrength)
_TARGET_SIZES = {
    AffinityTarget.NODE_ID: 16, AffinityTarget.RESOURCE_ID: 16, AffinityTarget.LEASE_ID: 16,
    AffinityTarget.SERVICE_ID: 16, AffinityTarget.RACK_ID: 4,
}  # fmt: skip


class LeaseIntentKvCache(Tlv, tag=0x0901, name="TLV_LEASE_INTENT_KV_CACHE"):
    """The lease will be a KV cache for inference; a hint for placement, 41 or 57 bytes."""

    model_fingerprint: bytes = fixed(32, "SHA-256 of the model")
    preferred_tier: int = u16("tier", enum=TierPreference)
    page_bytes: int = u32("page size of the runtime")
    sharing_mode: int = u16("who else reads", enum=SharingMode)
    has_gpu: int = boolean("1 if a GPU follows", default=0)
    gpu_resource_id: int | None = u128("GPU to be near", default=None, when=When("has_gpu", 1))


class LeaseCpuIsolation(Tlv, tag=0x0902, name="TLV_LEASE_CPU_ISOLATION"):
    """CPU isolation class; others are InvalidIntent."""

    class_: int = u8("class", enum=CpuIsolation, closed=True)


class LeaseGpuExclusivity(Tlv, tag=0x0903, name="TLV_LEASE_GPU_EXCLUSIVITY"):
    """GPU exclusivity class; others are InvalidIntent."""

    class_: int = u8("class", enum=GpuExclusivity, closed=True)


class LeaseAffinity(Tlv, tag=0x0910, name="TLV_LEASE_AFFINITY"):
    """One affinity constraint; may repeat."""

    category: int = u8("kind of affinity", enum=AffinityCategory, closed=True)
    strength: int = u8("AffinityStrength, with bit 7 for anti-affinity", only=_STRENGTHS)
    target_type: int = u8("what target is", enum=AffinityTarget, closed=True)
    target: bytes = bytes16("an id, or UTF-8 for a trust domain")

    def complaint(self, rules: Rules) -> str:
        if self.target_type != AffinityTarget.TRUST_DOMAIN:
            size = _TARGET_SIZES[AffinityTarget(self.target_type)]
            return "" if len(self.target) == size else f"the affinity target is not {size} bytes"
        try:
            str(self.target, "utf-8")
        except UnicodeDecodeError:
            return "the trust domain is not UTF-8"
        return ""


LEASE_INTENT_TLVS = TlvTable(
    "lease intents",
    (DpAuthTlv, BindingTlv, LeaseIntentKvCache, LeaseCpuIsolation, LeaseGpuExclusivity, LeaseAffinity),
)


class LeaseIntentTlvs(Message):
    """A sequence of lease intents alone."""

    tlvs: tuple[TlvValue, ...] = tlv_seq(LEASE_INTENT_TLVS)
