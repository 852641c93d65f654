"""GPU_SUBMIT 0x0600: load and launch a kernel on a leased GPU."""

from __future__ import annotations

from enum import IntEnum

from fabricbios.wire.description import Message
from fabricbios.wire.fields import U32, bytes_, i32, list_of, str16, u8, u32, u32s, u64, u128
from fabricbios.wire.rules import Rules

SOURCE = 'wire encoding, "GPU operations"'


class GpuStatus(IntEnum):
    OK = 0
    INVALID = 1
    UNAUTHORIZED = 2
    LOAD_FAILED = 3
    LAUNCH_FAILED = 4
    UNSUPPORTED = 5
    READ_FAILED = 6


class GpuSubmitParams(Message):
    resource_id: int = u128("GPU")
    binary: bytes = bytes_("HSACO, PTX or cubin")
    kernel_name: str = str16("function in the module")
    grid_dim: tuple[int, int, int] = u32s(3, "x, y, z")
    block_dim: tuple[int, int, int] = u32s(3, "x, y, z")
    args: bytes = bytes_("packed one after the other")
    arg_sizes: tuple[int, ...] = list_of(U32, "bytes of each argument")
    output_offset: int = u64("where the output lies in the lease")
    output_size: int = u32("bytes; 0: none")

    def complaint(self, rules: Rules) -> str:
        return "" if sum(self.arg_sizes) == len(self.args) else "the sum of arg_sizes is not the length of args"


class GpuSubmitResult(Message):
    status: int = u8(enum=GpuStatus, closed=True)
    submit_id: int = u64("given by the node, rising")
    exit_code: int = i32("0: success")
    output: bytes = bytes_(default=b"")
