"""The bpf(2) system call, raw: maps, programs, links, pins, test runs.

Raw rather than libbpf: what libbpf adds is parsing ELF and relocating for other kernels, and our programs come
pre-linked (`dataplane.build`) and touch UAPI structs only. So a node needs neither libbpf nor libelf nor a
compiler, and loading takes milliseconds.

Every function returns a plain file descriptor, which the caller owns (`os.close`), or raises OSError with the
kernel's errno. Layouts of `union bpf_attr` are those of include/uapi/linux/bpf.h; the kernel takes a shorter
attr than its own as zero-extended, so only the members used here are spelled out.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from fabricbios.errors import Unsupported

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_libc = ctypes.CDLL(None, use_errno=True)
_BPF_FS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h
_LOG_SIZE, _LOG_TAIL = 1 << 22, 2000
_LOG_LEVEL = 1 | 4  # BPF_LOG_LEVEL1 | BPF_LOG_STATS
_FUNC_INFO = 8  # sizeof(struct bpf_func_info)

BPF_F_MMAPABLE = 1 << 10
BPF_F_RDONLY_PROG = 1 << 7
BPF_NOEXIST = 1
BPF_XDP = 37  # enum bpf_attach_type
BPF_PROG_TYPE_XDP = 6
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2


class Cmd(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    BTF_LOAD = 18
    MAP_FREEZE = 22
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class MapType(IntEnum):
    """enum bpf_map_type."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    ARRAY_OF_MAPS = 12


class XdpAction(IntEnum):
    """enum xdp_action: what a program returns."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


def bpf(cmd: Cmd, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Make the system call; a mutable `attr` is written back by the kernel."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise Unsupported("bpf(2)", f"no system call number known for {platform.machine()}")
    buffer = ctypes.create_string_buffer(attr, len(attr)) if isinstance(attr, bytes) else attr
    result = int(_libc.syscall(number, int(cmd), buffer, ctypes.sizeof(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({cmd.name}): {os.strerror(code)}")
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def map_create(
    kind: MapType,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    name: str = "",
    inner_fd: int = 0,
) -> int:
    """Create a map; `inner_fd` shows an ARRAY_OF_MAPS what its values look like. ENOMEM: too large."""
    label = name.encode()[:15]
    attr = struct.pack("<IIIIIII16s", kind, key_size, value_size, max_entries, flags, inner_fd, 0, label)
    return bpf(Cmd.MAP_CREATE, attr)


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    k, v = _buffer(key), _buffer(value)
    bpf(Cmd.MAP_UPDATE_ELEM, struct.pack("<IIQQQ", fd, 0, _address(k), _address(v), flags))


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """Return the value, or None without such a key. Per-CPU values want `size` = 8-aligned value x possible CPUs."""
    k, v = _buffer(key), ctypes.create_string_buffer(size)
    try:
        bpf(Cmd.MAP_LOOKUP_ELEM, struct.pack("<IIQQQ", fd, 0, _address(k), _address(v), 0))
    except OSError as e:
        if e.errno == errno.ENOENT:
            return None
        raise
    return v.raw


def map_delete(fd: int, key: bytes) -> bool:
    """Return whether the key was there."""
    k = _buffer(key)
    try:
        bpf(Cmd.MAP_DELETE_ELEM, struct.pack("<IIQQQ", fd, 0, _address(k), 0, 0))
    except OSError as e:
        if e.errno == errno.ENOENT:
            return False
        raise
    return True


def map_keys(fd: int, key_size: int, limit: int) -> Iterator[bytes]:
    """Yield at most `limit` keys; the map must not change meanwhile."""
    following = ctypes.create_string_buffer(key_size)
    key: ctypes.Array[ctypes.c_char] | None = None
    for _ in range(limit):
        attr = struct.pack("<IIQQ", fd, 0, _address(key) if key is not None else 0, _address(following))
        try:
            bpf(Cmd.MAP_GET_NEXT_KEY, attr)
        except OSError as e:
            if e.errno == errno.ENOENT:
                return
            raise
        yield following.raw
        key = _buffer(following.raw)


def map_freeze(fd: int) -> None:
    """Make a map read-only for user space, so that the verifier may take its content as constants."""
    bpf(Cmd.MAP_FREEZE, struct.pack("<I", fd))


def map_memory(fd: int, size: int) -> mmap.mmap:
    """Map the values of a BPF_F_MMAPABLE array: the very bytes that programs see."""
    return mmap.mmap(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)


class Program(NamedTuple):
    """What BPF_PROG_LOAD takes. `functions` is struct bpf_func_info[]: for each function its first instruction and
    its type in the BTF of `btf_fd`, which the verifier wants for global functions."""

    name: str
    instructions: bytes
    licence: str
    btf_fd: int = 0
    functions: bytes = b""
    prog_type: int = BPF_PROG_TYPE_XDP
    attach_type: int = BPF_XDP


def btf_load(data: bytes) -> int:
    """Load type information (Documentation/bpf/btf.rst)."""
    types = _buffer(data)
    return bpf(Cmd.BTF_LOAD, struct.pack("<QQIII", _address(types), 0, len(data), 0, 0))


def prog_load(program: Program) -> int:
    """Load a program. What the verifier refuses raises OSError with the end of its log in the message."""
    try:
        return _prog_load(program, None)
    except OSError as refused:
        if refused.errno not in (errno.EACCES, errno.EINVAL, errno.E2BIG):
            raise
    log = ctypes.create_string_buffer(_LOG_SIZE)  # it costs, so the first try went without
    try:
        return _prog_load(program, log)
    except OSError as e:
        tail = log.value.decode(errors="replace").strip()[-_LOG_TAIL:]
        raise OSError(e.errno, f"{e.strerror} for program {program.name}\n{tail}") from None


def _prog_load(program: Program, log: ctypes.Array[ctypes.c_char] | None) -> int:
    code, licence = _buffer(program.instructions), _buffer(program.licence.encode() + b"\0")
    functions = _buffer(program.functions)
    level, size, where = (_LOG_LEVEL, len(log), _address(log)) if log is not None else (0, 0, 0)
    name = program.name.encode()[:15]
    attr = struct.pack("<IIQQ", program.prog_type, len(code) // 8, _address(code), _address(licence))
    attr += struct.pack("<IIQII16sII", level, size, where, 0, 0, name, 0, program.attach_type)
    if program.functions:
        count = len(program.functions) // _FUNC_INFO
        attr += struct.pack("<IIQI", program.btf_fd, _FUNC_INFO, _address(functions), count)
    return bpf(Cmd.PROG_LOAD, attr)


def link_xdp(prog_fd: int, ifindex: int, flags: int) -> int:
    """Attach by bpf_link: the program stays while this descriptor, or a pin of it, lives. EBUSY: there is one."""
    return bpf(Cmd.LINK_CREATE, struct.pack("<IIII", prog_fd, ifindex, BPF_XDP, flags))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Put another program behind a link, without a packet in between that sees none."""
    bpf(Cmd.LINK_UPDATE, struct.pack("<IIII", link_fd, prog_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    """Take the program off the interface though descriptors or pins of the link live on."""
    bpf(Cmd.LINK_DETACH, struct.pack("<I", link_fd))


def obj_pin(fd: int, path: Path) -> None:
    """Pin to a bpffs path. EEXIST: the path is taken."""
    name = _buffer(bytes(path) + b"\0")
    bpf(Cmd.OBJ_PIN, struct.pack("<QII", _address(name), fd, 0))


def obj_get(path: Path) -> int:
    """Open a pinned object. ENOENT: no such pin."""
    name = _buffer(bytes(path) + b"\0")
    return bpf(Cmd.OBJ_GET, struct.pack("<QII", _address(name), 0, 0))


class MapInfo(NamedTuple):
    """struct bpf_map_info, the part that says whether a pin is what we would create."""

    kind: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


class LinkInfo(NamedTuple):
    """struct bpf_link_info of an XDP link; ifindex 0: its interface is gone, or it was detached."""

    kind: int
    id: int
    prog_id: int
    ifindex: int


class ProgInfo(NamedTuple):
    """struct bpf_prog_info, the part that tells programs apart; `tag` is the kernel's hash of the instructions."""

    kind: int
    id: int
    tag: bytes


def _info(fd: int, size: int) -> bytes:
    out = ctypes.create_string_buffer(size)
    bpf(Cmd.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, size, _address(out)))
    return out.raw


def map_info(fd: int) -> MapInfo:
    kind, number, key, value, entries, flags, name = struct.unpack("<IIIIII16s", _info(fd, 40))
    return MapInfo(kind, number, key, value, entries, flags, name.rstrip(b"\0").decode())


def link_info(fd: int) -> LinkInfo:
    kind, number, prog, ifindex = struct.unpack("<III4xI4x", _info(fd, 24))
    return LinkInfo(kind, number, prog, ifindex)


def prog_info(fd: int) -> ProgInfo:
    return ProgInfo(*struct.unpack("<II8s", _info(fd, 16)))


class TestRun(NamedTuple):
    """What a program did with one packet. `duration_ns` is the mean over the repeats."""

    action: int
    duration_ns: int
    packet: bytes


_TEST = struct.Struct("<IIIIQQIIIIQQIII4x")  # attr.test


def prog_test_run(prog_fd: int, packet: bytes, repeat: int = 1) -> TestRun:
    """Run an XDP program on a packet that no interface sees (BPF_PROG_TEST_RUN); it sees all maps as ever."""
    source, out = _buffer(packet), ctypes.create_string_buffer(mmap.PAGESIZE)
    values = (prog_fd, 0, len(packet), len(out), _address(source), _address(out), repeat, 0, 0, 0, 0, 0, 0, 0, 0)
    attr = _buffer(_TEST.pack(*values))
    bpf(Cmd.PROG_TEST_RUN, attr)
    done = _TEST.unpack(attr.raw)
    return TestRun(done[1], done[7], out.raw[: done[3]])


def is_bpffs(path: Path) -> bool:
    """Say whether a BPF file system is mounted there (statfs(2); Python's statvfs does not tell the type)."""
    out = ctypes.create_string_buffer(256)
    if _libc.statfs(bytes(path), out) != 0:
        return False
    return int(struct.unpack_from("<q", out.raw)[0]) == _BPF_FS_MAGIC


def possible_cpus() -> int:
    """Return how many values a per-CPU map has (/sys/devices/system/cpu/possible)."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace("-", ",").split(",")[-1]) + 1
