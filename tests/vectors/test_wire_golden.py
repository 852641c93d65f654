"""All golden vectors through the codec and its JSON form, both ways, and every invalid one refused."""

import pytest
from vectors.golden import FAMILIES, family

from fabricbios.cli.wire import decode_one, encode_one
from fabricbios.errors import WireError
from fabricbios.wire.circumstances import Given

REASONS = {  # class of rule -> words of which one must stand in our reason
    "truncated": ("truncated", "longer than", "beyond what is left"),
    "trailing": ("left over", "longer than its", "READ with a payload"),
    "limit": ("too many items", "over the limit"),
    "tlv_length": ("longer than its value", "truncated", "longer than what is left", "SOURCE_IP is"),
    "utf8": ("UTF-8",),
    "magic": ("magic",),
    "version": ("version",),
    "flags": ("flags", "health"),
    "msg_type": ("msg_type",),
    "op": (".op ", "op"),
    "nonce": ("nonce",),
    "request_id": ("request_id",),
    "payload_len": ("payload is longer", "left over"),
    "size": ("size limit",),
    "tag": ("auth_tag",),
    "answer": ("repeats",),
    "signature": ("signature",),
    "mac": ("MAC",),
    "skew": ("30 s",),
    "dates": ("dates",),
    "time": ("expired", "TIME_BOUND"),
    "audience": ("audience", "AUDIENCE"),
    "depth": ("DEPTH",),
    "caveat": ("unknown type",),
    "overlap": ("overlap",),
    "disagree": ("disagree",),
    "incomplete": ("complete",),
    "inflate_limit": ("inflates past",),
    "zlib": ("zlib",),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_gives_the_fields(name):
    for case in family(name)["cases"]:
        fields = decode_one(case["type"], bytes.fromhex(case["hex"]), Given.of(case.get("given", {})))
        assert fields == case["fields"], case["name"]


@pytest.mark.parametrize("name", FAMILIES)
def test_encoding_gives_the_bytes(name):
    for case in family(name)["cases"]:
        if not case.get("decode_only"):
            made = encode_one(case["type"], case["fields"], Given.of(case.get("given", {})))
            assert made.hex() == case["hex"], case["name"]


@pytest.mark.parametrize("name", FAMILIES)
def test_sealing_needs_no_seal_in_the_fields(name):
    """With a key in `given` the signature, MAC or tag is computed, whatever the fields say."""
    for case in family(name)["cases"]:
        given, seals = Given.of(case.get("given", {})), set(case["fields"]) & {"mac", "auth_tag", "signature"}
        keyed = given.token_key or given.issuer_seed or given.seed or (given.dp_key and given.transport != "quic")
        if case.get("decode_only") or not seals or not keyed or (given.dp_auth == 0 and given.question):
            continue
        blank = {s: None if case["fields"][s] is None else "00" * (len(case["fields"][s]) // 2) for s in seals}
        made = encode_one(case["type"], {**case["fields"], **blank}, given)
        assert made.hex() == case["hex"], case["name"]


@pytest.mark.parametrize("name", FAMILIES)
def test_invalid_ones_are_refused_for_the_right_reason(name):
    for case in family(name)["invalid"]:
        with pytest.raises(WireError) as caught:
            decode_one(case["type"], bytes.fromhex(case["hex"]), Given.of(case.get("given", {})))
        words = REASONS.get(case["rule"], ("",))
        assert any(word in caught.value.reason for word in words), (case["name"], caught.value.reason)
        assert 0 <= caught.value.offset <= len(case["hex"]) // 2


def test_there_are_vectors():
    assert len(FAMILIES) == 27
    assert sum(len(family(f)["cases"]) for f in FAMILIES) == 457
    assert sum(len(family(f)["invalid"]) for f in FAMILIES) == 446
