"""bpf(2) as this project uses it; skipped without the rights to it."""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdp_rig import require_bpf

from fabricbios.hw import bpf

KEY = struct.pack("<I", 7)
PASS_ALL = bytes.fromhex("b7000000020000009500000000000000")  # r0 = XDP_PASS; exit
NO_RESULT = bytes.fromhex("9500000000000000")  # exit, without a value in r0


@pytest.fixture
def table() -> Iterator[int]:
    require_bpf()
    fd = bpf.map_create(bpf.MapType.HASH, 4, 8, 4, 0, "test")
    yield fd
    os.close(fd)


def test_a_map_keeps_what_it_is_told(table: int) -> None:
    assert bpf.map_lookup(table, KEY, 8) is None
    bpf.map_update(table, KEY, b"eight by")
    assert bpf.map_lookup(table, KEY, 8) == b"eight by"
    assert list(bpf.map_keys(table, 4, 10)) == [KEY]
    assert bpf.map_delete(table, KEY)
    assert not bpf.map_delete(table, KEY)


def test_walking_a_map_is_bounded(table: int) -> None:
    for i in range(4):
        bpf.map_update(table, struct.pack("<I", i), bytes(8))
    assert len(list(bpf.map_keys(table, 4, 3))) == 3


def test_a_full_map_says_so(table: int) -> None:
    for i in range(4):
        bpf.map_update(table, struct.pack("<I", i), bytes(8))
    with pytest.raises(OSError, match="MAP_UPDATE_ELEM") as full:
        bpf.map_update(table, KEY, bytes(8))
    assert full.value.errno == errno.E2BIG


def test_info_tells_what_a_map_is(table: int) -> None:
    info = bpf.map_info(table)
    assert (info.kind, info.key_size, info.value_size, info.max_entries, info.name) == (1, 4, 8, 4, "test")


def test_mapped_values_are_the_map(table: int) -> None:
    fd = bpf.map_create(bpf.MapType.ARRAY, 4, 4096, 1, bpf.BPF_F_MMAPABLE, "mapped")
    memory = bpf.map_memory(fd, 4096)
    memory[:4] = b"seen"
    value = bpf.map_lookup(fd, bytes(4), 4096)
    assert value is not None
    assert value[:4] == b"seen"
    os.close(fd)


def test_a_program_runs_on_a_packet(table: int) -> None:
    fd = bpf.prog_load(bpf.Program("pass_all", PASS_ALL, "Apache-2.0"))
    done = bpf.prog_test_run(fd, bytes(64))
    assert (done.action, done.packet) == (bpf.XdpAction.PASS, bytes(64))
    assert bpf.prog_info(fd).kind == bpf.BPF_PROG_TYPE_XDP
    os.close(fd)


def test_what_the_verifier_says_is_in_the_error(table: int) -> None:
    with pytest.raises(OSError, match="R0 !read_ok"):
        bpf.prog_load(bpf.Program("no_result", NO_RESULT, "Apache-2.0"))


def test_a_pin_that_is_not_there(table: int, tmp_path: Path) -> None:
    assert not bpf.is_bpffs(tmp_path)
    with pytest.raises(OSError, match="OBJ_GET") as missing:
        bpf.obj_get(tmp_path / "nothing")
    assert missing.value.errno == errno.ENOENT
