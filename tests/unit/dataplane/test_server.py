"""The server process on loopback: real sockets, real batches, and what happens when it is stopped or killed."""

import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from block_node import stop_at_rest
from fbmu_rig import KEY, LEASE_ID, question, read, write

from fabricbios.dataplane.counters import COUNTERS
from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.memory import SLOT_STEP, MemoryPlane
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory, Slab
from fabricbios.dataplane.slots import Plane
from fabricbios.hw.syscalls import MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, boottime_ns
from fabricbios.model import NS, Binding, DpAuth, DpOp, DpStatus, ResourceType, Transport
from fabricbios.ports import LeaseSpec

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Served:
    """A plane with its server process on both loopback addresses."""

    def __init__(self) -> None:
        self.sockets = {family: socket.socket(family, socket.SOCK_DGRAM) for family in HOSTS}
        for family, sock in self.sockets.items():
            sock.bind((HOSTS[family], 0))
        self.memory, self.board = Memory.create(1 << 20), LeaseBoard.create(16)
        self.server = ServerProcess(Plane.FBMU, list(self.sockets.values()), self.board, self.memory.slabs)
        listeners = [
            Listener(Transport.FBMU_UDP, s.getsockname()[0], s.getsockname()[1]) for s in self.sockets.values()
        ]
        self.patience = 2.0  # a busy machine may let it wait for its turn in a batch
        self.plane = MemoryPlane(self.board.table(), self.memory, listeners, lambda: self.server.quiesce(self.patience))
        self.lease = LeaseSpec(
            LEASE_ID,
            1,
            ResourceType.MEM,
            Binding.UDP,
            65536,
            3,
            1,
            DpAuth.BLAKE2S_FULL,
            KEY,
            3,
            boottime_ns() + 60 * NS,
        )
        self.server.start()

    def bind(self) -> None:
        self.plane.do(SLOT_STEP, self.lease)

    def client(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(60)
        sock.connect(self.sockets[family].getsockname())
        return sock

    def close(self) -> None:
        self.server.close()
        for sock in self.sockets.values():
            sock.close()
        self.memory.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def ask(client: socket.socket, datagram: bytes) -> bytes:
    client.send(datagram)
    return client.recv(2048)


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so: counters are published between batches."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)


def settle(served: Served, drops: int) -> dict[str, int]:
    """Return the drops once there are so many, or what there is after a minute."""
    until(lambda: sum(served.server.counters()["drops"].values()) >= drops)
    return {reason: n for reason, n in served.server.counters()["drops"].items() if n}


@pytest.mark.parametrize("family", HOSTS)
def test_bytes_go_there_and_back(served: Served, family: socket.AddressFamily) -> None:
    served.bind()
    with served.client(family) as client:
        assert ask(client, write(7, b"over the wire", 1))[56] == DpStatus.OK
        assert ask(client, read(7, 13, 2))[64:] == b"over the wire"
    assert served.plane.read(LEASE_ID, 7, 13) == (DpStatus.OK, b"over the wire")


def test_a_full_pipeline_is_answered_to_the_last_question(served: Served) -> None:
    served.bind()
    with served.client() as client:
        for nonce in range(1, 201):
            client.send(read(0, 64, nonce))
        assert {struct.unpack_from(">Q", client.recv(2048), 32)[0] for _ in range(200)} == set(range(1, 201))


def test_holes_in_a_batch_move_no_answer_to_another_asker(served: Served) -> None:
    served.bind()
    os.kill(served.server.pid or 0, signal.SIGSTOP)  # so that all of it is one batch
    clients = [served.client() for _ in range(20)]
    for nonce, client in enumerate(clients, 1):
        client.send(question(DpOp.PING, b"", nonce, request_id=nonce))
        client.send(b"junk between")
    os.kill(served.server.pid or 0, signal.SIGCONT)
    for nonce, client in enumerate(clients, 1):
        assert struct.unpack_from(">I", client.recv(2048), 12)[0] == nonce
        client.close()
    assert settle(served, 20) == {"malformed": 20}


def test_ten_thousand_datagrams_of_garbage_change_nothing(served: Served) -> None:
    served.bind()
    rng, valid = random.Random(1), read(0, 64, 5)
    with served.client() as client:
        for i in range(10_000):
            junk = bytearray(valid) if i % 2 else bytearray(rng.randbytes(rng.randrange(1, 1500)))
            junk[rng.randrange(len(junk))] ^= 1 << rng.randrange(8)
            client.send(junk)
            if i % 64 == 63:
                ask(client, question(DpOp.PING, b"", 1000 + i, request_id=1))  # wait, so that none is lost on the way
        assert ask(client, read(0, 64, 20_000))[56] == DpStatus.OK
    assert sum(settle(served, 10_000).values()) == 10_000
    assert not any(served.memory.view)


def test_a_forged_and_a_replayed_datagram_are_counted_apart(served: Served) -> None:
    served.bind()
    with served.client() as client:
        asked = write(0, b"x", 1)
        ask(client, asked)
        client.send(asked)
        client.send(write(0, b"y", 2, key=b"f" * 32))
        client.send(read(0, 1, 3, lease_id=77))
        assert settle(served, 3) == {"replayed": 1, "bad_tag": 1, "unknown_lease": 1}


def test_an_unauthentic_question_draws_nothing_however_long(served: Served) -> None:
    served.bind()
    with served.client() as client:
        client.send(read(0, 1408, 1, padding=1400, key=b"f" * 32))
        settle(served, 1)
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(2048)


def test_a_lease_that_ended_while_the_server_was_stopped_is_refused(served: Served) -> None:
    served.bind()
    with served.client() as client:
        ask(client, write(0, b"mine", 1))
        stop_at_rest(served.server)
        client.send(write(0, b"late", 2))
        client.send(read(0, 4, 3))
        served.plane.undo(SLOT_STEP, served.lease)
        os.kill(served.server.pid or 0, signal.SIGCONT)
        assert [client.recv(2048)[56] for _ in range(2)] == [DpStatus.EXPIRED] * 2
    assert not any(served.memory.view)


def test_bytes_are_held_while_the_server_is_stopped_in_the_middle_of_a_batch(served: Served) -> None:
    """What it had checked it may yet write: the lease cannot end before that is ruled out."""
    served.bind()
    served.plane.write(LEASE_ID, 0, b"held")
    counters = served.server._counters.buffer
    os.kill(served.server.pid or 0, signal.SIGSTOP)
    COUNTERS.set(counters, 0, "batch", 1)
    served.patience = 0.02  # it does not move, however long we wait
    with pytest.raises(OSError, match="stuck in a batch"):
        served.plane.undo(SLOT_STEP, served.lease)
    assert bytes(served.memory.view[:4]) == b"held"
    COUNTERS.set(counters, 0, "batch", 2)
    served.plane.undo(SLOT_STEP, served.lease)
    os.kill(served.server.pid or 0, signal.SIGCONT)


def test_an_answer_in_the_making_is_waited_for(served: Served) -> None:
    """While clients write as fast as they can, what is wiped stays wiped."""
    served.bind()
    with served.client() as client:
        for nonce in range(1, 400):
            client.send(write(0, b"\xff" * 1404, nonce))
            if nonce == 300:
                served.plane.undo(SLOT_STEP, served.lease)
                assert not any(served.memory.view)
    time.sleep(0.2)
    assert not any(served.memory.view)


def test_expiry_holds_without_the_daemon(served: Served) -> None:
    """Nobody does anything at the end of the lease: the clock alone refuses."""
    end = boottime_ns() + NS // 2
    served.lease = served.lease._replace(expires_ns=end)
    served.bind()
    with served.client() as client:
        for nonce in count(1):
            begun = boottime_ns()
            status = ask(client, read(0, 1, nonce))[56]
            assert status == (DpStatus.EXPIRED if begun >= end else DpStatus.OK) or begun < end <= boottime_ns()
            if begun >= end:
                break


def test_a_killed_server_is_noticed_and_started_again_with_everything(served: Served) -> None:
    served.bind()
    with served.client() as client:
        ask(client, write(0, b"kept", 1))
        until(lambda: served.server.counters()["requests"]["write"] == 1)
        pid = served.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert select.select([served.server.pidfd], [], [], 60)[0]
        assert served.server.poll() == -signal.SIGKILL
        assert served.server.pid is None
        served.server.start()
        assert served.server.pid != pid
        assert ask(client, read(0, 4, 2))[64:] == b"kept"
        client.send(write(0, b"kept", 1))
        assert settle(served, 1) == {"replayed": 1}  # the window outlived the process
    assert served.server.counters()["requests"]["write"] == 1


def test_the_server_ends_with_its_daemon(served: Served) -> None:
    pidfd = served.server.pidfd
    assert served.server._control is not None
    served.server._control.close()  # what the kernel does for a daemon that was killed
    assert select.select([pidfd], [], [], 60)[0]


def test_stop_needs_no_force_and_may_be_repeated(served: Served) -> None:
    process = served.server._process
    assert process is not None
    served.server.stop()
    served.server.stop()
    assert process.returncode == 0
    served.server.quiesce()


def test_a_server_that_not_even_a_kill_ends_is_not_waited_for_and_not_believed_gone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in a device that does not answer. Its batch may go on: nobody may take it for finished."""

    def wait(seconds: float | None = None) -> int:
        assert seconds is not None
        raise subprocess.TimeoutExpired("server", seconds)

    process = served.server._process
    assert process is not None
    with monkeypatch.context() as stuck:
        stuck.setattr(process, "wait", wait)
        stuck.setattr(process, "kill", lambda: None)
        stuck.setattr(process, "poll", lambda: None)
        served.server.stop()
        assert served.server.pid == process.pid


def test_a_server_imports_nothing_from_where_it_is_started(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon of root's that is started in somebody's directory must not run what lies there."""
    (tmp_path / "hmac.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    served.server.start()
    assert served.server.pid


def test_a_server_that_cannot_start_says_so() -> None:
    """Slabs that are none: the process ends, and start() tells."""
    board = LeaseBoard.create(1)
    broken = ServerProcess(Plane.FBMU, [], board, [Slab(board.slots.fd, 4096)] * 2)
    with pytest.raises(OSError, match="did not start"):
        broken.start()
    broken.close()


def test_the_server_hears_the_daemons_fences(served: Served) -> None:
    """Asked of a server that was told to stop before it began: the kernel tells each process of itself alone."""
    ask = "import sys; from fabricbios.hw import syscalls as s; from fabricbios.dataplane import serve\n"
    ask += "serve.main(sys.argv[1:]); print(s._syscall(s._MEMBARRIER[s._MACHINE], 1 << 9, 0, 0))"  # GET_REGISTRATIONS
    ours, theirs = socket.socketpair()
    ours.shutdown(socket.SHUT_WR)
    with ours, theirs:
        spec = served.server._spec(theirs.fileno())
        command = [sys.executable, "-c", ask, json.dumps(spec._asdict())]
        told = int(subprocess.run(command, pass_fds=spec.descriptors(), capture_output=True, check=True).stdout)
    if told < 0:
        pytest.skip("MEMBARRIER_CMD_GET_REGISTRATIONS is not there: it is of Linux 6.3")
    assert told & MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
