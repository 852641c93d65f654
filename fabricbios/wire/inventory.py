"""What a node has: ResourceSummary (D4) and the inventory TLVs 0x08xx of an ANNOUNCE's extensions."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fabricbios.model import Binding, ResourceFlags, ResourceType
from fabricbios.wire.certificate import Certificate
from fabricbios.wire.description import Message
from fabricbios.wire.fields import U8, U16, U128, fixed, list8_of, list_of, str16, tlv_seq, u8, u16, u32, u64, u128
from fabricbios.wire.tlv import Tlv, TlvTable, TlvValue

SOURCE = 'D4; wire encoding, "0x08xx - Inventory Tier TLVs"'


class MemTier(IntEnum):
    """Inventory tiers (D14)."""

    DRAM = 0
    HBM = 1
    CXL_EXPANDER = 2
    PMEM = 3
    VRAM_VISIBLE_HOST = 4
    BLOCK = 5


class ShareMode(IntEnum):
    EXCLUSIVE = 0
    SHARED_RO = 1
    SHARED_RW = 2


class MemTierFlags(IntFlag):
    ECC = 1
    HOTPLUG = 2
    INTERLEAVED = 4


class ResourceSummary(Message):
    """One leasable resource (D4), 36 bytes."""

    resource_id: int = u128("the same after a reboot")
    resource_type: int = u16("unknown types decode, and cannot be leased", enum=ResourceType)
    flags: int = u16("FENCED, DEGRADED", flags=ResourceFlags)
    capacity: int = u64("in the type's unit (D4)")
    available: int = u64("what can be leased now")


class MemTierInfo(Tlv, tag=0x0801, name="TLV_MEM_TIER_INFO"):
    """One memory tier of the node."""

    tier_kind: int = u16("unknown kinds are refused", enum=MemTier, closed=True)
    capacity_bytes: int = u64("total")
    latency_class_ns: int = u32("approximate local latency")
    bandwidth_hint_bps: int = u64("approximate, bit/s")
    page_granule_bytes: int = u32("smallest allocation")
    share_mode: int = u16("how it may be shared", enum=ShareMode)
    attach_domains: tuple[int, ...] = list_of(U128, "NUMA, CXL or PCIe domains")
    flags: int = u32("ECC, hotplug, interleaved", flags=MemTierFlags)


class GpuAttachInfo(Tlv, tag=0x0802, name="TLV_GPU_ATTACH_INFO"):
    """How a GPU attaches to the memory fabric."""

    gpu_resource_id: int = u128("the GPU")
    peer_group_id: int = u128("peers for P2P transfers")
    vram_bytes: int = u64("VRAM")
    supports_host_map: int = u8("1: the host CPU can map the VRAM")
    supports_remote_map: int = u8("1: the fabric can reach the VRAM")
    preferred_mem_tiers: tuple[int, ...] = list_of(U16, "MemTier values, best first")


class NodeAffinityMeta(Tlv, tag=0x0804, name="TLV_NODE_AFFINITY_META"):
    """Topology and trust domain of the node."""

    rack_id: int = u32()
    row_id: int = u32()
    site_id: int = u32()
    geo_hash: int = u64()
    trust_domain: str = str16('"" if not advertised')


class SupportedIsolation(Tlv, tag=0x0805, name="TLV_SUPPORTED_ISOLATION"):
    """Isolation classes that the node honours."""

    cpu_classes: tuple[int, ...] = list8_of(U8, "CpuIsolation values")
    gpu_classes: tuple[int, ...] = list8_of(U8, "GpuExclusivity values")


class NodeCertificate(Certificate, Tlv, tag=0x0806, name="NODE_CERTIFICATE", abstract=True):
    """The node's Certificate, with the Certificate's fields (D4)."""


class Transports(Tlv, tag=0x0807, name="TRANSPORTS"):
    """Binding ranges that the node serves (D4)."""

    transports: tuple[int, ...] = list_of(U16, f"of {', '.join(f'0x{int(b):04x}' for b in Binding)}")


class RelaySeen(Tlv, tag=0x0808, name="RELAY_SEEN"):
    """Added by a relay: when it heard the ANNOUNCE."""

    relay_seen: int = u64("Unix seconds")


class AnnounceProof(Tlv, tag=0x0809, name="ANNOUNCE_PROOF"):
    """Added by a relay: what it takes to verify the node's own signature (D4)."""

    header: bytes = fixed(44, "the ANNOUNCE's frame header as it came")
    signature: bytes = fixed(64, "its signature")


INVENTORY_TLVS = TlvTable(
    "inventory",
    (
        MemTierInfo,
        GpuAttachInfo,
        NodeAffinityMeta,
        SupportedIsolation,
        NodeCertificate,
        Transports,
        RelaySeen,
        AnnounceProof,
    ),
)


class InventoryTlvs(Message):
    """A sequence of inventory TLVs alone."""

    tlvs: tuple[TlvValue, ...] = tlv_seq(INVENTORY_TLVS)


class GetInventoryResult(Message):
    """GET_INVENTORY 0x0002."""

    resources: tuple[ResourceSummary, ...] = list_of(ResourceSummary)
