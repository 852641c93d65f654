"""FBMK: page operations over leased memory (FBMKV_PAGE_V0, D12), always on QUIC (D11)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fabricbios.wire.dataplane import Datagram
from fabricbios.wire.description import Struct
from fabricbios.wire.fields import When, boolean, counted, magic, nested, rest, u8, u32, u64, u128
from fabricbios.wire.rules import Rules

SOURCE = 'wire encoding, "Page Operations (FBMKV_PAGE_V0)"; D12'

PROFILE_FBMKV_PAGE_V0 = 0x0A01


class PageOp(IntEnum):
    READ = 0x10
    WRITE = 0x11
    COPY = 0x12
    ZERO = 0x13
    ADVISE = 0x14
    QUERY = 0x15


class PageTier(IntEnum):
    """Page tiers (D14)."""

    DRAM = 0
    HBM = 1
    PMEM = 2
    REMOTE = 3


class PageAdvice(IntFlag):
    WILL_NEED = 0x01
    DONT_NEED = 0x02
    SEQUENTIAL = 0x04
    RANDOM = 0x08
    EVICT_PRIORITY_LOW = 0x10
    EVICT_PRIORITY_HIGH = 0x20


class PageStatus(IntEnum):
    OK = 0x00
    LEASE_NOT_FOUND = 0x01
    LEASE_NOT_ACTIVE = 0x02
    LEASE_EXPIRED = 0x03
    LEASE_REVOKED = 0x04
    LEASE_FENCED = 0x05
    PAGE_OUT_OF_RANGE = 0x06
    INSUFFICIENT_CAPACITY = 0x07
    SRC_LEASE_NOT_FOUND = 0x08
    DST_LEASE_NOT_FOUND = 0x09
    CROSS_TENANT_COPY_DENIED = 0x0A


_OK = When("status", PageStatus.OK)


class PageRead(Struct):
    lease_id: int = u128("the header's")
    page_idx: int = u32()
    offset: int = u32("within the page")
    length: int = u32("bytes")


class PageReadResult(Struct):
    status: int = u8(enum=PageStatus, closed=True)
    data: bytes | None = rest("what was asked for, unless refused", default=None, when=_OK)


class PageWrite(Struct):
    lease_id: int = u128("the header's")
    page_idx: int = u32()
    offset: int = u32("within the page")
    length: int = u32("bytes")
    data: bytes = counted("length")


class PageCopy(Struct):
    src_lease_id: int = u128("the header's lease_id")
    src_page_idx: int = u32()
    dst_lease_id: int = u128()
    dst_page_idx: int = u32()

    @property
    def lease_id(self) -> int:
        """The lease that the header names."""
        return self.src_lease_id


class PageRef(Struct):
    """PAGE_ZERO and PAGE_QUERY."""

    lease_id: int = u128("the header's")
    page_idx: int = u32()


class PageAdvise(Struct):
    lease_id: int = u128("the header's")
    page_idx: int = u32()
    advice_flags: int = u32(flags=PageAdvice)


class PageState(Struct):
    """PAGE_QUERY's answer; a refusal is the status alone (D12)."""

    status: int = u8(enum=PageStatus, closed=True)
    page_idx: int | None = u32(default=None, when=_OK)
    resident_tier: int | None = u8(default=None, when=_OK, enum=PageTier, closed=True)
    dirty: int | None = boolean("1 if written since", default=None, when=_OK)
    access_count: int | None = u32(default=None, when=_OK)
    last_access_ms: int | None = u64(default=None, when=_OK)
    advice_flags: int | None = u32(default=None, when=_OK, flags=PageAdvice)


class PageStatusOnly(Struct):
    status: int = u8(enum=PageStatus, closed=True)


class PageDatagram(Datagram, abstract=True):
    """A page message: FBMK's header and a payload."""

    TRANSPORT = "quic"
    _magic = magic(b"FBMK")


class _Asking(PageDatagram, abstract=True):
    """A request, whose payload repeats the header's lease_id."""

    def complaint(self, rules: Rules) -> str:
        if self[-1].lease_id != self.lease_id:
            return "the payload's lease is not the header's"
        return ""


class PageReadRequest(_Asking):
    op: int = u8(default=PageOp.READ, only=(PageOp.READ,), kw_only=True)
    payload: PageRead = nested(PageRead, by="_payload_len")


class PageReadResponse(PageDatagram):
    op: int = u8(default=PageOp.READ, only=(PageOp.READ,), kw_only=True)
    payload: PageReadResult = nested(PageReadResult, by="_payload_len")


class PageWriteRequest(_Asking):
    op: int = u8(default=PageOp.WRITE, only=(PageOp.WRITE,), kw_only=True)
    payload: PageWrite = nested(PageWrite, by="_payload_len")


class PageWriteResponse(PageDatagram):
    op: int = u8(default=PageOp.WRITE, only=(PageOp.WRITE,), kw_only=True)
    payload: PageStatusOnly = nested(PageStatusOnly, by="_payload_len")


class PageCopyRequest(_Asking):
    op: int = u8(default=PageOp.COPY, only=(PageOp.COPY,), kw_only=True)
    payload: PageCopy = nested(PageCopy, by="_payload_len")


class PageCopyResponse(PageDatagram):
    op: int = u8(default=PageOp.COPY, only=(PageOp.COPY,), kw_only=True)
    payload: PageStatusOnly = nested(PageStatusOnly, by="_payload_len")


class PageZeroRequest(_Asking):
    op: int = u8(default=PageOp.ZERO, only=(PageOp.ZERO,), kw_only=True)
    payload: PageRef = nested(PageRef, by="_payload_len")


class PageZeroResponse(PageDatagram):
    op: int = u8(default=PageOp.ZERO, only=(PageOp.ZERO,), kw_only=True)
    payload: PageStatusOnly = nested(PageStatusOnly, by="_payload_len")


class PageAdviseRequest(_Asking):
    op: int = u8(default=PageOp.ADVISE, only=(PageOp.ADVISE,), kw_only=True)
    payload: PageAdvise = nested(PageAdvise, by="_payload_len")


class PageAdviseResponse(PageDatagram):
    op: int = u8(default=PageOp.ADVISE, only=(PageOp.ADVISE,), kw_only=True)
    payload: PageStatusOnly = nested(PageStatusOnly, by="_payload_len")


class PageQueryRequest(_Asking):
    op: int = u8(default=PageOp.QUERY, only=(PageOp.QUERY,), kw_only=True)
    payload: PageRef = nested(PageRef, by="_payload_len")


class PageQueryResponse(PageDatagram):
    op: int = u8(default=PageOp.QUERY, only=(PageOp.QUERY,), kw_only=True)
    payload: PageState = nested(PageState, by="_payload_len")
