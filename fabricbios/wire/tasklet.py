"""TASKLET_SUBMIT, _STATUS, _FETCH_RESULT and _CANCEL: WASM run beside leased memory (0x05xx)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import bytes_, fixed, list_of, nested, u8, u16, u32, u64, u128

SOURCE = 'wire encoding, "Tasklet execution ops"'


class TaskletStatus(IntEnum):
    OK = 0
    INVALID = 1
    UNAUTHORIZED = 2
    FUEL_EXHAUSTED = 3
    OOM = 4
    EXEC_FAILED = 5
    HOSTCALL_LIMIT = 6
    UNSUPPORTED_PROFILE = 7
    MODULE_NOT_FOUND = 8
    UNKNOWN = 9
    NOT_FOUND = 10
    UNSUPPORTED = 11
    FINISHED = 12
    LISTENER_REVOKED = 13
    LISTENER_FENCED = 14
    MAX_SESSIONS = 15
    SESSION_CLOSED = 16


class TaskletRight(IntFlag):
    """Bits of CapEntry.rights."""

    QUERY = 0x01
    REVOKE = 0x02
    FBMU_ALLOC = 0x04
    FBMU_LEASE_IO = 0x08
    FBBU_ALLOC = 0x10
    FBBU_LEASE_IO = 0x20
    SVC_LISTEN = 0x40
    SVC_SESSION_IO = 0x80


class CapEntry(Struct):
    """What the tasklet may touch, 20 bytes."""

    cap_token: int = u128("token_id of a token for a lease")
    rights: int = u32("TaskletRight bits")


class TaskletLimits(Struct):
    """20 bytes."""

    max_fuel: int = u64("WASM fuel")
    max_linear_memory: int = u32("bytes")
    max_output_bytes: int = u32()
    max_hostcalls: int = u32()


class TaskletSubmitParams(Message):
    """TASKLET_SUBMIT 0x0500."""

    resource_id: int = u128("MEM")
    cpu_resource_id: int = u128("CPU; zero: legacy")
    module_sha256: bytes = fixed(32)
    wasm: bytes = bytes_("the module; empty: the one with that hash")
    caps: tuple[CapEntry, ...] = list_of(CapEntry)
    input: bytes = bytes_()
    limits: TaskletLimits = nested(TaskletLimits)


class LogRecord(Struct):
    level: int = u8("as the tasklet gave it")
    message: bytes = bytes_("raw, clamped where it was logged")


class TaskletSubmitResult(Message):
    """A legacy result ends after `output`, as if there were no logs; it is only read."""

    negotiated_profile_version: int = u16()
    status: int = u8(enum=TaskletStatus, closed=True)
    tasklet_id: int = u64("given by the node")
    output: bytes = bytes_()
    logs: tuple[LogRecord, ...] = list_of(LogRecord, default=(), tail=True)


class TaskletStatusParams(Message):
    """TASKLET_STATUS 0x0501."""

    tasklet_id: int = u64()


class TaskletStatusResult(Message):
    status: int = u8(enum=TaskletStatus, closed=True)


class TaskletFetchResultParams(Message):
    """TASKLET_FETCH_RESULT 0x0502."""

    tasklet_id: int = u64()


class TaskletFetchResultResult(Message):
    status: int = u8(enum=TaskletStatus, closed=True)
    output: bytes = bytes_(default=b"")


class TaskletCancelParams(Message):
    """TASKLET_CANCEL 0x0503."""

    tasklet_id: int = u64()


class TaskletCancelResult(Message):
    status: int = u8(enum=TaskletStatus, closed=True)
