"""Who is asked: the user-space path, memcached, redis and a bare C echo, all on the core that the client has."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from fbmu_user import KEY, LEASE_ID, SPAN
from stage import SERVER, Stage, inside

from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import QUARANTINE_NS, Extent, Plane, SlotLease, SlotTable
from fabricbios.model import DpAuth, DpOp

MEMCACHED_PORT, REDIS_PORT, ECHO_PORT, USER_PORT = 11211, 6379, 5799, 5798


class Target(NamedTuple):
    """Somebody who answers on `port`; `reset` is called before each run, `dialect` is load.c's fifth word.

    `load` is the C program that asks.
    """

    name: str
    port: int
    reset: Callable[[DpAuth], None]
    pid: int = 0  # of the server process, if there is one
    dialect: tuple[str, ...] = ()
    load: str = "load"


class Leases:
    """One lease of SPAN bytes in a table; each reset rekeys it, under any mode."""

    def __init__(self, table: SlotTable) -> None:
        self._table, self._now = table, 0
        self._lease = SlotLease(
            LEASE_ID, Plane.FBMU, Extent(0, SPAN), 3, DpAuth.HMAC_HEADER, KEY, 1, 1 << 62, 1408, 1404
        )
        table.install(self._lease, 0)

    def reset(self, auth: DpAuth) -> None:
        self._now += 2 * QUARANTINE_NS  # rested slots without waiting for them
        self._table.rekey(self._lease._replace(auth=auth), self._now)


@contextmanager
def user(stage: Stage) -> Iterator[Target]:
    """Our own user-space path."""
    with inside(stage.pair.there):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((SERVER, USER_PORT))
    board, memory = LeaseBoard.create(64), Memory.create(SPAN)
    server = ServerProcess(Plane.FBMU, [sock], board, memory.slabs)
    leases = Leases(board.table())
    server.start()
    os.sched_setaffinity(server.pid or 0, {stage.core})
    try:
        yield Target("user space", USER_PORT, leases.reset, server.pid or 0)
    finally:
        server.close()
        sock.close()


@contextmanager
def process(stage: Stage, target: Target, *words: object) -> Iterator[Target]:
    """Run a peer in the server's namespace on the shared core."""
    peer = subprocess.Popen(
        stage.command(stage.pair.there, stage.core, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(0.5)
    try:
        yield target._replace(pid=peer.pid)
    finally:
        peer.kill()
        peer.wait()


def memcached(stage: Stage) -> AbstractContextManager[Target]:
    target = Target("memcached UDP", MEMCACHED_PORT, lambda auth: None, 0, ("memcached",))
    options = ("-u", "nobody", "-l", SERVER, "-p", MEMCACHED_PORT, "-U", MEMCACHED_PORT, "-t", 1)
    return process(stage, target, "memcached", *options)


def echo(stage: Stage) -> AbstractContextManager[Target]:
    target = Target("C echo", ECHO_PORT, lambda auth: None)
    return process(stage, target, stage.directory / "echo", ECHO_PORT, SERVER)


def redis(stage: Stage) -> AbstractContextManager[Target]:
    """Over TCP, for it has no other way; nothing is kept on disk."""
    target = Target("redis", REDIS_PORT, lambda auth: None, load="redis_load")
    options = ("--bind", SERVER, "--port", REDIS_PORT, "--protected-mode", "no", "--dir", stage.directory)
    return process(stage, target, "redis-server", *options, "--save", "", "--appendonly", "no")


def redis_command(*words: bytes) -> bytes:
    """Return a command as an array of bulk strings (the protocol's RESP2)."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def redis_questions(op: DpOp, size: int, count: int, directory: Path) -> Path:
    """Write as many GETs or SETs of one value, for redis_load.c."""
    path, key, value = directory / f"redis-{op}-{size}-{count}", b"k%d" % size, b"x" * size
    asked = redis_command(b"GET", key) if op == DpOp.READ else redis_command(b"SET", key, value)
    reply = len(b"$%d\r\n%s\r\n" % (size, value)) if op == DpOp.READ else len(b"+OK\r\n")
    path.write_bytes(struct.pack("=III", count, len(asked), reply) + asked * count)
    return path


def memcached_questions(op: DpOp, size: int, count: int, directory: Path) -> Path:
    """Write as many gets or sets of one value (memcached's doc/protocol.txt, "UDP protocol")."""
    path, value = directory / f"memcached-{op}-{size}-{count}", b"x" * size
    text = b"get k%d\r\n" % size if op == DpOp.READ else b"set k%d 0 0 %d\r\n%s\r\n" % (size, size, value)
    frames = [struct.pack(">HHHH", n & 0xFFFF, 0, 1, 0) + text for n in range(1, count + 1)]
    path.write_bytes(struct.pack("=II", count, len(frames[0])) + b"".join(frames))
    return path


def store_value(stage: Stage, size: int) -> None:
    """Give memcached and redis what they are to be asked for, over TCP."""
    key, value = b"k%d" % size, b"x" * size
    for port, question, answer in (
        (MEMCACHED_PORT, b"set %s 0 0 %d\r\n%s\r\n" % (key, size, value), b"STORED"),
        (REDIS_PORT, redis_command(b"SET", key, value), b"+OK"),
    ):
        with inside(stage.pair.here), socket.create_connection((SERVER, port)) as peer:
            peer.sendall(question)
            if not peer.recv(100).startswith(answer):
                raise RuntimeError(f"the server at port {port} did not store the value")
