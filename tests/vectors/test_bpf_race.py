"""Two senders and a revoker at once, each on a thread of its own: bpf(2) lets go of Python's lock."""

import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from fbmu_rig import KEY, LEASE, LEASE_ID, read, write
from xdp_rig import FOREVER, PORT, XdpRig, require_bpf

from fabricbios.dataplane.slots import QUARANTINE_NS, SLOT, SlotLease, SlotState
from fabricbios.dataplane.xdp_frame import wrap
from fabricbios.hw.bpf import XdpAction, prog_test_run

OK, EXPIRED, BUSY, STALE, DROPPED = 0, 2, 6, 9, -1
QUESTIONS = 1500


@pytest.fixture
def rig() -> Iterator[XdpRig]:
    require_bpf()
    rig = XdpRig()
    yield rig
    rig.close()


def together(*works: Callable[[], None]) -> None:
    """Run all of `works` at once; raise what the first of them raised."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def send(rig: XdpRig, frames: list[bytes], statuses: list[int]) -> None:
    """Put each frame through the program; note the status of each answer."""
    for frame in frames:
        done = prog_test_run(rig.program, frame)
        statuses.append(done.packet[42 + 56] if done.action == XdpAction.TX else DROPPED)


def test_a_nonce_is_taken_once_however_many_bring_it(rig: XdpRig) -> None:
    rig.open()
    frames = [wrap(read(0, 64, nonce, 60), PORT, v6=False) for nonce in range(1, QUESTIONS)]
    seen: list[list[int]] = [[], []]
    together(*(lambda into=into: send(rig, frames, into) for into in seen))
    for first, second in zip(*seen, strict=True):
        assert (first == OK) + (second == OK) <= 1
    taken = sum(status == OK for into in seen for status in into)
    assert taken + rig.drops().get("replayed", 0) + rig.drops().get("too_old", 0) == 2 * len(frames)
    assert SLOT.get(rig.table.buffer, 0, "kernel_reads") == taken
    assert taken >= len(frames) * 0.9  # a few may be lost to the other CPU, which costs a retry


def test_a_late_write_never_covers_a_newer_one(rig: XdpRig) -> None:
    rig.open()
    frames = [[], []]
    for nonce in range(1, QUESTIONS):
        data = struct.pack(">Q", nonce) * 64
        frames[nonce % 2].append(wrap(write(0, data, nonce), PORT, v6=False))
    done, backwards = threading.Event(), []

    def watch() -> None:
        newest = 0
        while not done.is_set():
            mark = SLOT.get(rig.table.buffer, 0, "write_mark")
            if mark < newest:
                backwards.append((newest, mark))
            newest = mark

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen: list[list[int]] = [[], []]
    together(*(lambda i=i: send(rig, frames[i], seen[i]) for i in (0, 1)))
    done.set()
    watcher.join()
    assert not backwards
    assert {s for into in seen for s in into} <= {OK, STALE, BUSY, DROPPED}  # one may fall a window behind
    mark = SLOT.get(rig.table.buffer, 0, "write_mark")
    assert bytes(rig.memory.view[4096 : 4096 + 512]) == struct.pack(">Q", mark) * 64
    assert SLOT.get(rig.table.buffer, 0, "write_lock") == 0


def test_after_revocation_and_quiescence_no_byte_moves(rig: XdpRig) -> None:
    """Revoke while two write, wait for the programs, take the bytes back: they stay as the daemon left them."""
    for turn in range(12):
        revoke_while_two_write(rig, LEASE._replace(lease_id=LEASE_ID + turn))
        rig.table.clear(LEASE_ID + turn, -QUARANTINE_NS)


def revoke_while_two_write(rig: XdpRig, lease: SlotLease) -> None:
    slot = rig.open(lease)
    writing, revoked = threading.Event(), threading.Event()
    last: list[int] = []

    def write_on(parity: int) -> None:
        over = 0
        for nonce in range(2 + parity, 40000, 2):
            answer = rig.ask(write(0, b"\xee" * 1024, nonce, lease_id=lease.lease_id))
            over += revoked.is_set()
            if nonce > 40:
                writing.set()
            if over > 20:
                break
        last.append(answer[56] if answer else DROPPED)

    def revoke() -> None:
        writing.wait()
        rig.table.set_state(slot, SlotState.ENDED)
        rig.maps.quiesce()
        rig.memory.view[:] = bytes(len(rig.memory.view))
        revoked.set()

    together(revoke, lambda: write_on(0), lambda: write_on(1))
    assert bytes(rig.memory.view) == bytes(len(rig.memory.view))
    assert EXPIRED in last


def test_a_rekeyed_lease_is_dead_under_its_old_key(rig: XdpRig) -> None:
    """The old slot still holds the id: it is never what a question finds, nor is the new one open to the old key."""
    rig.open()
    new = LEASE._replace(dp_key=bytes(reversed(KEY)), expires_ns=FOREVER)
    rig.table.rekey(new, 0)
    assert rig.ask(read(0, 64, 1, 60)) is None
    assert rig.ask(read(0, 64, 1, 60, key=new.dp_key)) is not None
    assert rig.drops() == {"bad_tag": 1}
