"""`fabricbios wire` as people and scripts call it."""

import json

import click
import pytest
from click.testing import CliRunner

from fabricbios.cli.wire import wire
from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire.registry import TYPES


def call(*args: str, stdin: str | bytes = "") -> str:
    """Return what the command prints; raise what it raises (cli.main turns that into one line and a code)."""
    result = CliRunner().invoke(wire, args, input=stdin, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    return result.output


def batch(command: str, *lines: object) -> list[dict]:
    text = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return [json.loads(line) for line in call(command, "--batch", stdin=text).splitlines()]


@pytest.mark.parametrize("command", [[], ["decode"], ["encode"]])
def test_types_are_listed(command):
    known = {*TYPES, "frame_sequence"}
    assert set(call(*command, "--types").split()) == known
    listed = json.loads(call(*command, "--types", "--json"))
    assert listed["schema"] == "fabricbios.wire-types/1"
    assert set(listed["types"]) == known


def test_a_command_is_wanted():
    with pytest.raises(click.UsageError):
        call("--json")


def test_decode_and_encode_one():
    assert json.loads(call("decode", "ping_result", "--hex", "00000000000000ff")) == {
        "uptime_secs": "0x00000000000000ff"
    }
    assert json.loads(call("decode", "ping_result", stdin="00000000 000000ff\n")) == {
        "uptime_secs": "0x00000000000000ff"
    }
    assert call("encode", "ping_result", stdin='{"uptime_secs": 255}').strip() == "00000000000000ff"


def test_given_counts():
    with pytest.raises(WireError, match="QUIC"):
        call("decode", "request", "--hex", "00" * 26 + "01" + "00" * 80, "--given", '{"transport": "quic"}')


def test_failures_are_ours_or_the_message_s():
    with pytest.raises(WireError):
        call("decode", "ping_result", "--hex", "00")
    with pytest.raises(click.UsageError):
        call("decode", "nonsense", "--hex", "")
    for arguments in (("ping_result", "--hex", "xy"), ("ping_result", "--given", "[")):
        with pytest.raises(LocalMisuse):
            call("decode", *arguments)
    assert CliRunner().invoke(wire, ["decode", "--hex", "00"]).exit_code == 2


def test_a_batch_goes_on_after_bad_lines():
    good = {"type": "ping_result", "hex": "00000000000000ff"}
    answers = batch(
        "decode", good, b"not json", b"\xff\xfe\x00", b"[" * 100_000, [1], {}, {"type": 5, "hex": ""},
        {"type": "x", "hex": ""}, {"type": "ping_result"}, {**good, "hex": "00"},
        {**good, "given": {"transport": "pigeon"}}, {**good, "given": 5}, b"", good,
    )  # fmt: skip
    assert [a["ok"] for a in answers] == [True, *[False] * 11, True]
    assert all(a["error"] and isinstance(a["offset"], int) for a in answers if not a["ok"])
    assert answers[0] == {"ok": True, "fields": {"uptime_secs": "0x00000000000000ff"}}
    assert answers[9]["offset"] == 0


def test_a_type_on_the_command_line_serves_lines_without_one():
    out = call("decode", "ping_result", "--batch", stdin='{"hex": "0000000000000001"}')
    assert json.loads(out)["fields"] == {"uptime_secs": "0x0000000000000001"}


def test_encode_in_batches():
    lines = [{"type": "ping_result", "fields": {"uptime_secs": n}} for n in (1, 1 << 64, -1, "x", None)]
    answers = batch("encode", *lines)
    assert [a["ok"] for a in answers] == [True, False, False, False, False]
    assert answers[0]["hex"] == "0000000000000001"


def test_documents_for_scripts_name_their_schema():
    decoded = json.loads(call("decode", "ping_result", "--hex", "00" * 8, "--json"))
    assert decoded == {"schema": "fabricbios.wire/1", "type": "ping_result", "fields": {"uptime_secs": "0x" + "0" * 16}}
    encoded = json.loads(call("encode", "ping_result", "--json", stdin='{"uptime_secs": 1}'))
    assert encoded == {"schema": "fabricbios.wire/1", "type": "ping_result", "hex": "0000000000000001"}


def test_frame_sequences():
    assert batch("decode", {"type": "frame_sequence", "hex": ""})[0]["error"] == "no frame"
    bad = [{"type": "frame_sequence", "fields": f} for f in ({}, {"frames": []}, {"frames": [5], "payload": ""}, [])]
    assert [a["ok"] for a in batch("encode", *bad)] == [False] * 4
