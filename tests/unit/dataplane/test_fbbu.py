"""FBBU's checks and answers (D10) on real files, every one through the code that serves a socket."""

import errno
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_descriptors
from fbbu_rig import BASE, BLOCKS, FILE_BYTES, LEASE, FbbuRig, ask_block, read_block, write_block
from fbmu_rig import KEY, LEASE_ID

from fabricbios.dataplane import fbbu
from fabricbios.dataplane.counters import CountedOp
from fabricbios.dataplane.fbbu import Sync
from fabricbios.dataplane.slots import Extent, Plane, SlotState
from fabricbios.model import BLOCK_SIZE, DpAuth, DpOp, DpStatus
from fabricbios.wire import Tagger

MODES = list(DpAuth)
HELLO = LEASE_ID.to_bytes(16, "big")
ONE = b"\xa5" * BLOCK_SIZE


@pytest.fixture
def rig(tmp_path: Path) -> FbbuRig:
    return FbbuRig(tmp_path / "disk")


def status_of(answer: bytes | None) -> DpStatus:
    assert answer is not None
    return DpStatus(answer[56])


@pytest.mark.parametrize("auth", MODES)
@pytest.mark.parametrize("count", [1, 2])
def test_what_was_written_is_read_in_every_mode(rig: FbbuRig, auth: DpAuth, count: int) -> None:
    rig.open(LEASE._replace(auth=auth))
    data = os.urandom(count * BLOCK_SIZE)
    answer = rig.ask(write_block(5, data, 1, auth=auth))
    assert answer is not None
    assert (answer[5], answer[56:]) == (DpOp.WRITE_RESP, bytes(4))
    assert rig.content() == bytes(5 * BLOCK_SIZE) + data + bytes((BLOCKS - 5 - count) * BLOCK_SIZE)
    answer = rig.ask(read_block(5, count, 2, auth=auth))
    assert answer is not None
    assert answer[56:] == struct.pack(">B3xI", 0, count) + data
    assert rig.drops() == {}


@pytest.mark.parametrize("auth", MODES)
def test_an_answer_repeats_the_question_and_has_its_tag(rig: FbbuRig, auth: DpAuth) -> None:
    rig.open(LEASE._replace(auth=auth))
    asked = read_block(3, 2, 9, padding=1020, auth=auth)
    answer = rig.ask(asked)
    assert answer is not None
    assert len(answer) <= len(asked)
    assert answer[12:40] == asked[12:40]
    whole = Tagger(auth, KEY).tag(answer[:40] + answer[56:])
    assert answer[40:56] == (asked[40:56] if auth == DpAuth.HMAC_HEADER else whole)


@pytest.mark.parametrize("auth", MODES)
@pytest.mark.parametrize("at", [6, 8, 12, 16, 33, 40, 55, 57, 67])
def test_one_bit_off_is_dropped(rig: FbbuRig, auth: DpAuth, at: int) -> None:
    rig.open(LEASE._replace(auth=auth))
    asked = bytearray(read_block(0, auth=auth))
    asked[at] ^= 1
    assert rig.ask(bytes(asked)) is None
    assert sum(rig.drops().values()) == 1
    assert rig.ask(read_block(0, auth=auth)) is not None


@pytest.mark.parametrize(("family", "blocks"), [(socket.AF_INET, 2), (socket.AF_INET6, 2)])
def test_hello_tells_the_geometry(tmp_path: Path, family: socket.AddressFamily, blocks: int) -> None:
    rig = FbbuRig(tmp_path / "disk", family=family)
    rig.open()
    answer = rig.ask(ask_block(DpOp.HELLO, HELLO))
    assert answer is not None
    assert answer[56:] == struct.pack(">B3xIQI", 0, BLOCK_SIZE, BLOCKS, blocks)


def test_hello_tells_the_smaller_of_two_limits(rig: FbbuRig) -> None:
    rig.open(LEASE._replace(max_write=1023))
    answer = rig.ask(ask_block(DpOp.HELLO, HELLO))
    assert answer is not None
    assert struct.unpack_from(">B3xIQI", answer, 56)[3] == 1


def test_ping_draws_an_empty_pong(rig: FbbuRig) -> None:
    rig.open()
    answer = rig.ask(ask_block(DpOp.PING, b"padded"))
    assert answer is not None
    assert (answer[5], len(answer)) == (DpOp.PONG, 56)


REFUSED = {
    "no block": (read_block(0, 0), DpStatus.BAD_LENGTH),
    "three blocks": (read_block(0, 3), DpStatus.BAD_LENGTH),
    "2^32 - 1 blocks": (read_block(0, 0xFFFFFFFF), DpStatus.BAD_LENGTH),
    "the first block after the end": (read_block(BLOCKS), DpStatus.OUT_OF_RANGE),
    "one of two after the end": (read_block(BLOCKS - 1, 2), DpStatus.OUT_OF_RANGE),
    "an index whose bytes wrap 2^64": (read_block(1 << 55), DpStatus.OUT_OF_RANGE),
    "the last index of all": (read_block((1 << 64) - 1), DpStatus.OUT_OF_RANGE),
    "write of no block": (write_block(0, b""), DpStatus.BAD_LENGTH),
    "write of half a block": (write_block(0, bytes(256), count=1), DpStatus.BAD_LENGTH),
    "write with a byte too many": (write_block(0, bytes(513), count=1), DpStatus.BAD_LENGTH),
    "write that says two and has one": (write_block(0, ONE, count=2), DpStatus.BAD_LENGTH),
    "write after the end": (write_block(BLOCKS, ONE), DpStatus.OUT_OF_RANGE),
    "write across the end": (write_block(BLOCKS - 1, ONE * 2), DpStatus.OUT_OF_RANGE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_have_their_status_no_data_and_no_effect(rig: FbbuRig, what: str) -> None:
    rig.open()
    asked, status = REFUSED[what]
    answer = rig.ask(asked)
    assert answer is not None
    assert status_of(answer) == status
    assert answer[57:] == (bytes(7) if asked[5] == DpOp.READ else bytes(3))
    assert rig.file.read_bytes() == bytes(FILE_BYTES)


@pytest.mark.parametrize(("rights", "asked"), [(2, read_block(0)), (1, write_block(0, ONE))])
def test_without_the_right_nothing_is_in_range(rig: FbbuRig, rights: int, asked: bytes) -> None:
    rig.open(LEASE._replace(rights=rights))
    assert status_of(rig.ask(asked)) == DpStatus.OUT_OF_RANGE
    assert not any(rig.content())


MALFORMED = {
    "half a header": read_block(0)[:55],
    "one byte more": read_block(0) + b"\0",
    "FBMU on this port": ask_block(DpOp.PING, head=b"FBMU\x01"),
    "FBBT": ask_block(DpOp.PING, head=b"FBBT\x01"),
    "version 0": ask_block(DpOp.PING, head=b"FBBU\0"),
    "a flag": ask_block(DpOp.PING, flags=1),
    "ERROR": ask_block(DpOp.ERROR, bytes(4)),
    "an answer": ask_block(DpOp.READ_RESP, bytes(8)),
    "nonce zero": read_block(0, nonce=0),
    "request_id zero": read_block(0, request_id=0),
    "parameters cut": ask_block(DpOp.READ, bytes(11)),
    "HELLO for another lease": ask_block(DpOp.HELLO, (LEASE_ID + 1).to_bytes(16, "big")),
    "1473 bytes": ask_block(DpOp.PING, bytes(1473 - 56)),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_is_dropped_and_spends_no_nonce(rig: FbbuRig, what: str) -> None:
    rig.open()
    assert rig.ask(MALFORMED[what]) is None
    assert rig.drops() == {"malformed": 1}
    assert rig.ask(read_block(0)) is not None


def test_drops_by_reason(rig: FbbuRig) -> None:
    rig.open()
    rig.open(LEASE._replace(lease_id=2, plane=Plane.FBMU))
    assert rig.ask(read_block(0, nonce=5000)) is not None
    for asked in (read_block(0, nonce=5000), read_block(0, nonce=3976), read_block(0, nonce=5001, key=bytes(32)),
                  read_block(0, lease_id=1), read_block(0, lease_id=2)):  # fmt: skip
        assert rig.ask(asked) is None
    assert rig.drops() == {"replayed": 1, "too_old": 1, "bad_tag": 1, "unknown_lease": 1, "wrong_plane": 1}


def test_a_late_write_never_overwrites_a_newer_one(rig: FbbuRig) -> None:
    rig.open()
    rig.ask(write_block(0, ONE, 10))
    assert status_of(rig.ask(write_block(0, bytes(BLOCK_SIZE), 9))) == DpStatus.STALE_WRITE
    assert rig.content()[:BLOCK_SIZE] == ONE


def test_expired_ended_and_fenced_answer_so(rig: FbbuRig) -> None:
    slot = rig.open()
    rig.now = LEASE.expires_ns
    assert status_of(rig.ask(write_block(0, ONE, 1))) == DpStatus.EXPIRED
    rig.now = 0
    for nonce, state, status in ((2, SlotState.ENDED, DpStatus.EXPIRED), (3, SlotState.FENCED, DpStatus.FENCED)):
        rig.table.set_state(slot, state)
        assert status_of(rig.ask(write_block(0, ONE, nonce))) == status
    answer = rig.ask(ask_block(DpOp.HELLO, HELLO, 4))
    assert answer is not None
    assert answer[56:] == bytes([DpStatus.FENCED]) + bytes(19)
    assert not any(rig.content())


def test_requests_bytes_and_statuses_are_counted(rig: FbbuRig) -> None:
    slot = rig.open()
    rig.ask(write_block(0, ONE * 2, 1))
    rig.ask(read_block(0, 1, 2))
    rig.ask(read_block(99, 1, 3))
    rig.tally.publish()
    assert (rig.asked(CountedOp.READ), rig.asked(CountedOp.WRITE)) == (2, 1)
    assert (rig.tally.bytes_read, rig.tally.bytes_written) == (BLOCK_SIZE, 2 * BLOCK_SIZE)
    assert rig.table.counters(slot) == (1, 1, 3 * BLOCK_SIZE, 1)
    assert rig.tally.statuses[DpStatus.OUT_OF_RANGE] == 1


class Flushes:
    """Counts fdatasync(2), and fails it when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.fails, self._real = 0, False, os.fdatasync
        monkeypatch.setattr(fbbu.os, "fdatasync", self)

    def __call__(self, fd: int) -> None:
        self.calls += 1
        if self.fails:
            raise OSError(errno.EIO, "lost")
        self._real(fd)


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> Flushes:
    return Flushes(monkeypatch)


def test_one_flush_a_batch_and_none_for_reads(rig: FbbuRig, flushes: Flushes) -> None:
    rig.open()
    assert len(rig.ask_together([write_block(0, ONE, 1), read_block(0, 1, 2), write_block(1, ONE, 3)])) == 3
    assert flushes.calls == 1
    rig.ask(read_block(0, 1, 4))
    rig.ask(write_block(99, ONE, 5))
    assert flushes.calls == 1


def test_sync_none_flushes_nothing(tmp_path: Path, flushes: Flushes) -> None:
    rig = FbbuRig(tmp_path / "disk", Sync.NONE)
    rig.open()
    assert status_of(rig.ask(write_block(0, ONE))) == DpStatus.OK
    assert flushes.calls == 0


def test_what_could_not_be_made_durable_is_never_acknowledged(rig: FbbuRig, flushes: Flushes) -> None:
    other = LEASE._replace(lease_id=2, extent=Extent(0, BLOCK_SIZE))
    rig.open()
    rig.open(other)
    flushes.fails = True
    (answer,) = rig.ask_together([write_block(0, ONE, 1), read_block(0, 1, 1, lease_id=2)])
    assert answer[5] == DpOp.READ_RESP  # of another lease
    assert rig.drops() == {"internal": 1}
    flushes.fails = False  # the kernel has forgotten, we have not
    assert status_of(rig.ask(write_block(0, ONE, 2))) == DpStatus.INTERNAL
    assert status_of(rig.ask(read_block(0, 1, 3))) == DpStatus.INTERNAL
    assert status_of(rig.ask(write_block(0, ONE, 2, lease_id=2))) == DpStatus.OK


def test_a_long_train_is_written_and_read_and_not_acknowledged_where_it_failed(rig: FbbuRig, flushes: Flushes) -> None:
    rig.open()
    blocks = [bytes([i]) * BLOCK_SIZE for i in range(20)]
    written = [write_block(i, block, 1 + i) for i, block in enumerate(blocks)]
    assert [status_of(answer) for answer in rig.ask_together(written)] == [DpStatus.OK] * 20
    answers = rig.ask_together([read_block(i + 14, 1, 21 + i, padding=508) for i in range(20)])
    assert [answer[64:] for answer in answers] == blocks[14:] + [bytes(BLOCK_SIZE)] * 12 + [b""] * 2
    assert flushes.calls == 1
    flushes.fails = True
    again = rig.ask_together([write_block(i, ONE, 41 + i) for i in range(20)])
    assert (again, rig.drops()) == ([], {"internal": 20})


def test_errors_are_counted_by_store_and_by_what_failed(
    rig: FbbuRig, flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (counted,) = rig.faults
    rig.open()
    rig.ask(read_block(0, 1, 1))
    assert counted.read() == (0, 0, 0, 0)
    flushes.fails = True
    rig.ask(write_block(0, ONE, 2))
    assert counted.read() == (0, 0, 1, errno.EIO)
    other = LEASE._replace(lease_id=2)
    rig.open(other)
    for call, asked in (("pread", read_block(0, 1, 1, lease_id=2)), ("pwrite", write_block(0, ONE, 2, lease_id=2))):
        with monkeypatch.context() as broken:
            broken.setattr(fbbu.os, call, raising(errno.ENXIO))
            rig.ask(asked)
    assert counted.read() == (1, 1, 1, errno.ENXIO)


def raising(number: int) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_store_comes_and_goes_under_a_lease_that_lives(rig: FbbuRig) -> None:
    """Nothing reaches another file by a number that was its own, nor is anything acknowledged."""
    rig.open()
    assert status_of(rig.ask(write_block(0, ONE, 1))) == DpStatus.OK
    before = open_descriptors()
    rig.stores.refit(0, os.open("/", os.O_PATH))
    assert status_of(rig.ask(read_block(0, 1, 2))) == DpStatus.INTERNAL
    assert status_of(rig.ask(write_block(0, ONE, 3))) == DpStatus.INTERNAL
    rig.stores.refit(0, os.open(rig.file, os.O_RDWR))
    assert rig.ask(read_block(0, 1, 4))[64:] == ONE  # type: ignore[index]
    assert status_of(rig.ask(write_block(1, ONE, 5))) == DpStatus.OK
    assert open_descriptors() <= before


def test_a_store_that_cannot_be_opened_stops_no_server(tmp_path: Path) -> None:
    dead = os.open("/", os.O_PATH)
    stores = fbbu.Stores([(dead, 1 << 20)])
    span = stores.span(Extent(0, 512, 0))
    assert (span.bytes_at(0, 512), span.write(0, ONE), span.is_whole(), span.flush()) == (None, False, False, False)
    stores.close()


@pytest.mark.parametrize("asked", [read_block(BLOCKS - 1), write_block(BLOCKS - 1, ONE), write_block(0, ONE)])
def test_a_file_cut_short_under_a_live_lease_is_internal_and_stays_short(rig: FbbuRig, asked: bytes) -> None:
    rig.open()
    os.truncate(rig.file, BASE + BLOCK_SIZE)
    assert status_of(rig.ask(asked)) == DpStatus.INTERNAL
    assert rig.file.stat().st_size == BASE + BLOCK_SIZE


@pytest.mark.parametrize(("call", "asked"), [("pread", read_block(0)), ("pwrite", write_block(0, ONE))])
def test_an_io_error_is_internal_without_data(
    rig: FbbuRig, monkeypatch: pytest.MonkeyPatch, call: str, asked: bytes
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "broken disk")

    rig.open()
    monkeypatch.setattr(fbbu.os, call, fail)
    answer = rig.ask(asked)
    assert answer is not None
    assert (status_of(answer), answer[57:]) == (DpStatus.INTERNAL, bytes(7 if asked[5] == DpOp.READ else 3))


def test_a_neighbours_blocks_are_out_of_reach(rig: FbbuRig) -> None:
    rig.open()
    for index in (BLOCKS, (1 << 64) - BASE // BLOCK_SIZE, 1 << 63):
        assert status_of(rig.ask(write_block(index, ONE, index % 1000 + 1 if index > 1 << 60 else 1))) != DpStatus.OK
    content = rig.file.read_bytes()
    assert not any(content[:BASE])
    assert not any(content[BASE + BLOCKS * BLOCK_SIZE :])


VECTORS = Path(__file__).parents[2] / "vectors" / "data" / "fbbu.json"
FAMILY: dict[str, list[dict[str, Any]]] = json.loads(VECTORS.read_text())
ASKED = {"fbbu_hello", "fbbu_read_block", "fbbu_write_block", "fbbu_ping"}


def golden(kind: str) -> list[Any]:
    """Return the questions that are datagrams."""
    asked = [c for c in FAMILY[kind] if c["type"] in ASKED and c["given"].get("transport") != "quic"]
    return [pytest.param(c, id=c["name"]) for c in asked]


def ask_golden(tmp_path: Path, case: dict[str, Any]) -> tuple[bytes | None, FbbuRig]:
    datagram, given = bytes.fromhex(case["hex"]), case["given"]
    rig = FbbuRig(tmp_path / "disk", family=socket.AF_INET6 if given.get("ip") == 6 else socket.AF_INET)
    lease_id = int.from_bytes(datagram[16:32].ljust(16, b"\1"), "big")
    rig.open(LEASE._replace(lease_id=lease_id, auth=DpAuth(given["dp_auth"]), dp_key=bytes.fromhex(given["dp_key"])))
    return rig.ask(datagram), rig


@pytest.mark.parametrize("case", golden("cases"))
def test_golden_questions_are_answered(tmp_path: Path, case: dict[str, Any]) -> None:
    answer, _ = ask_golden(tmp_path, case)
    assert answer is not None
    assert answer[12:40] == bytes.fromhex(case["hex"])[12:40]


@pytest.mark.parametrize("case", golden("invalid"))
def test_golden_invalid_questions_are_dropped_or_refused(tmp_path: Path, case: dict[str, Any]) -> None:
    """A WRITE whose count is not its payload's is authentic: D10 answers BAD_LENGTH."""
    answer, rig = ask_golden(tmp_path, case)
    if case["rule"] == "length":
        assert status_of(answer) == DpStatus.BAD_LENGTH
    else:
        assert answer is None
        assert sum(rig.drops().values()) == 1
    assert not any(rig.content())
