"""D1's limits: lengths and counts are judged before anything is allocated."""

import tracemalloc

import pytest

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import (
    ANY,
    QUIC,
    UDP,
    DpHeader,
    FbbuWriteBlock,
    FbmuError,
    FbmuRead,
    FbmuWrite,
    FbmuWriteResp,
    Filter,
    Frame,
    GetInventoryResult,
    Read,
    Request,
    ResourceSummary,
    RevokeBroadcast,
    Solicit,
    SolicitResponse,
    StatusOnly,
    Token,
    Transports,
    Write,
    WriteBlock,
)  # fmt: skip


def request(size: int) -> Request:
    presenter = {"has_presenter": 1, "presenter_id": 1, "presenter_sig": bytes(64)}
    return Request(op=1, params=bytes(size), **presenter)


def test_a_presenter_is_named_on_udp_and_nowhere_else():
    bare = Request(op=1)
    assert Request.unpack(bare.pack(), "quic") == Request.unpack(bare.pack()) == bare
    with pytest.raises(WireError, match="on UDP names its presenter"):
        Request.unpack(bare.pack(), "udp")
    assert Request.unpack(request(0).pack(), "udp") == Request.unpack(request(0).pack()) == request(0)
    with pytest.raises(WireError, match="0 on QUIC"):
        Request.unpack(request(0).pack(), "quic")


def test_bytes_are_64_kib_on_udp():
    assert UDP.bytes == 64 * 1024
    packed = request(UDP.bytes).pack("udp")
    assert Request.unpack(packed, "udp").params == bytes(UDP.bytes)
    with pytest.raises(LocalMisuse, match="limit"):
        request(UDP.bytes + 1).pack("udp")
    with pytest.raises(WireError, match="limit"):
        Request.unpack(request(UDP.bytes + 1).pack(), "udp")


def test_bytes_are_16_mib_on_quic():
    assert QUIC.bytes == ANY.bytes == 16 << 20
    small = ANY._replace(bytes=8, transport="quic")
    assert Request.unpack(Request(op=1, params=bytes(8)).pack(), small).params == bytes(8)
    with pytest.raises(WireError, match="params is over the limit"):
        Request.unpack(Request(op=1, params=bytes(9)).pack(), small)


def test_lists_have_4096_items():
    many = tuple(range(4096))
    assert RevokeBroadcast.unpack(RevokeBroadcast(1, many, 2).pack()).token_ids == many
    with pytest.raises(LocalMisuse, match="too many"):
        RevokeBroadcast(1, (*many, 1), 2).pack()
    with pytest.raises(WireError, match="too many"):
        RevokeBroadcast.unpack(bytes(16) + (4097).to_bytes(2, "big") + bytes(4097 * 16 + 8))
    with pytest.raises(WireError, match="too many"):
        Transports.unpack((4097).to_bytes(2, "big") + bytes(4097 * 2))
    with pytest.raises(LocalMisuse, match="too many"):
        SolicitResponse((b"",) * 4097).pack()


@pytest.mark.parametrize(
    ("cls", "head"),
    [
        (Request, bytes(18) + b"\0\xff\xff\xff"),
        (GetInventoryResult, b"\x0f\xff"),
        (SolicitResponse, b"\x0f\xff"),
        (RevokeBroadcast, bytes(16) + b"\x0f\xff"),
        (Token, b"\1" + bytes(112) + b"\x0f\xff"),
        (Frame, b"FBIO\0\1\0\0" + bytes(32) + b"\0\xff\xff\xff"),
        (FbmuWrite, b"FBMU\1\x20\0\0\0\0\0\x10" + bytes(44) + bytes(8) + b"\0\xff\xff\xff"),
    ],
)
def test_a_lie_about_length_costs_nothing(cls, head):
    with pytest.raises(WireError):
        cls.unpack(head + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            cls.unpack(head + bytes(100))
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024
    finally:
        tracemalloc.stop()


def test_datagram_sizes():
    fits = FbmuRead(1, 1, 1, Read(0, 1408, padding=1472 - 68))
    assert len(fits.pack()) == 1472
    too_long = fits.replace(payload=Read(0, 1408, padding=1473 - 68))
    with pytest.raises(LocalMisuse, match="size limit"):
        too_long.pack()
    with pytest.raises(WireError, match="size limit"):
        FbmuRead.unpack(too_long.pack("quic"))
    assert FbmuRead.unpack(too_long.pack("quic"), "quic") == too_long
    with pytest.raises(LocalMisuse, match="size limit"):
        FbmuWrite(1, 1, 1, Write(0, 1 << 20, bytes(1 << 20))).pack("quic")


def test_frame_sizes():
    frame = Frame(0x10, 0, 1, 2, 3, bytes(1357))
    with pytest.raises(WireError, match="size limit"):
        Frame.unpack(frame.pack(), "udp")
    assert Frame.unpack(frame.pack(), "quic") == frame


def test_a_prefix_is_judged_by_the_class_s_rules_or_those_that_are_named():
    long = FbmuRead(1, 1, 1, Read(0, 1408, padding=1473 - 68))
    data = long.pack("quic")
    with pytest.raises(WireError, match="size limit"):
        FbmuRead.unpack_prefix(data)
    assert FbmuRead.unpack_prefix(data, "quic") == (long, len(data))


def test_bad_auth_is_for_quic_alone():
    for answer in (FbmuError(1, 2, 3, StatusOnly(8)), FbmuWriteResp(1, 2, 3, StatusOnly(8))):
        assert type(answer).unpack(answer.pack("quic"), "quic") == answer
        with pytest.raises(LocalMisuse, match="QUIC alone"):
            answer.pack()
        with pytest.raises(WireError, match="QUIC alone"):
            type(answer).unpack(answer.pack("quic"))


@pytest.mark.parametrize("field", [0, 8, 0x3F])
def test_unassigned_filter_fields_are_refused(field):
    with pytest.raises(LocalMisuse, match="not assigned"):
        Solicit(1, (Filter(field, 1, bytes(32)),)).pack()
    good = Solicit(1, (Filter(1, 1, bytes(32)),)).pack()
    with pytest.raises(WireError, match="not assigned"):
        Solicit.unpack(good[:3] + bytes([field]) + good[4:])
    assert Solicit.unpack(good[:3] + b"\x40" + good[4:]).filters[0].field == 0x40


def test_a_header_alone():
    header = DpHeader(b"FBMU", 1, 0x10, 0, 0, 5, 6, 7)
    assert header.auth_tag == bytes(16)
    assert DpHeader.unpack(header.pack()) == header


def test_block_size_is_one_of_the_rules():
    block = FbbuWriteBlock(1, 1, 1, WriteBlock(0, 1, bytes(4096)))
    rules = QUIC._replace(block_size=4096)
    assert FbbuWriteBlock.unpack(block.pack(rules), rules) == block
    with pytest.raises(LocalMisuse, match="not as long"):
        block.pack("quic")


def test_lists_of_structs_are_bounded_by_what_is_left():
    packed = GetInventoryResult((ResourceSummary(1, 2, 0, 3, 4),) * 3).pack()
    with pytest.raises(WireError, match="longer than what is left"):
        GetInventoryResult.unpack(packed[:-1])
