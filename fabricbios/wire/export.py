"""LEASE_EXPORT_HANDLE, LEASE_IMPORT_HANDLE and LEASE_RELOCATE 0x0020 to 0x0022 (D13)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import When, boolean, choice, text32, u8, u16, u32, u64, u128

SOURCE = 'wire encoding, "Lease Export/Import/Relocate"; D13'


class RuntimeKind(IntEnum):
    GPU_WORKER = 0
    TASKLET = 1
    NATIVE_SERVICE = 2
    ACCELERATOR = 3


class ExportRight(IntFlag):
    READ = 1
    WRITE = 2
    APPEND = 4


class BindingType(IntEnum):
    """Unknown ones are refused."""

    PCIE_BAR = 1
    RDMA_RKEY = 2
    LINUX_DMABUF = 3
    VRAM_OFFSET = 4
    FABRIC_PAGE = 5


class RelocateMode(IntEnum):
    """Unknown ones are refused."""

    COPY = 0
    MOVE = 1
    COW_SEED = 2


class RelocateStatus(IntEnum):
    COMPLETE = 0
    IN_PROGRESS = 1
    FAILED = 2


class PcieBar(Struct):
    bar_base: int = u64()
    bar_len: int = u64()


class RdmaKey(Struct):
    rkey: int = u32()
    remote_addr: int = u64()


class LinuxDmabuf(Struct):
    fd: int = u32()
    offset: int = u64()
    len: int = u64()


class VramOffset(Struct):
    vram_offset: int = u64()
    len: int = u64()


class FabricPage(Struct):
    page_id: int = u128()
    offset: int = u64()
    len: int = u64()


BindingDesc = PcieBar | RdmaKey | LinuxDmabuf | VramOffset | FabricPage
BINDING_DESCS: dict[int, type[Struct]] = {
    BindingType.PCIE_BAR: PcieBar,
    BindingType.RDMA_RKEY: RdmaKey,
    BindingType.LINUX_DMABUF: LinuxDmabuf,
    BindingType.VRAM_OFFSET: VramOffset,
    BindingType.FABRIC_PAGE: FabricPage,
}


class LeaseExportHandleParams(Message):
    """34 bytes (D13)."""

    lease_id: int = u64("low half of the lease_id")
    target_runtime_kind: int = u16(enum=RuntimeKind, closed=True)
    target_identity: int = u128("the only peer that may import it")
    rights: int = u32("ExportRight bits")
    ttl_secs: int = u32()


class LeaseExportHandleResult(Message):
    export_handle: int = u128()
    expires_at: int = u64("Unix seconds")
    binding_type: int = u8(enum=BindingType, closed=True)
    binding_desc: BindingDesc = choice("binding_type", BINDING_DESCS)


class LeaseImportHandleParams(Message):
    export_handle: int = u128()


class LeaseImportHandleResult(Message):
    local_attach_id: int = u64()
    rights: int = u32("ExportRight bits")
    expires_at: int = u64("Unix seconds")


class LeaseRelocateParams(Message):
    src_lease_id: int = u64()
    dst_lease_id: int = u64()
    mode: int = u8(enum=RelocateMode, closed=True)
    has_preserve: int = boolean(default=0)
    preserve_until_ms: int | None = u64("Unix ms", default=None, when=When("has_preserve", 1))


class LeaseRelocateResult(Message):
    bytes_transferred: int = u64()
    status: int = u8(enum=RelocateStatus, closed=True)
    reason: str | None = text32("why it failed", default=None, when=When("status", RelocateStatus.FAILED))
