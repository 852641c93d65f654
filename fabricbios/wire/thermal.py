"""GET_THERMAL's result: readings as TLVs 0x0900 to 0x0905; a missing one is not supported there."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fabricbios.wire.description import Message
from fabricbios.wire.fields import i32, tlv_seq, u8, u32
from fabricbios.wire.tlv import Tlv, TlvTable, TlvValue

SOURCE = "wire encoding, GET_THERMAL"

COLDEST, HOTTEST = -40_000, 150_000  # milli-degrees C; anything beyond is malformed


class Throttled(IntFlag):
    """Bits of throttled_bits; the others are reserved, and refused when set (D1)."""

    THERMAL = 0x01


class SensorStatus(IntEnum):
    OK = 0
    UNAVAILABLE = 1
    STALE = 2


class AgeMs(Tlv, tag=0x0900, name="age_ms"):
    age_ms: int = u32("since the sensors were sampled")


class SocTempMilliC(Tlv, tag=0x0901, name="soc_temp_milli_c"):
    soc_temp_milli_c: int = i32("milli-degrees C", low=COLDEST, high=HOTTEST)


class SocStatus(Tlv, tag=0x0902, name="soc_status"):
    soc_status: int = u8(enum=SensorStatus)


class ThrottledBits(Tlv, tag=0x0903, name="throttled_bits"):
    throttled_bits: int = u8("why the SoC is slowed down", flags=Throttled)


class NvmeTempMilliC(Tlv, tag=0x0904, name="nvme_temp_milli_c"):
    nvme_temp_milli_c: int = i32("milli-degrees C", low=COLDEST, high=HOTTEST)


class NvmeStatus(Tlv, tag=0x0905, name="nvme_status"):
    nvme_status: int = u8(enum=SensorStatus)


THERMAL_TLVS = TlvTable("thermal", (AgeMs, SocTempMilliC, SocStatus, ThrottledBits, NvmeTempMilliC, NvmeStatus))


class GetThermalResult(Message):
    """GET_THERMAL 0x0006."""

    tlvs: tuple[TlvValue, ...] = tlv_seq(THERMAL_TLVS, default=())
