"""Binding TLVs: how a holder reaches what it leased (D9, and 0x02xx to 0x07xx of the wire encoding)."""

from __future__ import annotations

from enum import IntEnum

from fabricbios.model import Binding, DpAuth, Transport
from fabricbios.wire.description import Message
from fabricbios.wire.fields import fixed, rest, text, tlv_seq, u8, u16, u32, u64
from fabricbios.wire.rules import Rules
from fabricbios.wire.tlv import Tlv, TlvTable, TlvValue

SOURCE = "D9; wire encoding, 0x02xx to 0x06xx"


class NvmeofTransport(IntEnum):
    TCP = 0
    RDMA = 1
    LOOP = 2


class OfiEpKind(IntEnum):
    MSG = 1
    DGRAM = 2
    RDM = 3


class OfiAccess(IntEnum):
    RMA = 1
    MSG = 2


class NetModeKind(IntEnum):
    MACVLAN_BRIDGE = 1
    MACVLAN_PRIVATE = 2
    SRIOV_VF = 3


class Endpoint(Tlv, tag=0x0101, name="ENDPOINT"):
    """Where a data plane listens; followed by its own LIMITS (and BLOCK_GEOMETRY)."""

    transport: int = u8("which protocol over what", enum=Transport)
    addr: bytes = fixed(16, "IPv6, or IPv4-mapped")
    port: int = u16()


class DpKey(Tlv, tag=0x0102, name="DP_KEY"):
    """The secret of this lease's datagrams."""

    dp_key: bytes = fixed(32, "random")


class Limits(Tlv, tag=0x0104, name="LIMITS"):
    """What was granted and what one operation may move."""

    len: int = u64("bytes granted")
    max_read: int = u32("bytes")
    max_write: int = u32("bytes")


class Generation(Tlv, tag=0x0105, name="GENERATION"):
    """Raised by every renewal."""

    generation: int = u32("from 1")


class BlockGeometry(Tlv, tag=0x0106, name="BLOCK_GEOMETRY"):
    """A leased extent in blocks."""

    block_size: int = u32("bytes")
    block_count: int = u64()
    max_blocks_per_io: int = u32()


class DpAuthTlv(Tlv, tag=0x0107, name="DP_AUTH"):
    """How auth_tag is made: granted in a result, wished for in LEASE_ALLOC's params."""

    dp_auth: int = u8("D10", enum=DpAuth)


class BindingTlv(Tlv, tag=0x0108, name="BINDING"):
    """Which binding range: granted, or wished for."""

    binding: int = u16("D4", enum=Binding)


class Reason(Tlv, tag=0x010F, name="REASON"):
    """Why a request was refused; for people, never a secret."""

    reason: str = text()


class RdmaRkey(Tlv, tag=0x0201, name="RDMA_RKEY"):
    rdma_rkey: int = u32("remote key")


class RdmaRemoteAddr(Tlv, tag=0x0202, name="RDMA_REMOTE_ADDR"):
    rdma_remote_addr: int = u64("virtual address of the registered region")


class RdmaQpNum(Tlv, tag=0x0203, name="RDMA_QP_NUM"):
    rdma_qp_num: int = u32("the server's queue pair")


class RdmaGid(Tlv, tag=0x0204, name="RDMA_GID"):
    rdma_gid: bytes = fixed(16, "of the RDMA port")


class RdmaPort(Tlv, tag=0x0205, name="RDMA_PORT"):
    rdma_port: int = u16("of the server's HCA")


class NvmeofNqn(Tlv, tag=0x0301, name="NVMEOF_NQN"):
    nvmeof_nqn: str = text("target subsystem")


class NvmeofTraddr(Tlv, tag=0x0302, name="NVMEOF_TRADDR"):
    nvmeof_traddr: str = text("IP address")


class NvmeofTrsvcid(Tlv, tag=0x0303, name="NVMEOF_TRSVCID"):
    nvmeof_trsvcid: int = u16("TCP port")


class NvmeofTrtype(Tlv, tag=0x0304, name="NVMEOF_TRTYPE"):
    nvmeof_trtype: int = u8("transport", enum=NvmeofTransport)


class NvmeofDhchapKey(Tlv, tag=0x0310, name="NVMEOF_DHCHAP_KEY"):
    """Of our own: the lease's DH-HMAC-CHAP secret, where the node's kernel has that."""

    nvmeof_dhchap_key: str = text("DHHC-1:... (NVMe base specification 2.0, 8.13.5.8)")


class NvmeofHostNqn(Tlv, tag=0x0311, name="NVMEOF_HOST_NQN"):
    """Of our own: the only host that the subsystem lets in."""

    nvmeof_host_nqn: str = text("as whom the holder connects")


class SriovVfPciAddr(Tlv, tag=0x0501, name="SRIOV_VF_PCI_ADDR"):
    sriov_vf_pci_addr: bytes = fixed(4, "domain u16, bus, devfn")


class SriovVfIndex(Tlv, tag=0x0502, name="SRIOV_VF_INDEX"):
    sriov_vf_index: int = u16("within the PF")


class SriovPfPciAddr(Tlv, tag=0x0503, name="SRIOV_PF_PCI_ADDR"):
    sriov_pf_pci_addr: bytes = fixed(4, "domain u16, bus, devfn")


class OfiProvider(Tlv, tag=0x0601, name="OFI_PROVIDER"):
    ofi_provider: str = text("as fi_info names it")


class OfiFabricName(Tlv, tag=0x0602, name="OFI_FABRIC_NAME"):
    ofi_fabric_name: str = text("from fi_fabric_attr")


class OfiEpType(Tlv, tag=0x0603, name="OFI_EP_TYPE"):
    ofi_ep_type: int = u8("endpoint type", enum=OfiEpKind)


class OfiAddr(Tlv, tag=0x0604, name="OFI_ADDR"):
    ofi_addr: bytes = rest("opaque, from fi_getname")


class OfiAccessModel(Tlv, tag=0x0605, name="OFI_ACCESS_MODEL"):
    ofi_access_model: int = u8("one-sided or two-sided", enum=OfiAccess)


class OfiCapabilityFlags(Tlv, tag=0x0606, name="OFI_CAPABILITY_FLAGS"):
    ofi_capability_flags: int = u64("fi_info's caps")


class OfiMaxMsgSize(Tlv, tag=0x0607, name="OFI_MAX_MSG_SIZE"):
    ofi_max_msg_size: int = u64("bytes")


class OfiProtocolVersion(Tlv, tag=0x0608, name="OFI_PROTOCOL_VERSION"):
    ofi_protocol_version: int = u8("of two-sided messages, 1")


class OfiLeaseId(Tlv, tag=0x0609, name="OFI_LEASE_ID"):
    ofi_lease_id: int = u64("low half of the lease_id (D13)")


class NetIfname(Tlv, tag=0x0701, name="NET_IFNAME"):
    net_ifname: str = text()


class NetMac(Tlv, tag=0x0702, name="NET_MAC"):
    net_mac: bytes = fixed(6)


class NetParent(Tlv, tag=0x0703, name="NET_PARENT"):
    net_parent: str = text("interface of the node that carries it")


class NetMode(Tlv, tag=0x0704, name="NET_MODE"):
    net_mode: int = u8("what was made", enum=NetModeKind)


class NetRate(Tlv, tag=0x0705, name="NET_RATE"):
    net_rate: int = u64("bit/s")


class NetNetns(Tlv, tag=0x0706, name="NET_NETNS"):
    net_netns: str = text("named namespace it was moved to")


BINDING_TLVS = TlvTable(
    "bindings",
    (
        Endpoint, DpKey, Limits, Generation, BlockGeometry, DpAuthTlv, BindingTlv, Reason,
        RdmaRkey, RdmaRemoteAddr, RdmaQpNum, RdmaGid, RdmaPort,
        NvmeofNqn, NvmeofTraddr, NvmeofTrsvcid, NvmeofTrtype, NvmeofDhchapKey, NvmeofHostNqn,
        SriovVfPciAddr, SriovVfIndex, SriovPfPciAddr,
        OfiProvider, OfiFabricName, OfiEpType, OfiAddr, OfiAccessModel, OfiCapabilityFlags, OfiMaxMsgSize,
        OfiProtocolVersion, OfiLeaseId,
        NetIfname, NetMac, NetParent, NetMode, NetRate, NetNetns,
    ),
)  # fmt: skip


class BindingTlvs(Message):
    """A sequence of binding TLVs alone."""

    tlvs: tuple[TlvValue, ...] = tlv_seq(BINDING_TLVS)


class ErrorResult(Message):
    """The result of a RESPONSE whose status is not OK (D6)."""

    tlvs: tuple[TlvValue, ...] = tlv_seq(BINDING_TLVS, "holds at least REASON")

    @property
    def reason(self) -> str:
        """The first REASON."""
        return next(t.reason for t in self.tlvs if isinstance(t, Reason))

    def complaint(self, rules: Rules) -> str:
        return "" if any(type(t) is Reason for t in self.tlvs) else "an error result without REASON"
