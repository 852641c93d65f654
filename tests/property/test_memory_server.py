"""FBMU's server and the model of D10 answer alike, byte for byte, and leave the same behind, however datagrams come."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from fbmu_rig import LEASE, LENGTH, FbmuRig, question, read, write
from hypothesis import given
from hypothesis import strategies as st
from plane_model import Model

from fabricbios.dataplane.slots import SLOT, WINDOW_WORDS, SlotState
from fabricbios.model import DpAuth, DpOp, DpStatus

ODD_VALUES = {
    "op": (DpOp.HELLO, DpOp.PING, DpOp.READ_RESP),
    "offset": (LENGTH - 8, LENGTH - 1, LENGTH, 2**64 - 1),
    "length": (0, 17, 1404, 1405, 1408, 1409, 2**32 - 1),
    "payload": (b"", bytes(11), struct.pack(">QI", 0, 1024)[:11], bytes(12), bytes(1416), bytes(1417)),
    "lease_id": (LEASE.lease_id + 1,),
    "request_id": (0,),
    "flags": (1,),
    "payload_len": (0, 12, 20),
    "data": (b"", b"short", bytes(1404), bytes(1405)),
    "bit": tuple(range(0, 80 * 8, 7)),
    "cut": (1, 15, 40, 55, 56, 60, 67),
}
ODDITIES = st.sampled_from(list(ODD_VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(ODD_VALUES[name]))
)
LENGTHS = st.sampled_from((1, 4, 4, 4, 16))  # of a few lengths, so that trains are longer than one datagram
LONGEST = 1500  # bytes of a payload: past any that a server takes
STEPS = st.sampled_from((1,) * 8 + (2, 3, 8, 0, -1, -2, -9, -1023, -1024, 1000, 1024, 5000))


def datagram(auth: DpAuth, nonce: int, op: int, offset: int, length: int, odd: dict[str, Any]) -> bytes:
    """Return a READ or WRITE that is ordinary but for what is `odd`."""
    op, offset, length = odd.get("op", op), odd.get("offset", offset), odd.get("length", length)
    plain = bytes(range(1, 1 + min(length, 200))) if op == DpOp.WRITE else bytes(min(length, LONGEST))
    payload = odd.get("payload", struct.pack(">QI", offset, length) + odd.get("data", plain))
    how = {name: odd[name] for name in ("lease_id", "request_id", "flags", "payload_len") if name in odd}
    made = bytearray(question(op, payload[:LONGEST], nonce, auth=auth, **how))
    if "bit" in odd and odd["bit"] < 8 * len(made):
        made[odd["bit"] // 8] ^= 1 << odd["bit"] % 8
    return bytes(made[: odd.get("cut")])


@st.composite
def batches(draw: st.DrawFn, auth: DpAuth) -> list[list[bytes]]:
    """Return some batches of up to eight, most questions in order and half of them ordinary."""
    nonce, made = draw(st.sampled_from((0, 0, 0, 5000, 2**64 - 20))), []
    for _ in range(draw(st.integers(1, 4))):
        made.append([])
        for _ in range(draw(st.integers(1, 8))):
            nonce = max(0, min(2**64 - 1, nonce + draw(STEPS)))
            odd = dict([draw(ODDITIES)] if draw(st.booleans()) else [])
            op, offset, length = draw(st.sampled_from((DpOp.READ, DpOp.WRITE))), draw(st.integers(0, 64)), draw(LENGTHS)
            made[-1].append(datagram(auth, nonce, op, offset, length, odd))
    return made


STATES = st.sampled_from((SlotState.ACTIVE,) * 4 + (SlotState.ENDED, SlotState.FENCED))
CLOCKS = st.sampled_from((0, 0, 0, LEASE.expires_ns - 1, LEASE.expires_ns))


def held_against(rig: FbmuRig, model: Model, batch: list[bytes], state: SlotState) -> None:
    """Ask both; what they answered, hold and counted must be the same."""
    counted, slot = model.counted, rig.table.find(model.lease.lease_id)
    assert slot is not None
    expected = [model.answer(one, rig.now, state) for one in batch]
    assert rig.ask_together(batch) == [answer for answer in expected if answer is not None]
    assert rig.bytes == model.data
    assert rig.drops() == {reason: n for reason, n in model.drops.items() if n}
    assert sum(rig.tally.requests) == model.statuses.total()
    assert {status: rig.tally.statuses[status] for status in DpStatus if rig.tally.statuses[status]} == model.statuses
    assert (rig.tally.bytes_read, rig.tally.bytes_written) == (counted["bytes_read"], counted["bytes_written"])
    moved, rejects = (
        counted["bytes_read"] + counted["bytes_written"],
        model.statuses.total() - model.statuses[DpStatus.OK],
    )
    assert rig.table.counters(slot) == (counted["reads"], counted["writes"], moved, rejects)


@given(st.data(), st.sampled_from(DpAuth), st.sampled_from((0, 1, 2, 3, 3, 3)))
def test_the_server_is_the_model(data: st.DataObject, auth: DpAuth, rights: int) -> None:
    rig, lease = FbmuRig(), LEASE._replace(auth=auth, rights=rights)
    slot, model = rig.open(lease), Model(lease, bytearray(rig.bytes))
    for batch in data.draw(batches(auth)):
        state, rig.now = data.draw(STATES), data.draw(CLOCKS)
        rig.table.set_state(slot, state)
        held_against(rig, model, batch, state)


@st.composite
def trains(draw: st.DrawFn, auth: DpAuth) -> list[list[bytes]]:
    """Return some batches of one op and one length each, long enough to be looked at together, odd in few or in all."""
    nonce, made = draw(st.sampled_from((0, 0, 5000, 2**64 - 40))), []
    for _ in range(draw(st.integers(1, 3))):
        op, length, count = draw(st.sampled_from((DpOp.READ, DpOp.WRITE))), draw(LENGTHS), draw(st.integers(7, 20))
        odd = dict([draw(ODDITIES)])
        odd_ones = draw(st.sets(st.integers(0, count - 1), max_size=2) | st.just(set(range(count))))
        made.append([])
        for i in range(count):
            nonce = max(0, min(2**64 - 1, nonce + (draw(STEPS) if i in odd_ones else 1)))
            offset = draw(st.integers(0, 64))
            made[-1].append(datagram(auth, nonce, op, offset, length, odd if i in odd_ones else {}))
        if draw(st.booleans()):
            made.append(draw(st.sampled_from((made[-1], made[-1][::-1]))))  # once more, and the other way round
    return made


@given(st.data(), st.sampled_from(DpAuth), st.sampled_from((0, 1, 2, 3, 3, 3)))
def test_the_server_is_the_model_for_long_trains(data: st.DataObject, auth: DpAuth, rights: int) -> None:
    rig, lease = FbmuRig(), LEASE._replace(auth=auth, rights=rights)
    slot, model = rig.open(lease), Model(lease, bytearray(rig.bytes))
    for batch in data.draw(trains(auth)):
        state, rig.now = data.draw(STATES), data.draw(CLOCKS)
        rig.table.set_state(slot, state)
        held_against(rig, model, batch, state)


@pytest.mark.parametrize("auth", DpAuth)
@pytest.mark.parametrize("name", ODD_VALUES)
@pytest.mark.parametrize("odd_ones", [(3,), range(16)], ids=["one", "all"])
def test_each_oddity_in_a_train(auth: DpAuth, name: str, odd_ones: Sequence[int]) -> None:
    for value, op in itertools.product(ODD_VALUES[name], (DpOp.READ, DpOp.WRITE)):
        rig, lease = FbmuRig(), LEASE._replace(auth=auth)
        rig.open(lease)
        train = [datagram(auth, i + 1, op, 8 * i, 16, {name: value} if i in odd_ones else {}) for i in range(16)]
        model = Model(lease, bytearray(rig.bytes))
        for batch in (train, train):  # which is then replayed
            held_against(rig, model, batch, SlotState.ACTIVE)


def reads(*lengths: int) -> list[bytes]:
    return [read(8 * i, length, i + 1, 64) for i, length in enumerate(lengths)]


def writes(*nonces: int) -> list[bytes]:
    return [write(4 * i, bytes([nonce] * 8), nonce) for i, nonce in enumerate(nonces)]


@pytest.mark.parametrize(
    "batches",
    [
        [reads(*[8] * 9, 0, 16, *[8] * 9)],
        [writes(*range(20, 0, -1))],
        [writes(*range(1, 9), 12, 9, 10, 11, *range(13, 20))],
        [writes(*range(1, 9)), writes(*range(3, 12))],
        [writes(100), writes(*range(50, 60)), writes(*range(95, 105))],
    ],
    ids=["lengths", "backwards", "one too early", "some twice", "late"],
)
def test_trains_that_are_not_of_a_piece(batches: list[list[bytes]]) -> None:
    rig = FbmuRig()
    rig.open()
    model = Model(LEASE, bytearray(rig.bytes))
    for batch in batches:
        held_against(rig, model, batch, SlotState.ACTIVE)


@pytest.mark.parametrize("op", [DpOp.HELLO, DpOp.PING])
@pytest.mark.parametrize("state", [SlotState.ACTIVE, SlotState.ENDED, SlotState.FENCED])
def test_trains_of_other_questions(op: DpOp, state: SlotState) -> None:
    rig = FbmuRig()
    rig.table.set_state(rig.open(), state)
    named = LEASE.lease_id.to_bytes(16, "big") if op == DpOp.HELLO else b""
    train = [question(op, bytes(16) if named and i == 9 else named, i) for i in range(17)]
    held_against(rig, Model(LEASE, bytearray(rig.bytes)), train, state)
    assert rig.drops() == {"malformed": 2 if named else 1}


@pytest.mark.parametrize("auth", DpAuth)
@pytest.mark.parametrize("name", ODD_VALUES)
def test_each_oddity_alone(auth: DpAuth, name: str) -> None:
    for value, op in itertools.product(ODD_VALUES[name], (DpOp.READ, DpOp.WRITE)):
        rig, lease = FbmuRig(), LEASE._replace(auth=auth)
        rig.open(lease)
        held_against(
            rig, Model(lease, bytearray(rig.bytes)), [datagram(auth, 1, op, 0, 16, {name: value})], SlotState.ACTIVE
        )


def test_a_word_that_the_kernel_path_marked_first_is_believed() -> None:
    """XDP marks the window's word, then raises `highest`: between the two only the word knows of a nonce."""
    rig = FbmuRig()
    slot = rig.open()
    SLOT.set(rig.table.buffer, slot * SLOT.size, "window", (1 << 3, *[0] * (WINDOW_WORDS - 1)))
    assert rig.ask(read(0, 1, 3)) is None
    assert rig.drops() == {"replayed": 1}
