"""FBMU's checks and answers (D10), every one through the code that serves a socket."""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from fbmu_rig import KEY, LEASE, LEASE_ID, LENGTH, FbmuRig, question, read, write

from fabricbios.dataplane.counters import CountedOp
from fabricbios.dataplane.slots import Extent, Plane, SlotState
from fabricbios.model import DpAuth, DpOp, DpStatus
from fabricbios.wire import Tagger

MODES = list(DpAuth)


@pytest.fixture
def rig() -> FbmuRig:
    return FbmuRig()


def status_of(answer: bytes | None) -> DpStatus:
    assert answer is not None
    return DpStatus(answer[56])


@pytest.mark.parametrize("auth", MODES)
def test_what_was_written_is_read_in_every_mode(rig: FbmuRig, auth: DpAuth) -> None:
    rig.open(LEASE._replace(auth=auth))
    asked = write(100, b"leased", 1, auth=auth)
    answer = rig.ask(asked)
    assert answer is not None
    assert answer[5] == DpOp.WRITE_RESP
    assert rig.bytes[4096 + 100 : 4096 + 106] == b"leased"
    answer = rig.ask(read(100, 6, 2, auth=auth))
    assert answer is not None
    assert answer[56:] == struct.pack(">B3xI", 0, 6) + b"leased"
    assert rig.drops() == {}


@pytest.mark.parametrize("auth", MODES)
@pytest.mark.parametrize(
    "payload", [struct.pack(">QI", 5, 9), struct.pack(">QI", 5, 9) + b"pad", struct.pack(">QI", 1 << 63, 9)]
)
def test_an_answer_repeats_the_question_and_has_its_tag(rig: FbmuRig, auth: DpAuth, payload: bytes) -> None:
    rig.open(LEASE._replace(auth=auth))
    asked = question(DpOp.READ, payload, 3, auth=auth, request_id=0xABCDEF01)
    answer = rig.ask(asked)
    assert answer is not None
    assert answer[12:40] == asked[12:40]
    assert struct.unpack_from(">I", answer, 8)[0] == len(answer) - 56
    whole = Tagger(auth, KEY).tag(answer[:40] + answer[56:])
    assert answer[40:56] == (asked[40:56] if auth == DpAuth.HMAC_HEADER else whole)


@pytest.mark.parametrize("auth", MODES)
@pytest.mark.parametrize("at", [6, 8, 12, 16, 33, 39, 40, 55, 57, 67])
def test_one_bit_off_is_dropped(rig: FbmuRig, auth: DpAuth, at: int) -> None:
    rig.open(LEASE._replace(auth=auth))
    asked = bytearray(read(0, 8, 1, auth=auth))
    asked[at] ^= 1
    assert rig.ask(bytes(asked)) is None
    assert sum(rig.drops().values()) == 1
    assert rig.ask(read(0, 8, 1, auth=auth)) is not None  # and the nonce is not spent


def test_hmac_header_covers_offset_and_length_but_not_data(rig: FbmuRig) -> None:
    rig.open(LEASE._replace(auth=DpAuth.HMAC_HEADER))
    asked = bytearray(write(0, b"abc", auth=DpAuth.HMAC_HEADER))
    asked[-1] ^= 1
    assert status_of(rig.ask(bytes(asked))) == DpStatus.OK


@pytest.mark.parametrize("auth", MODES[1:])
def test_the_other_modes_cover_the_data(rig: FbmuRig, auth: DpAuth) -> None:
    rig.open(LEASE._replace(auth=auth))
    asked = bytearray(write(0, b"abc", auth=auth))
    asked[-1] ^= 1
    assert rig.ask(bytes(asked)) is None
    assert rig.drops() == {"bad_tag": 1}


@pytest.mark.parametrize("auth", MODES)
def test_padding_is_ignored_whatever_it_says(rig: FbmuRig, auth: DpAuth) -> None:
    rig.open(LEASE._replace(auth=auth))
    for nonce, op, payload in ((1, DpOp.READ, struct.pack(">QI", 0, 4)), (2, DpOp.PING, b"")):
        asked = question(op, payload + b"not zero", nonce, auth=auth)
        assert rig.ask(asked) is not None


def test_hello_tells_length_and_limits(rig: FbmuRig) -> None:
    rig.open()
    answer = rig.ask(question(DpOp.HELLO, LEASE_ID.to_bytes(16, "big")))
    assert answer is not None
    assert answer[5] == DpOp.HELLO_ACK
    assert answer[56:] == struct.pack(">B3xQII", 0, LENGTH, 1408, 1404)


def test_hello_on_ipv6_tells_what_fits_there() -> None:
    rig = FbmuRig(socket.AF_INET6)
    rig.open()
    answer = rig.ask(question(DpOp.HELLO, LEASE_ID.to_bytes(16, "big")))
    assert answer is not None
    assert answer[56:] == struct.pack(">B3xQII", 0, LENGTH, 1388, 1384)
    assert status_of(rig.ask(read(0, 1389, 2))) == DpStatus.BAD_LENGTH
    assert rig.ask(question(DpOp.PING, bytes(1453 - 56), 3)) is None


def test_ping_draws_an_empty_pong(rig: FbmuRig) -> None:
    rig.open()
    answer = rig.ask(question(DpOp.PING, b"padded"))
    assert answer is not None
    assert (answer[5], len(answer)) == (DpOp.PONG, 56)


MALFORMED = {
    "no bytes": b"",
    "half a header": read(0, 1)[:55],
    "one byte short": read(0, 1)[:-1],
    "one byte more": read(0, 1) + b"\0",
    "another magic": question(DpOp.PING, head=b"FBMT\x01"),
    "FBBU on this port": question(DpOp.PING, head=b"FBBU\x01"),
    "version 0": question(DpOp.PING, head=b"FBMU\0"),
    "version 2": question(DpOp.PING, head=b"FBMU\2"),
    "a flag": question(DpOp.PING, flags=1),
    "op 0": question(0, bytes(12)),
    "op 0x12": question(0x12, bytes(12)),
    "ERROR": question(DpOp.ERROR, bytes(4)),
    "an answer": question(DpOp.READ_RESP, bytes(8)),
    "nonce zero": read(0, 1, 0),
    "request_id zero": read(0, 1, request_id=0),
    "parameters cut": question(DpOp.READ, bytes(11)),
    "a WRITE without parameters": question(DpOp.WRITE, bytes(11)),
    "HELLO of 15 bytes": question(DpOp.HELLO, LEASE_ID.to_bytes(16, "big")[:15]),
    "HELLO for another lease": question(DpOp.HELLO, (LEASE_ID + 1).to_bytes(16, "big")),
    "1473 bytes": question(DpOp.PING, bytes(1473 - 56)),
    "payload_len near 2^32": question(DpOp.READ, bytes(12), payload_len=0xFFFFFFFF),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_is_dropped_and_spends_no_nonce(rig: FbmuRig, what: str) -> None:
    rig.open()
    assert rig.ask(MALFORMED[what]) is None
    assert rig.drops() == {"malformed": 1}
    assert rig.ask(read(0, 1)) is not None


def test_a_stranger_and_another_plane_are_told_apart_in_the_counters(rig: FbmuRig) -> None:
    rig.open(LEASE._replace(lease_id=5, plane=Plane.FBBU))
    assert rig.ask(read(0, 1)) is None
    assert rig.ask(read(0, 1, lease_id=5)) is None
    assert rig.drops() == {"unknown_lease": 1, "wrong_plane": 1}


def test_a_replay_draws_nothing(rig: FbmuRig) -> None:
    rig.open()
    asked = write(0, b"once", 9)
    assert rig.ask(asked) is not None
    assert rig.ask(asked) is None
    assert rig.ask(read(0, 1, 9)) is None  # one space for all ops
    assert rig.drops() == {"replayed": 2}


def test_an_old_nonce_draws_nothing(rig: FbmuRig) -> None:
    rig.open()
    assert rig.ask(read(0, 1, 5000)) is not None
    assert rig.ask(read(0, 1, 5000 - 1024)) is None
    assert rig.ask(read(0, 1, 5000 - 1007)) is not None
    assert rig.drops() == {"too_old": 1}


def test_a_late_write_changes_nothing(rig: FbmuRig) -> None:
    rig.open()
    rig.ask(write(0, b"new", 10))
    assert status_of(rig.ask(write(0, b"old", 9))) == DpStatus.STALE_WRITE
    assert rig.bytes[4096:4099] == b"new"
    assert status_of(rig.ask(read(0, 1, 8))) == DpStatus.OK  # reads may be late


def test_a_refused_write_moves_no_mark(rig: FbmuRig) -> None:
    rig.open()
    assert status_of(rig.ask(write(LENGTH, b"x", 10))) == DpStatus.OUT_OF_RANGE
    assert status_of(rig.ask(write(0, b"x", 9))) == DpStatus.OK


@pytest.mark.parametrize("length", [0, 1409, 1 << 31, (1 << 32) - 1])
def test_a_read_of_a_wrong_length(rig: FbmuRig, length: int) -> None:
    rig.open()
    answer = rig.ask(read(0, length))
    assert status_of(answer) == DpStatus.BAD_LENGTH
    assert answer is not None
    assert answer[56:] == struct.pack(">B3xI", DpStatus.BAD_LENGTH, 0)


@pytest.mark.parametrize(
    ("data", "length"), [(b"", 0), (b"abc", 4), (b"abc", 2), (b"abc", 0), (b"a", (1 << 32) - 1), (bytes(1405), None)]
)
def test_a_write_of_a_wrong_length(rig: FbmuRig, data: bytes, length: int | None) -> None:
    rig.open()
    asked = write(0, data, length=length)
    if len(asked) > 1472:
        assert rig.ask(asked) is None
    else:
        assert status_of(rig.ask(asked)) == DpStatus.BAD_LENGTH
    assert not any(rig.bytes)


@pytest.mark.parametrize(
    ("offset", "length", "status"),
    [
        (0, 1408, DpStatus.OK),
        (LENGTH - 1, 1, DpStatus.OK),
        (LENGTH - 1, 2, DpStatus.OUT_OF_RANGE),
        (LENGTH, 1, DpStatus.OUT_OF_RANGE),
        ((1 << 64) - 1, 1, DpStatus.OUT_OF_RANGE),
        ((1 << 64) - 8, 16, DpStatus.OUT_OF_RANGE),
        ((1 << 64) - 4096, 1, DpStatus.OUT_OF_RANGE),
        (1 << 63, 1, DpStatus.OUT_OF_RANGE),
    ],
)
def test_nothing_outside_the_lease_is_touched(rig: FbmuRig, offset: int, length: int, status: DpStatus) -> None:
    rig.open()
    rig.bytes[:] = b"\xaa" * len(rig.bytes)
    assert status_of(rig.ask(read(offset, length, 1))) == status
    before = bytes(rig.bytes)
    assert status_of(rig.ask(write(offset, bytes(min(length, 1404)), 2))) == status
    assert rig.bytes[:4096] == before[:4096]
    assert rig.bytes[4096 + LENGTH :] == before[4096 + LENGTH :]


def test_rights_are_enforced_an_operation(rig: FbmuRig) -> None:
    rig.open(LEASE._replace(rights=1))
    assert status_of(rig.ask(read(0, 1, 1))) == DpStatus.OK
    assert status_of(rig.ask(write(0, b"x", 2))) == DpStatus.OUT_OF_RANGE
    rig.open(LEASE._replace(lease_id=6, rights=2))
    assert status_of(rig.ask(read(0, 1, 1, lease_id=6))) == DpStatus.OUT_OF_RANGE
    assert status_of(rig.ask(write(0, b"x", 2, lease_id=6))) == DpStatus.OK


QUESTIONS = {
    DpOp.HELLO: (LEASE_ID.to_bytes(16, "big"), DpOp.HELLO_ACK, 20),
    DpOp.READ: (struct.pack(">QI", 0, 4), DpOp.READ_RESP, 8),
    DpOp.WRITE: (struct.pack(">QI", 0, 4) + b"data", DpOp.WRITE_RESP, 4),
    DpOp.PING: (b"", DpOp.ERROR, 4),
}


@pytest.mark.parametrize("op", QUESTIONS)
def test_expiry_holds_to_the_nanosecond(rig: FbmuRig, op: DpOp) -> None:
    rig.open()
    payload, refusal, length = QUESTIONS[op]
    rig.now = 10**9 - 1
    answer = rig.ask(question(op, payload, 1))
    assert answer is not None
    assert len(answer) == 56 or status_of(answer) == DpStatus.OK
    rig.now += 1
    answer = rig.ask(question(op, payload, 2))
    assert answer is not None
    assert (answer[5], len(answer) - 56, status_of(answer)) == (refusal, length, DpStatus.EXPIRED)


def test_one_store_renews_revokes_and_fences(rig: FbmuRig) -> None:
    slot = rig.open()
    rig.now = 10**9
    assert status_of(rig.ask(read(0, 1, 1))) == DpStatus.EXPIRED
    rig.table.set_expiry(slot, 10**9 + 1)
    assert status_of(rig.ask(read(0, 1, 2))) == DpStatus.OK
    rig.table.set_state(slot, SlotState.ENDED)
    assert status_of(rig.ask(write(0, b"x", 3))) == DpStatus.EXPIRED
    rig.table.set_state(slot, SlotState.FENCED)
    assert status_of(rig.ask(read(0, 1, 4))) == DpStatus.FENCED
    rig.table.clear(LEASE_ID, 0)
    assert rig.ask(read(0, 1, 5)) is None
    assert rig.drops() == {"unknown_lease": 1}


def test_a_new_key_kills_the_old_one_and_empties_the_window(rig: FbmuRig) -> None:
    rig.open()
    rig.ask(write(0, b"x", 900))
    rig.table.rekey(LEASE._replace(dp_key=b"n" * 32), 0)
    assert rig.ask(read(0, 1, 901)) is None
    assert status_of(rig.ask(write(0, b"y", 1, key=b"n" * 32))) == DpStatus.OK
    assert rig.drops() == {"bad_tag": 1}


def test_a_slot_that_changed_hands_serves_the_new_lease_alone(rig: FbmuRig) -> None:
    for lease_id in range(1, 9):
        rig.open(LEASE._replace(lease_id=lease_id))
        assert rig.ask(read(0, 1, 1, lease_id=lease_id)) is not None
    rig.table.clear(3, now_ns=0)
    rig.table.install(LEASE._replace(lease_id=30, extent=Extent(40960, 64), dp_key=b"n" * 32), 10**9)
    assert rig.ask(read(0, 1, 2, lease_id=3)) is None
    assert status_of(rig.ask(read(64, 1, 1, lease_id=30, key=b"n" * 32))) == DpStatus.OUT_OF_RANGE


def test_questions_answers_and_bytes_are_counted(rig: FbmuRig) -> None:
    slot = rig.open()
    rig.ask(write(0, b"12345", 1))
    rig.ask(read(0, 3, 2))
    rig.ask(read(0, 0, 3))
    assert rig.table.counters(slot) == (1, 1, 8, 1)
    assert (rig.asked(CountedOp.READ), rig.asked(CountedOp.WRITE)) == (2, 1)
    assert (rig.tally.bytes_read, rig.tally.bytes_written) == (3, 5)
    assert (rig.tally.statuses[DpStatus.OK], rig.tally.statuses[DpStatus.BAD_LENGTH]) == (2, 1)


VECTORS = Path(__file__).parents[2] / "vectors" / "data" / "fbmu.json"
FAMILY: dict[str, list[dict[str, Any]]] = json.loads(VECTORS.read_text())
ASKED = {"fbmu_hello", "fbmu_read", "fbmu_write", "fbmu_ping"}


def golden(kind: str) -> list[Any]:
    """Return the questions that are datagrams."""
    cases = FAMILY.get(kind, [])
    asked = [c for c in cases if c["type"] in ASKED and c["given"].get("transport") != "quic"]
    return [pytest.param(c, id=c["name"]) for c in asked]


def rig_for(case: dict[str, Any], datagram: bytes) -> FbmuRig:
    given = case["given"]
    rig = FbmuRig(socket.AF_INET6 if given.get("ip") == 6 else socket.AF_INET)
    lease_id = int.from_bytes(datagram[16:32].ljust(16, b"\1"), "big")
    rig.open(LEASE._replace(lease_id=lease_id, auth=DpAuth(given["dp_auth"]), dp_key=bytes.fromhex(given["dp_key"])))
    return rig


@pytest.mark.parametrize("case", golden("cases"))
def test_golden_questions_are_answered(case: dict[str, Any]) -> None:
    datagram = bytes.fromhex(case["hex"])
    answer = rig_for(case, datagram).ask(datagram)
    assert answer is not None
    assert answer[12:40] == datagram[12:40]
    mode = DpAuth(case["given"]["dp_auth"])
    tag = Tagger(mode, bytes.fromhex(case["given"]["dp_key"])).tag(answer[:40] + answer[56:])
    assert answer[40:56] == (datagram[40:56] if mode == DpAuth.HMAC_HEADER else tag)


@pytest.mark.parametrize("case", golden("invalid"))
def test_golden_invalid_questions_are_dropped_or_refused(case: dict[str, Any]) -> None:
    """A WRITE whose length is not its payload's is authentic: D10 answers BAD_LENGTH."""
    datagram = bytes.fromhex(case["hex"])
    rig = rig_for(case, datagram)
    answer = rig.ask(datagram)
    if case["rule"] == "length":
        assert status_of(answer) == DpStatus.BAD_LENGTH
    else:
        assert answer is None
        assert sum(rig.drops().values()) == 1
    assert not any(rig.bytes)
