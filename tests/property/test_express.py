"""The short way of FBMU and the careful one answer alike, byte for byte, and leave the same behind."""

from __future__ import annotations

import struct

import pytest
from fbmu_rig import LEASE, LENGTH, FbmuRig, question, read, write
from hypothesis import given
from hypothesis import strategies as st

from fabricbios.dataplane.responder import Responder
from fabricbios.dataplane.slots import SlotState
from fabricbios.model import DpAuth, DpOp

OPS = st.sampled_from((DpOp.READ, DpOp.WRITE, DpOp.READ, DpOp.WRITE, DpOp.HELLO, DpOp.PING, DpOp.READ_RESP))
NONCES = st.one_of(
    st.integers(1, 40), st.integers(1, 3000), st.sampled_from((0, 1023, 1024, 1025, 2**64 - 1024, 2**64 - 1))
)
OFFSETS = st.one_of(st.integers(0, 64), st.sampled_from((LENGTH - 8, LENGTH - 1, LENGTH, 2**64 - 1)))
LENGTHS = st.one_of(st.integers(1, 16), st.sampled_from((0, 1404, 1405, 1408, 1409, 2**32 - 1)))


@st.composite
def datagrams(draw: st.DrawFn, auth: DpAuth) -> bytes:
    """Mostly right ones: some for a stranger, some with a bit off, some cut or too long."""
    op, length = draw(OPS), draw(LENGTHS)
    data = bytes(min(length, 1500)) if draw(st.integers(0, 9)) else b"short"
    tail = data if op == DpOp.WRITE else bytes(draw(st.sampled_from((0, 3, 1404, 1405))))
    payload = struct.pack(">QI", draw(OFFSETS), length) + tail.replace(b"\0", b"d")
    lease_id = LEASE.lease_id + (not draw(st.integers(0, 9)))
    request_id = draw(st.integers(0, 9))
    right = bytearray(question(op, payload, draw(NONCES), lease_id=lease_id, auth=auth, request_id=request_id))
    if not draw(st.integers(0, 5)):
        right[draw(st.integers(0, len(right) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(right[: None if draw(st.integers(0, 9)) else draw(st.integers(0, len(right)))])


@given(st.data(), st.sampled_from(DpAuth), st.sampled_from((0, 1, 2, 3, 3, 3)))
def test_both_ways_are_one(data: st.DataObject, auth: DpAuth, rights: int) -> None:
    rigs = FbmuRig(), FbmuRig(careful=True)
    slot = {rig.open(LEASE._replace(auth=auth, rights=rights)) for rig in rigs}.pop()
    for _ in range(data.draw(st.integers(1, 4))):
        state = data.draw(st.sampled_from((SlotState.ACTIVE,) * 4 + (SlotState.ENDED, SlotState.FENCED)))
        now = data.draw(st.sampled_from((0, 0, 0, LEASE.expires_ns - 1, LEASE.expires_ns)))
        batch = data.draw(st.lists(datagrams(auth), max_size=8))
        for rig in rigs:
            rig.now = now
            rig.table.set_state(slot, state)
        short, careful = (rig.ask_together(batch) for rig in rigs)
        assert short == careful
        assert rigs[0].bytes == rigs[1].bytes
        assert rigs[0].table.buffer == rigs[1].table.buffer
        assert rigs[0].record == rigs[1].record


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
