"""The probe itself against the published vectors: an instrument that reads wrong proves nothing."""

import json
from pathlib import Path

import pytest
from blackbox import codec, dataplane
from blackbox.dataplane import HEADER, covered_question, tag

VECTORS = Path(__file__).parents[1] / "vectors" / "data"


def cases(family):
    return json.loads((VECTORS / f"{family}.json").read_text())["cases"]


@pytest.mark.parametrize("family", ["fbmu", "fbbu"])
def test_tags(family):
    seen = set()
    for case in cases(family):
        given, raw = case.get("given", {}), bytes.fromhex(case["hex"])
        if "dp_key" not in given:
            continue
        key, mode, op = bytes.fromhex(given["dp_key"]), given["dp_auth"], raw[5]
        answer = op in (dataplane.HELLO_ACK, dataplane.READ_RESP, dataplane.WRITE_RESP, dataplane.PONG, dataplane.ERROR)
        if answer and mode == dataplane.HMAC_HEADER:
            expected = bytes.fromhex(given["question"])[40:56]
        else:
            covered = len(raw) - 56 if answer else covered_question(mode, op, raw[56:])
            expected = tag(mode, key, raw[:56], raw[56:], covered=covered)
        assert expected == HEADER.unpack(raw[:56])[8], case["name"]
        seen.add((mode, op))
    assert {mode for mode, _ in seen} == {0, 1, 2, 3}
    assert len(seen) > 20


def test_tokens_narrowed_by_hand():
    narrowed = 0
    for case in cases("token"):
        raw = bytes.fromhex(case["hex"])
        token = codec.read_token(raw)
        assert token.pack() == raw, case["name"]
        if "parent" in case.get("given", {}):
            parent = codec.read_token(bytes.fromhex(case["given"]["parent"]))
            for caveat in token.caveats[len(parent.caveats) :]:
                parent = parent.narrowed(*caveat)
            assert parent == token, case["name"]
            narrowed += 1
    assert narrowed


def test_frames_and_signatures():
    signed = 0
    for case in cases("frame"):
        if case["fields"].get("frag_total_len") not in (None, len(case["fields"]["payload"]) // 2):
            continue
        frame = codec.read_frame(bytes.fromhex(case["hex"]))
        assert f"{frame.sender:#034x}" == case["fields"]["sender"]
        if frame.signature and "public_key" in case.get("given", {}):
            frame.verify(bytes.fromhex(case["given"]["public_key"]))
            signed += 1
    assert signed
