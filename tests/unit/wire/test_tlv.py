"""TLV sequences: what is skipped, what is refused, and which table counts where (D1)."""

import pytest

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import (
    BINDING_TLVS,
    CAVEATS,
    LEASE_INTENT_TLVS,
    BindingTlvs,
    Certificate,
    Depth,
    DpAuthTlv,
    ErrorResult,
    Generation,
    GetThermalResult,
    LeaseAllocParams,
    LeaseCpuIsolation,
    LeaseIntentKvCache,
    LeaseIntentTlvs,
    NodeCertificate,
    NvmeofNqn,
    RawTlv,
    Reason,
    SocTempMilliC,
    Token,
)  # fmt: skip


def test_unknown_tags_are_kept_and_sent_again():
    packed = bytes.fromhex("7f010002abcd") + Generation(3).pack().join((b"\1\5\0\4", b""))
    value = BindingTlvs.unpack(packed)
    assert value.tlvs == (RawTlv(0x7F01, b"\xab\xcd"), Generation(3))
    assert value.pack() == packed


def test_order_and_repetition_are_kept():
    value = BindingTlvs((Generation(2), Reason("a"), Generation(1), Reason("")))
    assert BindingTlvs.unpack(value.pack()) == value


@pytest.mark.parametrize("hexed", ["0105000301020304", "01050005010203040506", "010500050102030405", "01", "010500"])
def test_a_known_tag_is_exactly_as_long_as_its_value(hexed):
    with pytest.raises(WireError):
        BindingTlvs.unpack(bytes.fromhex(hexed))


def test_one_number_means_different_things_in_different_places():
    kv = LeaseIntentKvCache(bytes(32), 1, 4096, 0)
    assert LeaseIntentTlvs.unpack(LeaseIntentTlvs((kv,)).pack()).tlvs == (kv,)
    hot = SocTempMilliC(48_000)
    assert GetThermalResult.unpack(GetThermalResult((hot,)).pack()).tlvs == (hot,)
    with pytest.raises(WireError):
        GetThermalResult.unpack(LeaseIntentTlvs((kv,)).pack())


def test_requested_bytes_as_a_tlv_is_unknown():
    packed = LeaseAllocParams(1, 2, 3, 4).pack() + bytes.fromhex("04010008") + bytes(8)
    assert LeaseAllocParams.unpack(packed).intents == (RawTlv(0x0401, bytes(8)),)


@pytest.mark.parametrize("tlv", [LeaseCpuIsolation(1), RawTlv(0x0105, b"1234"), RawTlv(1 << 16, b""), "text", None])
def test_what_has_no_place_in_a_table_is_misuse(tlv):
    with pytest.raises(LocalMisuse):
        BindingTlvs((tlv,)).pack()


def test_an_enum_that_the_source_leaves_open_stays_open():
    assert BindingTlvs.unpack(BindingTlvs((DpAuthTlv(9),)).pack()).tlvs == (DpAuthTlv(9),)


def test_a_strict_table_refuses_unknown_tags():
    token = Token(token_id=1, issuer=2, perms=32, caveats=(Depth(1),))
    packed = bytearray(token.pack())
    packed[115] = 7
    with pytest.raises(WireError, match="unknown type 7"):
        Token.unpack(packed)
    with pytest.raises(LocalMisuse):
        token.replace(caveats=(RawTlv(7, b""),)).pack()


def test_a_tlv_outside_of_a_message():
    assert BINDING_TLVS.pack_one(NvmeofNqn("nqn")) == b"\x03\x01\0\3nqn"
    with pytest.raises(LocalMisuse):
        BINDING_TLVS.pack_one(Generation(1 << 32))
    with pytest.raises(LocalMisuse):
        BINDING_TLVS.pack_one(NvmeofNqn("n" * 70_000))


@pytest.mark.parametrize(
    ("table", "value"),
    [
        (BINDING_TLVS, Generation(7)),
        (BINDING_TLVS, Reason("")),
        (BINDING_TLVS, NvmeofNqn("nqn.é")),
        (LEASE_INTENT_TLVS, LeaseIntentKvCache(bytes(32), 1, 4096, 0)),
        (LEASE_INTENT_TLVS, LeaseIntentKvCache(bytes(32), 1, 4096, 0, 1, 9)),
        (CAVEATS, Depth(3)),
    ],
)
def test_a_tlv_is_its_tag_its_length_and_its_value(table, value):
    body = value.pack()
    assert table.pack_one(value) == value.TAG.to_bytes(1 if table.narrow else 2) + len(body).to_bytes(2) + body


def test_an_error_result_gives_its_reason():
    assert ErrorResult((Generation(1), Reason("no room"), Reason("x"))).reason == "no room"
    with pytest.raises(WireError, match="REASON"):
        ErrorResult.unpack(b"")
    with pytest.raises(LocalMisuse, match="REASON"):
        ErrorResult((Generation(1),)).pack()


def test_a_certificate_is_the_same_as_a_message_and_as_a_tlv():
    body = {"subject": 1, "issuer": 2, "issued_at": 3, "expires_at": 4, "public_key": bytes(32), "signature": bytes(64)}
    certificate = Certificate(**body, extensions=(RawTlv(9, b"x"),))
    assert NodeCertificate.unpack(certificate.pack()) == NodeCertificate(*certificate)
