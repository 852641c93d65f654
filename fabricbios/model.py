"""The values everybody speaks of: enums with their spec names, ids, clocks.

Numbers are the wire's (wire-encoding-v0 and D1-D14); nothing here does I/O.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import NamedTuple

CONTROL_PORT, DISCOVERY_PORT, FBMU_PORT, FBBU_PORT = 5701, 5700, 5702, 5703
ALPN = "fabricbios/0"
MULTICAST_V4, MULTICAST_V6 = "239.57.0.1", "ff02::5701"
BLOCK_SIZE = 512  # D10: whatever the device has
NS = 1_000_000_000


class Instant(NamedTuple):
    """Both clocks, read together by the daemon and handed to whoever decides."""

    boot_ns: int  # CLOCK_BOOTTIME: the clock of leases (D8)
    unix_ms: int  # Unix time: the clock of tokens, certificates and nonces

    @property
    def unix(self) -> int:
        """Unix seconds, rounded down."""
        return self.unix_ms // 1000


class Status(IntEnum):
    """Control-plane status codes (wire encoding, "Control-plane status codes", and D6)."""

    OK = 0x0000
    INVALID_TOKEN = 0x0001
    INSUFFICIENT_PERM = 0x0002
    RESOURCE_NOT_FOUND = 0x0003
    RESOURCE_BUSY = 0x0004
    CAPACITY_EXCEEDED = 0x0005
    LEASE_EXPIRED = 0x0006
    RATE_LIMITED = 0x0007
    RESOURCE_FENCED = 0x0008
    STALE_EPOCH = 0x0009
    FENCE_REQUIRED = 0x000A
    INVALID_OP = 0x000B
    BAD_REQUEST = 0x000C
    INVALID_INTENT = 0x000D
    INVALID_ARGS = 0x000E
    INTERNAL_ERROR = 0x00FF


class Op(IntEnum):
    """Control ops (wire encoding, "Dev op codes and params", and D6)."""

    PING = 0x0001
    GET_INVENTORY = 0x0002
    GET_IDENTITY = 0x0003
    ENROLL_REQUEST = 0x0004
    GET_BUILD_INFO = 0x0005
    GET_THERMAL = 0x0006
    TIME_SYNC = 0x0007
    SCHEDULER_FENCE_SET = 0x0009
    SCHEDULER_FENCE_GET = 0x000A
    LEASE_EXPORT_HANDLE = 0x0020
    LEASE_IMPORT_HANDLE = 0x0021
    LEASE_RELOCATE = 0x0022
    CAP_REQUEST = 0x0100
    CAP_REFRESH = 0x0101
    CAP_REVOKE = 0x0102
    LEASE_ALLOC = 0x0200
    LEASE_FREE = 0x0201
    LEASE_RENEW = 0x0202
    LEASE_QUERY = 0x0203
    LEASE_LIST_ACTIVE = 0x0208
    LEASE_REVOKE = 0x020A
    FENCE_CLEAR = 0x020B
    LEASE_ATTACH = 0x020C
    SVC_TCP_BIND = 0x0400
    SVC_TCP_QUERY = 0x0403
    TASKLET_SUBMIT = 0x0500
    TASKLET_STATUS = 0x0501
    TASKLET_FETCH_RESULT = 0x0502
    TASKLET_CANCEL = 0x0503
    GPU_SUBMIT = 0x0600
    TASKLET_LEASE_ALLOC = 0x0800
    TASKLET_LEASE_FREE = 0x0801


class ResourceType(IntEnum):
    """D4. Capacity units: CPU cores, MEM and BLOCK bytes, NET bit/s, GPU bytes of VRAM."""

    CPU = 0x0001
    MEM = 0x0002
    BLOCK = 0x0003
    NET = 0x0004
    GPU = 0x0005
    SCHEDULER = 0x0010
    VENDOR = 0x00FF


class ResourceFlags(IntFlag):
    FENCED = 0x0001
    DEGRADED = 0x0002


class Health(IntFlag):
    DEGRADED = 0x0001
    DRAINING = 0x0002
    MAINTENANCE = 0x0004


class Perm(IntFlag):
    """Token permissions (D7)."""

    READ = 1
    WRITE = 2
    ALLOC = 4
    RENEW = 8
    REVOKE = 16
    DELEGATE = 32
    EXEC = 64
    ADMIN = 128


ALL_PERMS = Perm(255)


class Binding(IntEnum):
    """Binding ranges: TRANSPORTS (0x0807) and the BINDING wish (0x0108), D4."""

    UDP = 0x0100
    RDMA = 0x0200
    NVMEOF = 0x0300
    SRIOV = 0x0500
    OFI = 0x0600
    NETWORK = 0x0700
    QUIC = 0x0A00


class Transport(IntEnum):
    """ENDPOINT's transport (D9)."""

    FBMU_UDP = 1
    FBBU_UDP = 2
    FBMU_QUIC = 3
    FBBU_QUIC = 4
    FBMK_QUIC = 5


class DpAuth(IntEnum):
    """How a datagram's auth_tag is made (D10). `label` is the name in flags and config."""

    HMAC_HEADER = 0
    HMAC_FULL = 1
    BLAKE2S_FULL = 2
    SIPHASH_FULL = 3

    @property
    def label(self) -> str:
        return ("hmac-header", "hmac-full", "blake2s", "siphash")[self]

    @staticmethod
    def of(label: str) -> DpAuth:
        """Raise KeyError for an unknown label."""
        return {a.label: a for a in DpAuth}[label]


class DpStatus(IntEnum):
    """Status byte of FBMU and FBBU (wire encoding, FBMT/FBBT, and D10)."""

    OK = 0x00
    INVALID_LEASE = 0x01
    EXPIRED = 0x02
    FENCED = 0x03
    OUT_OF_RANGE = 0x04
    BAD_LENGTH = 0x05
    BUSY = 0x06
    INTERNAL = 0x07
    BAD_AUTH = 0x08
    STALE_WRITE = 0x09


class DpOp(IntEnum):
    """Ops of FBMU; FBBU's have the same numbers with _BLOCK in their names."""

    HELLO = 0x01
    HELLO_ACK = 0x02
    READ = 0x10
    READ_RESP = 0x11
    WRITE = 0x20
    WRITE_RESP = 0x21
    PING = 0x30
    PONG = 0x31
    ERROR = 0x7F


class LeaseState(IntEnum):
    """D8. The transition table is `core.lease.TRANSITIONS`."""

    PENDING = 0
    ACTIVE = 1
    GRACE = 2
    WARNED = 3
    TEARING_DOWN = 4
    FREE = 5
    FENCED = 6


class LeaseStatus(IntEnum):
    """LEASE_QUERY's answer."""

    ACTIVE = 0
    EXPIRED = 1
    REVOKED = 2


class LeaseEventKind(IntEnum):
    """D6."""

    REVOKE_WARNING = 1
    REVOKED = 2
    EXPIRED = 3
    FENCED = 4
    RENEWED = 5


class RevokeOutcome(IntEnum):
    """D6, LEASE_REVOKE's result."""

    TORN_DOWN = 0
    FENCED = 1
    NOT_FOUND = 2
    SCHEDULED = 3


class Resource(NamedTuple):
    """One leasable thing as the node offers it; what `hw` found and the admin named."""

    resource_id: int
    kind: ResourceType
    capacity: int  # in the kind's unit (D4)
    name: str  # stable hardware name: PCI address, WWID, MAC
    bindings: tuple[Binding, ...] = ()
    path: str = ""  # what a driver opens: a device, a file, an interface


@lru_cache(maxsize=1024)  # of each request's peer
def id_of_key(public_key: bytes) -> int:
    """Return the u128 id of a raw 32-byte Ed25519 public key (D3)."""
    return int.from_bytes(hashlib.sha256(public_key).digest()[:16], "big")


def resource_id_of(node_id: int, kind: ResourceType, name: str) -> int:
    """Return the u128 id of a piece of hardware: the same after a reboot (D4)."""
    seed = node_id.to_bytes(16, "big") + kind.name.encode() + name.encode()
    return int.from_bytes(hashlib.sha256(seed).digest()[:16], "big")


def hex128(value: int) -> str:
    """Return a u128 as people and JSON see it: 0x and 32 digits."""
    return f"0x{value:032x}"
