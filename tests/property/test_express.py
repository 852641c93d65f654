"""The short way of FBMU and the careful one answer alike, byte for byte, and leave the same behind."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from fbmu_rig import LEASE, LENGTH, FbmuRig, question, read, write
from hypothesis import given
from hypothesis import strategies as st

from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.slots import SLOT, WINDOW_WORDS, SlotState
from fabricbios.model import DpAuth, DpOp

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
    "cut": (0, 15, 40, 55, 56, 60, 67),
}
ODDITIES = st.sampled_from(list(ODD_VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(ODD_VALUES[name]))
)
LENGTHS = st.integers(1, 16)
STEPS = st.sampled_from((1,) * 8 + (2, 3, 8, 0, -1, -2, -9, -1023, -1024, 1000, 1024, 5000))


def datagram(auth: DpAuth, nonce: int, op: int, offset: int, length: int, odd: dict[str, Any]) -> bytes:
    """Return a READ or WRITE that is ordinary but for what is `odd`."""
    op, offset, length = odd.get("op", op), odd.get("offset", offset), odd.get("length", length)
    plain = bytes(range(1, 1 + min(length, 200))) if op == DpOp.WRITE else bytes(nonce % 5)
    payload = odd.get("payload", struct.pack(">QI", offset, length) + odd.get("data", plain))
    how = {name: odd[name] for name in ("lease_id", "request_id", "flags", "payload_len") if name in odd}
    made = bytearray(question(op, payload, nonce, auth=auth, **how))
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


@given(st.data(), st.sampled_from(DpAuth), st.sampled_from((0, 1, 2, 3, 3, 3)))
def test_both_ways_are_one(data: st.DataObject, auth: DpAuth, rights: int) -> None:
    rigs = FbmuRig(), FbmuRig(careful=True)
    slot = {rig.open(LEASE._replace(auth=auth, rights=rights)) for rig in rigs}.pop()
    for batch in data.draw(batches(auth)):
        state, now = data.draw(STATES), data.draw(CLOCKS)
        for rig in rigs:
            rig.now = now
            rig.table.set_state(slot, state)
        short, careful = (rig.ask_together(batch) for rig in rigs)
        assert short == careful
        assert rigs[0].bytes == rigs[1].bytes
        assert rigs[0].table.buffer == rigs[1].table.buffer
        assert rigs[0].record == rigs[1].record


@pytest.mark.parametrize("auth", DpAuth)
@pytest.mark.parametrize("name", ODD_VALUES)
def test_each_oddity_alone(auth: DpAuth, name: str) -> None:
    for value, op in itertools.product(ODD_VALUES[name], (DpOp.READ, DpOp.WRITE)):
        rigs = FbmuRig(), FbmuRig(careful=True)
        for rig in rigs:
            rig.open(LEASE._replace(auth=auth))
        short, careful = (rig.ask(datagram(auth, 1, op, 0, 16, {name: value})) for rig in rigs)
        assert (short, rigs[0].bytes, rigs[0].record) == (careful, rigs[1].bytes, rigs[1].record), value


def test_a_word_that_the_kernel_path_marked_first_is_believed() -> None:
    """XDP marks the window's word, then raises `highest`: between the two only the word knows of a nonce."""
    for rig in (FbmuRig(), FbmuRig(careful=True)):
        slot = rig.open()
        SLOT.set(rig.table.buffer, slot * SLOT.size, "window", (1 << 3, *[0] * (WINDOW_WORDS - 1)))
        assert rig.ask(read(0, 1, 3)) is None
        assert rig.drops() == {"replayed": 1}


@pytest.mark.parametrize("auth", DpAuth)
def test_ordinary_questions_do_take_the_short_way(monkeypatch: pytest.MonkeyPatch, auth: DpAuth) -> None:
    """Otherwise the test above would compare the careful way with itself."""
    monkeypatch.setattr(Responder, "respond", None)
    rig = FbmuRig()
    rig.open(LEASE._replace(auth=auth))
    mode = {"auth": auth}
    assert all(rig.ask_together([write(0, b"abc", 1, **mode), read(0, 3, 2, **mode), read(1, 2, 5000, **mode)]))
    with pytest.raises(TypeError):
        rig.ask(read(0, 3, 4999, **mode))
