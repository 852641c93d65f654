"""The JSON form's own rules; that all messages pass through it is shown in tests/property and tests/vectors."""

import pytest

from fabricbios.errors import LocalMisuse
from fabricbios.wire import (
    LeaseAllocParams,
    LeaseCpuIsolation,
    LeaseExportHandleResult,
    LeaseIntentTlvs,
    PingResult,
    RawTlv,
)
from fabricbios.wire.export import PcieBar
from fabricbios.wire.json_form import from_json, to_json


def test_numbers_have_all_their_digits_from_u64_on():
    assert to_json(LeaseAllocParams(1, 2, 3, 4)) == {
        "duration_secs": 1, "grace_secs": 2, "resource_type": 3, "requested_bytes": "0x0000000000000004", "intents": [],
    }  # fmt: skip


def test_absent_is_null_and_may_be_left_out():
    assert to_json(LeaseAllocParams(1, 2))["resource_type"] is None
    assert from_json(LeaseAllocParams, {"duration_secs": 1}) == LeaseAllocParams(1)


def test_a_python_keyword_keeps_its_spec_name():
    value = LeaseIntentTlvs((LeaseCpuIsolation(2), RawTlv(9, b"\1")))
    form = {"tag": 0x0902, "name": "TLV_LEASE_CPU_ISOLATION", "value": {"class": 2}}
    assert to_json(value) == {"tlvs": [form, {"tag": 9, "raw": "01"}]}
    assert from_json(LeaseIntentTlvs, to_json(value)) == value


def test_any_number_may_be_written_either_way():
    assert (
        from_json(PingResult, {"uptime_secs": 255}) == from_json(PingResult, {"uptime_secs": "0xff"}) == PingResult(255)
    )


def test_a_choice_goes_by_its_sibling():
    fields = {"export_handle": "0x1", "expires_at": 2, "binding_type": 1, "binding_desc": {"bar_base": 3, "bar_len": 4}}
    value = from_json(LeaseExportHandleResult, fields)
    assert value.binding_desc == PcieBar(3, 4)
    with pytest.raises(LocalMisuse, match="binding_type"):
        from_json(LeaseExportHandleResult, {**fields, "binding_type": 9})


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (PingResult, None),
        (PingResult, []),
        (PingResult, {}),
        (PingResult, {"uptime_secs": None}),
        (PingResult, {"uptime_secs": True}),
        (PingResult, {"uptime_secs": "forever"}),
        (PingResult, {"uptime_secs": [1]}),
        (PingResult, {"uptime_secs": 1, "extra": 2}),
        (LeaseIntentTlvs, {"tlvs": {}}),
        (LeaseIntentTlvs, {"tlvs": ["x"]}),
        (LeaseIntentTlvs, {"tlvs": [{"tag": 0x0902}]}),
        (LeaseIntentTlvs, {"tlvs": [{"tag": 0x0902, "name": "OTHER", "value": {"class": 1}}]}),
        (LeaseIntentTlvs, {"tlvs": [{"tag": 0x7F7F, "value": {}}]}),
        (LeaseIntentTlvs, {"tlvs": [{"tag": 9, "raw": "zz"}]}),
    ],
)
def test_what_does_not_fit_is_misuse(cls, fields):
    with pytest.raises(LocalMisuse):
        from_json(cls, fields)
