"""`fabricbios wire decode|encode --batch` over all golden vectors, as an outside process."""

import json
from pathlib import Path

import pytest
from blackbox.programs import cli

VECTORS = Path(__file__).parents[1] / "vectors" / "data"


def batch(direction: str, questions: list[dict]) -> list[dict]:
    done = cli("wire", direction, "--batch", stdin="".join(json.dumps(q) + "\n" for q in questions))
    assert done.returncode in (0, 1), done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(questions)
    return answers


@pytest.fixture(scope="module")
def families() -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(VECTORS.glob("*.json"))]


@pytest.fixture(scope="module")
def cases(families) -> list[dict]:
    return [case for family in families for case in family["cases"]]


def question(case: dict, *keys: str) -> dict:
    return {k: case[k] for k in ("type", "given", *keys) if k in case}


def test_decode(cases):
    for case, answer in zip(cases, batch("decode", [question(c, "hex") for c in cases]), strict=True):
        assert answer == {"ok": True, "fields": case["fields"]}, case["name"]


def test_encode(cases):
    both = [c for c in cases if not c.get("decode_only")]
    for case, answer in zip(both, batch("encode", [question(c, "fields") for c in both]), strict=True):
        assert answer == {"ok": True, "hex": case["hex"]}, case["name"]


def test_refuse(families):
    invalid = [case for family in families for case in family["invalid"]]
    for case, answer in zip(invalid, batch("decode", [question(c, "hex") for c in invalid]), strict=True):
        assert answer["ok"] is False, (case["name"], case["why"])
        assert answer["error"]
        assert isinstance(answer["offset"], int)


def test_lines_that_are_no_question():
    """One bad line spoils its own answer alone."""
    ping = {"type": "ping_params", "hex": ""}
    done = cli("wire", "decode", "--batch", stdin="\n".join(["{", "[]", "{}", '{"type":"nonsense","hex":""}',
               '{"type":"ping_params","hex":"zz"}', '{"type":7,"hex":5}', json.dumps(ping)]) + "\n")  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["ok"] for a in answers] == [False] * 6 + [True]
    assert "Traceback" not in done.stderr


def test_one_at_a_time():
    done = cli("wire", "decode", "ping_result", "--hex", "00000000000000ff")
    assert done.returncode == 0
    assert json.loads(done.stdout)["uptime_secs"] == "0x00000000000000ff"
    done = cli("wire", "encode", "ping_result", stdin='{"uptime_secs": "0x00000000000000ff"}')
    assert done.stdout.strip() == "00000000000000ff"
    types = cli("wire", "--types").stdout.split()
    assert {"frame", "token", "lease_alloc_params", "page_query_response", "ofi_request"} <= set(types)
