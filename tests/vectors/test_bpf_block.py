"""FBBU at the XDP program: what it drops, what it leaves to the server, and what it answers where there is none."""

import ctypes
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from fbmu_rig import KEY, LEASE, LEASE_ID, question
from netns_rig import CLONE_NEWNET
from xdp_rig import FBBU_PORT, FOREVER, PORT, SLOTS, XdpRig, require_bpf

from fabricbios.dataplane.slots import SLOT, Extent, Plane, SlotState
from fabricbios.dataplane.window import Window
from fabricbios.dataplane.xdp_frame import wrap
from fabricbios.hw import bpf
from fabricbios.hw.bpf import XdpAction
from fabricbios.model import DpAuth, DpOp

BLOCK = LEASE._replace(plane=Plane.FBBU, auth=DpAuth.BLAKE2S_FULL, extent=Extent(0, 1 << 20))
ONE_BLOCK = struct.pack(">QI", 0, 1)
PAYLOADS = {
    DpOp.HELLO: LEASE_ID.to_bytes(16, "big") + bytes(4),
    DpOp.READ: ONE_BLOCK,
    DpOp.WRITE: ONE_BLOCK + bytes(512),
    DpOp.PING: bytes(4),
}


@pytest.fixture(scope="module")
def rig() -> Iterator[XdpRig]:
    require_bpf()
    rig = XdpRig()
    yield rig
    rig.close()


@pytest.fixture(autouse=True)
def _fresh(rig: XdpRig) -> None:
    rig.fresh()


def ask(op: DpOp, nonce: int = 1, auth: DpAuth = BLOCK.auth, key: bytes = KEY) -> bytes:
    return question(op, PAYLOADS[op], nonce, lease_id=LEASE_ID, head=b"FBBU\x01", auth=auth, key=key)


def alone(work: Callable[[], bpf.TestRun], bound: tuple[socket.AddressFamily, str] | None = None) -> bpf.TestRun:
    """Do it in a network namespace of its own, with nothing in it but a socket bound to `bound`."""
    done: list[bpf.TestRun] = []

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        family, host = bound or (socket.AF_INET, "")
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if bound:
                sock.bind((host, FBBU_PORT))
            done.append(work())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return done[0]


@pytest.mark.parametrize("auth", DpAuth)
def test_what_is_forged_is_dropped_and_the_rest_left_as_it_came(rig: XdpRig, auth: DpAuth) -> None:
    rig.open(BLOCK._replace(auth=auth))
    for op in PAYLOADS:
        frame = wrap(ask(op, auth=auth), FBBU_PORT, v6=False)
        for _ in range(2):  # the window is the server's: nothing is taken here
            done = rig.run(frame)
            assert (done.action, done.packet) == (XdpAction.PASS, frame)
        assert rig.run(wrap(ask(op, auth=auth, key=bytes(32)), FBBU_PORT, v6=False)).action == XdpAction.DROP
    assert rig.run(wrap(ask(DpOp.PING, auth=auth), PORT, v6=False)).action == XdpAction.DROP
    assert rig.drops() == {"malformed": 1}
    assert rig.drops(Plane.FBBU) == {"bad_tag": 4}
    assert (rig.passed(Plane.FBBU), rig.passed()) == (8, 0)


def test_what_the_server_took_already_is_dropped_and_its_window_left_alone(rig: XdpRig) -> None:
    slot = rig.open(BLOCK)
    server = Window(rig.board.slots.buffer[: SLOTS * SLOT.size].cast("Q"), slot)
    for nonce in (1, 2000):
        assert server.take(nonce) is None
    before = rig.table.get(slot, "window"), rig.table.get(slot, "highest")
    for nonce, goes_on in ((2000, False), (1, False), (1999, True), (2001, True)):
        assert (rig.run(wrap(ask(DpOp.PING, nonce), FBBU_PORT, v6=False)).action == XdpAction.PASS) is goes_on
    assert rig.drops(Plane.FBBU) == {"replayed": 1, "too_old": 1}
    assert (rig.table.get(slot, "window"), rig.table.get(slot, "highest")) == before


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("op", PAYLOADS)
@pytest.mark.parametrize(("state", "status"), [(SlotState.ENDED, 2), (SlotState.FENCED, 3), (SlotState.ACTIVE, 2)])
def test_a_lease_that_is_over_is_refused_here_where_nobody_has_the_socket(
    rig: XdpRig, state: SlotState, status: int, op: DpOp, v6: bool
) -> None:
    slot = rig.open(BLOCK)
    rig.table.set_state(slot, state)
    rig.table.set_expiry(slot, 1 if state == SlotState.ACTIVE else FOREVER)
    before, asked = bytes(rig.memory.view), wrap(ask(op), FBBU_PORT, v6=v6)
    done = alone(lambda: rig.run(asked))
    assert done.action == XdpAction.TX
    answer = done.packet[-(56 + {DpOp.READ: 8, DpOp.HELLO: 20}.get(op, 4)) :]
    assert answer[56:] == bytes([status]) + bytes(len(answer) - 57)
    assert answer[5] == (DpOp.ERROR if op == DpOp.PING else op + 1)
    assert alone(lambda: rig.run(asked)).action == XdpAction.DROP  # its nonce was taken
    assert rig.drops(Plane.FBBU) == {"replayed": 1}
    assert rig.table.counters(slot).rejects == 1
    assert rig.memory.view == before


ANYWHERE = {False: (socket.AF_INET, "0.0.0.0"), True: (socket.AF_INET6, "::")}


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_a_lease_that_is_over_is_the_servers_to_refuse_while_it_has_the_socket(rig: XdpRig, v6: bool) -> None:
    slot = rig.open(BLOCK)
    rig.table.set_state(slot, SlotState.ENDED)
    asked = wrap(ask(DpOp.PING), FBBU_PORT, v6=v6)
    assert alone(lambda: rig.run(asked), ANYWHERE[v6]).action == XdpAction.PASS
    assert alone(lambda: rig.run(asked), ANYWHERE[not v6]).action == XdpAction.TX
    assert rig.passed(Plane.FBBU) == 1


def test_an_open_lease_without_a_server_is_not_answered_here(rig: XdpRig) -> None:
    rig.open(BLOCK)
    frame = wrap(ask(DpOp.WRITE), FBBU_PORT, v6=False)
    done = alone(lambda: rig.run(frame))
    assert (done.action, done.packet) == (XdpAction.PASS, frame)
