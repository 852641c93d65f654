"""The program with the stopwatch, by test runs: it answers as the other one does, and says how long it took."""

import struct
from collections.abc import Iterator
from types import ModuleType

import pytest
from descriptors import open_descriptors
from fbmu_rig import LEASE, LEASE_ID, question, read, write
from xdp_rig import FBBU_PORT, PORT, XdpRig, require_bpf

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.blob import TRACE_BLOB_FILE, Blob
from fabricbios.dataplane.trace import ANY_LEASE, BUCKETS, Outcome, TracedOp, bucket_of
from fabricbios.dataplane.trace_xdp import XdpTrace
from fabricbios.dataplane.xdp_frame import wrap
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.hw import bpf
from fabricbios.model import DpOp

LATE = 1 << 62
Counted = dict[tuple[str, str, str], int]


class TraceRig(XdpRig):
    """An XdpRig whose program is the one with the stopwatch; enough of an XdpPath for XdpTrace."""

    def __init__(self) -> None:
        super().__init__()
        self.ports, self.behind, self._plain = (PORT, FBBU_PORT), {}, self.program
        self.trace = XdpTrace(self)  # type: ignore[arg-type]

    def modes(self) -> frozenset[CounterRecord]:
        return frozenset({CounterRecord.NATIVE})

    def swap(self, programs: dict[CounterRecord, int]) -> None:
        self.program = programs.get(CounterRecord.NATIVE, self._plain)

    def close(self) -> None:
        self.trace.stop()
        super().close()

    def counted(self) -> Counted:
        """Return how many datagrams each series has, by name."""
        return {(s.plane.name, s.op.name, s.outcome.name): sum(s.buckets) for s in self.trace.read()}


@pytest.fixture(scope="module")
def loaded() -> Iterator[TraceRig]:
    require_bpf()
    rig = TraceRig()
    yield rig
    rig.close()


@pytest.fixture
def rig(loaded: TraceRig) -> Iterator[TraceRig]:
    loaded.fresh()
    loaded.open()
    loaded.trace.load()
    loaded.trace.start(ANY_LEASE, LATE)
    yield loaded
    loaded.trace.stop()


def test_it_answers_as_the_program_that_it_stands_in_for(rig: TraceRig) -> None:
    assert rig.ask(write(0, b"measured", nonce=1)) is not None
    answer = rig.ask(read(0, 8, nonce=2, padding=8))
    assert answer is not None
    assert answer[64:] == b"measured"
    assert rig.requests() == {"read": 1, "write": 1}


def test_each_op_and_outcome_is_a_series(rig: TraceRig) -> None:
    rig.ask(read(0, 8, nonce=1, padding=8))
    rig.ask(read(0, 8, nonce=2, padding=8), v6=True)
    rig.ask(read(1 << 40, 8, nonce=3, padding=8))
    rig.ask(write(0, b"x", nonce=4))
    rig.ask(question(DpOp.PING, nonce=5))
    rig.ask(question(DpOp.HELLO, LEASE_ID.to_bytes(16, "big") + bytes(8), nonce=6))
    rig.ask(read(0, 8, nonce=7, padding=8, key=bytes(32)))
    rig.ask(question(0x55, nonce=8))
    assert rig.counted() == {
        ("FBMU", "READ", "ANSWERED"): 2,
        ("FBMU", "READ", "REFUSED"): 1,
        ("FBMU", "WRITE", "ANSWERED"): 1,
        ("FBMU", "PING", "ANSWERED"): 1,
        ("FBMU", "HELLO", "ANSWERED"): 1,
        ("FBMU", "READ", "DROPPED"): 1,
        ("FBMU", "OTHER", "DROPPED"): 1,
    }


def test_blocks_and_the_traffic_of_others_are_told_apart(rig: TraceRig) -> None:
    rig.run(wrap(question(DpOp.READ, bytes(12), head=b"FBBU\x01"), FBBU_PORT, v6=False))  # a lease of the other plane
    rig.run(wrap(b"something else", 53, v6=False))
    rig.run(bytes(64))
    assert rig.counted() == {("FBBU", "READ", "DROPPED"): 1, ("OTHER", "OTHER", "PASSED"): 2}


def test_a_tagged_frame_is_read_too(rig: TraceRig) -> None:
    frame = wrap(read(0, 8, padding=8), PORT, v6=False)
    rig.run(frame[:12] + struct.pack(">HH", 0x8100, 5) + frame[12:])
    assert rig.counted() == {("FBMU", "READ", "ANSWERED"): 1}


def test_the_kernel_fills_the_bucket_that_python_names(rig: TraceRig) -> None:
    for nonce in range(1, 40):
        rig.trace.start(ANY_LEASE, LATE)
        before = {(s.op, s.outcome): s for s in rig.trace.read()}.get((TracedOp.READ, Outcome.ANSWERED))
        rig.ask(read(0, 8, nonce=nonce, padding=8))
        (after,) = rig.trace.read()
        took = after.sum_ns - (before.sum_ns if before else 0)
        was = before.buckets if before else (0,) * BUCKETS
        grown = [b for b, (old, new) in enumerate(zip(was, after.buckets, strict=True)) if new != old]
        assert grown == [bucket_of(took)]
        assert after.max_ns >= took


def test_one_lease_alone(rig: TraceRig) -> None:
    other = LEASE_ID + 1
    rig.open(LEASE._replace(lease_id=other))
    rig.trace.start(other.to_bytes(16, "big"), LATE)
    rig.ask(read(0, 8, padding=8))
    rig.ask(write(0, b"x", lease_id=other))
    rig.run(wrap(b"something else", 53, v6=False))
    assert rig.counted() == {("FBMU", "WRITE", "ANSWERED"): 1}
    rig.trace.extend(LATE + 1)
    rig.ask(read(0, 8, nonce=2, padding=8))
    assert sum(rig.counted().values()) == 1


def test_nothing_is_recorded_when_the_time_is_up(rig: TraceRig) -> None:
    rig.trace.extend(1)
    assert rig.ask(read(0, 8, padding=8)) is not None
    assert rig.counted() == {}


def test_what_was_put_on_comes_off(rig: TraceRig) -> None:
    traced, descriptors = rig.program, open_descriptors()
    rig.trace.stop()
    assert rig.program != traced
    assert len(descriptors - open_descriptors()) == 3  # two maps and a program
    assert rig.trace.read() == []
    rig.trace.stop()


@pytest.mark.parametrize(
    ("where", "what"),
    [(xdp_program, "load"), (bpf, "map_update"), (bpf, "map_freeze"), (bpf, "btf_load"), (bpf, "prog_load")],
)
def test_what_the_kernel_refuses_leaves_nothing(
    loaded: TraceRig, monkeypatch: pytest.MonkeyPatch, where: ModuleType, what: str
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(1, "refused")

    monkeypatch.setattr(where, what, refuse)
    descriptors = open_descriptors()
    with pytest.raises(PermissionError):
        loaded.trace.load()
    assert open_descriptors() <= descriptors


def test_only_maps_that_the_loader_makes_are_used(loaded: TraceRig) -> None:
    used = {use.map for use in Blob.shipped(TRACE_BLOB_FILE).uses}
    assert used <= loaded.maps.fds.keys() | {"config", "trace_params", "trace_series"}
