"""Golden FBMU datagrams through the XDP program: each question answered with the golden answer, byte for byte."""

from collections.abc import Iterator
from typing import Any

import pytest
from vectors.golden import family
from xdp_rig import XdpRig, require_bpf

from fabricbios.dataplane.slots import Extent, Plane, SlotLease
from fabricbios.model import DpAuth, DpOp

HELLO_LENGTH = 0x100000  # the resource_len of the golden HELLO_ACKs
QUESTIONS = {"fbmu_hello", "fbmu_read", "fbmu_write", "fbmu_ping"}
SEALED = [c for c in family("fbmu")["cases"] if "dp_key" in c["given"] and c["given"].get("transport") != "quic"]
ASKED = [c for c in SEALED if c["type"] in QUESTIONS]
REFUSED = [c for c in family("fbmu")["invalid"] if c["type"] in QUESTIONS and "dp_key" in c["given"]]


@pytest.fixture(scope="module")
def rig() -> Iterator[XdpRig]:
    require_bpf()
    rig = XdpRig()
    yield rig
    rig.close()


@pytest.fixture(autouse=True)
def _fresh(rig: XdpRig) -> None:
    rig.fresh()


def lease_of(case: dict[str, Any], datagram: bytes) -> SlotLease:
    """Return a lease under which the question is in range: its bytes stand at address 0, wherever it says they are."""
    lease_id, key = int.from_bytes(datagram[16:32], "big"), bytes.fromhex(case["given"]["dp_key"])
    offset = int.from_bytes(datagram[56:64], "big") if len(datagram) >= 64 and datagram[5] != DpOp.HELLO else 0
    length = HELLO_LENGTH if datagram[5] == DpOp.HELLO else (1 << 64) - 1
    extent = Extent(-offset % (1 << 64), length)
    return SlotLease(lease_id, Plane.FBMU, extent, 3, DpAuth(case["given"]["dp_auth"]), key, 1, 0, 1408, 1404)


def answer_to(question: bytes) -> dict[str, Any] | None:
    """Return the golden answer that repeats the question's request_id, lease_id and nonce."""
    for case in SEALED:
        raw = bytes.fromhex(case["hex"])
        if case["type"] not in QUESTIONS and raw[12:40] == question[12:40] and raw[5] != DpOp.ERROR:
            return case
    return None


def case_id(case: dict[str, Any]) -> str:
    return f"{case['type']}: {case['name']}"


@pytest.mark.parametrize("case", ASKED, ids=case_id)
def test_a_golden_question_draws_the_golden_answer(rig: XdpRig, case: dict[str, Any]) -> None:
    question = bytes.fromhex(case["hex"])
    v6 = case["given"].get("ip") == 6
    rig.open(lease_of(case, question))
    golden = answer_to(question)
    if golden is not None and golden["type"] == "fbmu_read_resp":
        data = bytes.fromhex(golden["fields"]["payload"]["data"])
        rig.memory.view[: len(data)] = data
    answer = rig.ask(question, v6=v6)
    assert answer is not None, rig.drops()
    assert answer[12:40] == question[12:40]
    if golden is not None:
        assert answer.hex() == golden["hex"]
    if case["type"] == "fbmu_write":
        data = bytes.fromhex(case["fields"]["payload"]["data"])
        assert bytes(rig.memory.view[: len(data)]) == data


def test_enough_golden_questions_have_golden_answers() -> None:
    assert sum(answer_to(bytes.fromhex(c["hex"])) is not None for c in ASKED) >= 12


@pytest.mark.parametrize("case", REFUSED, ids=case_id)
def test_a_golden_bad_question_moves_no_byte(rig: XdpRig, case: dict[str, Any]) -> None:
    question = bytes.fromhex(case["hex"])
    if len(question) >= 56:
        rig.open(lease_of(case, question))
    rig.memory.view[:] = b"\xa5" * len(rig.memory.view)
    answer = rig.ask(question)
    assert bytes(rig.memory.view) == b"\xa5" * len(rig.memory.view)
    if "payload size must match length" in case["why"]:
        assert answer is not None
        assert answer[56] == 5
    else:
        assert answer is None
