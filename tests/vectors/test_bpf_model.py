"""The XDP program against its model, the user-space server: the same answers, drops and bytes for any questions."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from effort import effort
from fbmu_rig import KEY, LEASE, LENGTH, FbmuRig, question, read, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from xdp_rig import XdpRig, model, require_bpf

from fabricbios.dataplane.slots import SLOT, Plane, SlotLease, SlotState
from fabricbios.model import DpAuth, DpOp

FBBU_LEASE = LEASE._replace(lease_id=0xB10C << 100, plane=Plane.FBBU)
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
NEAR = (0, 1, 2, 7, 8, 1007, 1008, 1015, 1016, 1017, 1023, 1024, 1025, 2047, 2048, 5000)


@pytest.fixture(scope="module")
def rig() -> Iterator[XdpRig]:
    require_bpf()
    rig = XdpRig()
    yield rig
    rig.close()


class Step(NamedTuple):
    """A datagram, or (state, None) for what the daemon does."""

    datagram: bytes
    state: SlotState | None = None


class Case(NamedTuple):
    lease: SlotLease
    steps: list[Step]


offsets = st.one_of(
    st.integers(0, LENGTH),
    st.sampled_from([LENGTH - 1, LENGTH, LENGTH + 1, U64, U64 - 63, 1 << 63, (1 << 64) - LENGTH, U64 - 4095]),
    st.integers(0, U64),
)
lengths = st.one_of(st.integers(1, 200), st.sampled_from([0, 1403, 1404, 1405, 1408, 1409, U32, U32 - 11, 1 << 31]))
nonces = st.one_of(
    st.integers(1, 40), st.builds(int.__add__, st.sampled_from(NEAR), st.sampled_from([1, 4096, 1 << 40]))
)


@st.composite
def datagrams(draw: st.DrawFn, auth: DpAuth) -> bytes:
    """Return a question: mostly sound, sometimes of another lease or key, sometimes damaged after it was sealed."""
    nonce = draw(st.one_of(nonces, st.sampled_from([0, U64, U64 - 1])))
    how = {
        "auth": draw(st.sampled_from([auth] * 9 + list(DpAuth))),
        "key": draw(st.sampled_from([KEY] * 19 + [bytes(32)])),
        "lease_id": draw(st.sampled_from([LEASE.lease_id] * 18 + [FBBU_LEASE.lease_id, 0])),
        "request_id": draw(st.sampled_from([7] * 19 + [0])),
        "head": draw(st.sampled_from([b"FBMU\x01"] * 18 + [b"FBBU\x01", b"FBMU\x02"])),
        "flags": draw(st.sampled_from([0] * 19 + [0x8000])),
    }
    op = draw(st.sampled_from(["read", "read", "write", "write", "hello", "ping", "other"]))
    if op == "read":
        length = draw(lengths)
        wanted = max(0, length - 4) if length <= 1408 and draw(st.integers(0, 9)) else draw(st.integers(0, 90))
        built = read(draw(offsets), length, nonce, wanted, **how)
    elif op == "write":
        data = draw(st.binary(max_size=1404).map(lambda b: b * 7).map(lambda b: b[:1404]))
        said = draw(st.sampled_from([None] * 9 + [0, len(data) + 1, max(0, len(data) - 1), U32]))
        built = write(draw(offsets), data, nonce, said, **how)
    elif op == "hello":
        payload = draw(st.sampled_from([how["lease_id"]] * 9 + [1])).to_bytes(16, "big")
        built = question(DpOp.HELLO, payload + bytes(draw(st.sampled_from([0, 4, 30]))), nonce, **how)
    elif op == "ping":
        built = question(DpOp.PING, bytes(draw(st.sampled_from([0, 1, 4, 64]))), nonce, **how)
    else:
        built = question(draw(st.sampled_from([0, 2, 0x11, 0x12, 0x21, 0x31, 0x7F, 0xFF])), bytes(20), nonce, **how)
    return draw(damaged(built))


@st.composite
def damaged(draw: st.DrawFn, built: bytes) -> bytes:
    kind = draw(st.sampled_from(["whole"] * 12 + ["bit", "cut", "longer"]))
    if kind == "bit":
        at = draw(st.integers(0, len(built) * 8 - 1))
        flipped = bytearray(built)
        flipped[at // 8] ^= 1 << at % 8
        return bytes(flipped)
    if kind == "cut":
        return built[: draw(st.integers(0, len(built)))]
    return (
        built + bytes(draw(st.integers(1, 1500 - len(built) if len(built) < 1499 else 1)))
        if kind == "longer"
        else built
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    auth = draw(st.sampled_from(list(DpAuth)))
    lease = LEASE._replace(auth=auth, rights=draw(st.sampled_from([3, 3, 3, 1, 2, 0])))
    lease = lease._replace(
        max_read=draw(st.sampled_from([1408, 1408, 100])), max_write=draw(st.sampled_from([1404, 64]))
    )
    states = st.sampled_from([SlotState.ACTIVE, SlotState.ENDED, SlotState.FENCED]).map(lambda s: Step(b"", s))
    step = st.one_of(*[datagrams(auth).map(Step)] * 9, states)
    return Case(lease, draw(st.lists(step, min_size=1, max_size=12)))


def play(rig: XdpRig, reference: FbmuRig, step: Step) -> None:
    if step.state is not None:
        for table in (rig.table, reference.table):
            slot = table.find(LEASE.lease_id)
            assert slot is not None
            table.set_state(slot, step.state)
        return
    assert rig.ask(step.datagram) == reference.ask(step.datagram)


@settings(
    max_examples=effort(quick=30, full=150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cases())
@example(Case(LEASE, [Step(read(0, 64, 5, 60)), Step(read(0, 64, 5, 60)), Step(read(0, 64, 4, 60))]))
@example(
    Case(LEASE, [Step(write(U64 - 3, b"x" * 8, 1)), Step(write(LENGTH, b"x", 2)), Step(write(LENGTH - 1, b"x", 3))])
)
@example(Case(LEASE, [Step(write(0, b"new", 9)), Step(write(0, b"old", 8)), Step(read(0, 3, 7))]))
@example(
    Case(LEASE, [Step(question(DpOp.PING, b"", 1)), Step(b"", SlotState.FENCED), Step(question(DpOp.PING, b"", 2))])
)
@example(Case(LEASE, [Step(read(0, 64, nonce, 60)) for nonce in (2040, 2047, 1016, 1022, 1023, 1024, 1025)]))
@example(Case(LEASE, [Step(read(0, 64, nonce, 60)) for nonce in (2041, 2048, 1017, 1024, 1023, 1032, 1025, 2047)]))
def test_the_program_does_what_the_server_does(rig: XdpRig, case: Case) -> None:
    rig.fresh()
    reference = model(case.lease)
    reference.open(FBBU_LEASE)
    rig.open(case.lease)
    rig.open(FBBU_LEASE)
    pattern = bytes(range(256)) * (len(reference.bytes) // 256)
    reference.bytes[:], rig.memory.view[:] = pattern, pattern
    for step in case.steps:
        play(rig, reference, step)
    assert bytes(rig.memory.view) == bytes(reference.bytes)  # the lease, and the guard bytes around it
    assert rig.drops() == reference.drops()
    assert slot_state(rig.table.buffer) == slot_state(reference.table.buffer)


def slot_state(table: memoryview) -> dict[str, object]:
    """Return what both keep of the first slot: window, marks, and their own half of the counters.

    Of `highest` its word: the program need not move it within one (bpf/window.h).
    """
    kept = {name: SLOT.get(table, 0, name) for name in ("write_mark", "write_lock", "window")}
    kept["highest"] = SLOT.get(table, 0, "highest") >> 3
    for name in ("reads", "writes", "bytes", "rejects"):
        kept[name] = sum(SLOT.get(table, 0, f"{path}_{name}") for path in ("kernel", "user"))
    return kept
