"""The shipped BPF object is what its sources and the Python tables say; where clang is, byte for byte."""

import shutil
from pathlib import Path

import pytest
from facilities import require

from fabricbios.dataplane import trace
from fabricbios.dataplane.blob import BLOB_FILE, Blob
from fabricbios.dataplane.btf import struct_offsets
from fabricbios.dataplane.build import MAIN, TRACE, Target, build, compile_object, sources_digest
from fabricbios.dataplane.counters import COUNTERS
from fabricbios.dataplane.hash_code import HASHES_FILE, generated_hashes
from fabricbios.dataplane.slots import SLOT
from fabricbios.dataplane.xdp_layout import DP_HEADER, HEADER_FILE, LAYOUT_VERSION, XDP_CONFIG, generated_header
from fabricbios.layout import Layout
from fabricbios.model import DpOp
from fabricbios.wire import FbmuPing, Ping

SHARED = (SLOT, COUNTERS, XDP_CONFIG)  # dp_header is in no signature, so in no BTF: clang holds its assertions


def require_clang() -> None:
    require("clang", shutil.which("clang-14") is not None, "clang-14 is not installed")


def test_the_generated_headers_are_fresh() -> None:
    assert HEADER_FILE.read_text() == generated_header()
    assert HASHES_FILE.read_text() == generated_hashes()
    assert trace.HEADER_FILE.read_text() == trace.generated_header()


@pytest.mark.parametrize("target", [MAIN, TRACE], ids=["main", "trace"])
def test_the_blob_is_of_these_sources(target: Target) -> None:
    assert Blob.shipped(target.blob).sources == sources_digest(target)


def test_the_blob_reads_back_as_it_was_written() -> None:
    assert Blob.shipped().to_text() == BLOB_FILE.read_text()


@pytest.mark.parametrize("layout", SHARED, ids=lambda layout: layout.name)
def test_the_built_object_has_every_field_where_python_has_it(layout: Layout) -> None:
    assert struct_offsets(Blob.shipped().btf, layout.name) == layout.offset


@pytest.mark.parametrize("layout", [trace.TRACE_PARAMS, trace.TRACE_SERIES], ids=lambda layout: layout.name)
def test_the_traced_object_has_its_fields_where_python_has_them(layout: Layout) -> None:
    assert struct_offsets(Blob.shipped(TRACE.blob).btf, layout.name) == layout.offset


def test_the_header_lies_as_the_codec_has_it() -> None:
    raw = FbmuPing(0x01020304, 5 << 64 | 6, 7, Ping(3), auth_tag=bytes(range(16))).pack()
    found = {field.name: DP_HEADER.get(raw, 0, field.name) for field in DP_HEADER.fields}
    assert found == {
        "magic": b"FBMU", "version": 1, "op": DpOp.PING, "flags": 0, "payload_len": 3, "request_id": 0x01020304,
        "lease_id": (5 << 64 | 6).to_bytes(16, "big"), "nonce": 7, "auth_tag": bytes(range(16)),
    }  # fmt: skip


@pytest.mark.parametrize("target", [MAIN, TRACE], ids=["main", "trace"])
def test_a_rebuild_gives_the_same_bytes(target: Target) -> None:
    require_clang()
    assert build(target) == Blob.shipped(target.blob)


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    require_clang()
    source = tmp_path / "bad.bpf.c"
    source.write_text("int f(void) { int unused; return 0; }\n")
    with pytest.raises(Exception, match="non-zero exit status"):
        compile_object(tmp_path / "bad.o", source)


def test_only_maps_that_the_loader_makes_are_used() -> None:
    names = {use.map for use in Blob.shipped().uses}
    assert names == {"config", "counters", "lease_index", "slabs", "slots", "stations"}


def test_linking_puts_descriptors_where_maps_are_used() -> None:
    blob = Blob.shipped()
    numbers = {name: 1000 + i for i, name in enumerate(sorted({use.map for use in blob.uses}))}
    code = blob.linked(numbers)
    assert len(code) == len(blob.instructions)
    for use in blob.uses:
        first = code[use.at * 8 : use.at * 8 + 8]
        assert first[0] == 0x18
        assert first[1] >> 4 == (1 if use.offset < 0 else 2)
        assert int.from_bytes(first[4:], "little") == numbers[use.map]


def test_a_map_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="slots"):
        Blob.shipped().linked({})


def test_the_layout_version_is_short_and_stable_in_a_run() -> None:
    assert len(LAYOUT_VERSION) == 12
    assert LAYOUT_VERSION.isalnum()
