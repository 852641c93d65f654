"""A whole node in the test's own loop: core and QUIC are real, the data plane is slow, honest and, if told to, lossy.

The memory server here speaks through the wire's classes, so that it and the client's own packing are
two readings of D10.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from leaping_loop import ahead

from fabricbios.core.node import Node as CoreNode
from fabricbios.core.node import Offer, Push, Reset, Setup
from fabricbios.core.policy import Policy
from fabricbios.errors import WireError
from fabricbios.model import (
    BLOCK_SIZE,
    NS,
    Binding,
    DpAuth,
    DpOp,
    DpStatus,
    Instant,
    Resource,
    ResourceType,
    Transport,
    resource_id_of,
)
from fabricbios.ports import LeaseSpec, StreamPeer
from fabricbios.testing import FakeDataPlane, FakeJournal, FakeTrust, carry_out
from fabricbios.transport import Identity, QuicServer
from fabricbios.wire import (
    BlockGeometry,
    BlockHelloAck,
    DpAuthTlv,
    Endpoint,
    FbbuHello,
    FbbuHelloAck,
    FbbuReadBlock,
    FbbuReadBlockResp,
    FbbuWriteBlock,
    FbbuWriteBlockResp,
    FbmuError,
    FbmuHello,
    FbmuHelloAck,
    FbmuPing,
    FbmuPong,
    FbmuRead,
    FbmuReadResp,
    FbmuWrite,
    FbmuWriteResp,
    HelloAck,
    Limits,
    Pong,
    ReadBlockResp,
    ReadResp,
    StatusOnly,
    Tagger,
    with_tag,
)

KINDS: dict[bytes, dict[int, Any]] = {
    b"FBMU": {DpOp.HELLO: FbmuHello, DpOp.READ: FbmuRead, DpOp.WRITE: FbmuWrite, DpOp.PING: FbmuPing},
    b"FBBU": {DpOp.HELLO: FbbuHello, DpOp.READ: FbbuReadBlock, DpOp.WRITE: FbbuWriteBlock},
}
LOOPBACK = bytes(10) + b"\xff\xff\x7f\0\0\1"
MAX_IO = 1024


class Held:
    """One lease's bytes as the data plane has them."""

    def __init__(self, size: int, mode: DpAuth, key: bytes) -> None:
        self.bytes, self.tagger = bytearray(size), Tagger(mode, key)
        self.highest_write = 0
        self.seen: set[int] = set()
        self.status = DpStatus.OK


class Memory(asyncio.DatagramProtocol):
    """Serves leases with the rules of D10. `loss`, `twice` and `late` are chances a datagram, each way."""

    def __init__(self, seed: int = 1) -> None:
        self.leases: dict[int, Held] = {}
        self.loss = self.twice = self.late = 0.0
        self.counts: Counter[str] = Counter()
        self.forge: bytes = b""  # sent before every answer, xored over its tag
        self.busy = 0
        self._rng = random.Random(seed)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._deliver(lambda: self._serve(data, addr))

    def _deliver(self, work: Any) -> None:
        if self._rng.random() < self.loss:
            self.counts["lost"] += 1
            return
        for _ in range(2 if self._rng.random() < self.twice else 1):
            if self._rng.random() < self.late:
                asyncio.get_running_loop().call_later(self._rng.random() * 0.03, work)
            else:
                work()

    def _serve(self, data: bytes, addr: Any) -> None:
        answer = self.answer(data)
        if answer is None:
            return
        if len(answer) > len(data):
            self.counts["amplified"] += 1
        if self.forge:
            self._send(with_tag(answer, self.forge), addr)
        self._deliver(lambda: self._send(answer, addr))

    def _send(self, answer: bytes, addr: Any) -> None:
        """What is late may come when nobody is there any more."""
        if not self._transport.is_closing():
            self._transport.sendto(answer, addr)

    def answer(self, data: bytes, quic: bool = False) -> bytes | None:
        """Judge one datagram (or message) and return the answer, None where it is dropped."""
        try:
            question = KINDS[data[:4]][data[5]].unpack(data, "quic" if quic else "udp")
        except (WireError, KeyError, IndexError):
            self.counts["malformed"] += 1
            return None
        held = self.leases.get(question.lease_id)
        if held is None or (not quic and held.tagger.tag_of(data) != question.auth_tag):
            self.counts["unauthentic"] += 1
            return None
        if question.nonce in held.seen and not quic:
            self.counts["replayed"] += 1
            return None
        held.seen.add(question.nonce)
        return self._sealed(self._operate(question, held), question, held, quic)

    def _sealed(self, answer: Any, question: Any, held: Held, quic: bool) -> bytes:
        packed: bytes = answer.pack("quic" if quic else "udp")
        if quic:
            return packed
        repeats = held.tagger.mode == DpAuth.HMAC_HEADER
        return with_tag(packed, question.auth_tag if repeats else held.tagger.tag_of(packed))

    def _operate(self, q: Any, held: Held) -> Any:
        head = q.request_id, q.lease_id, q.nonce
        if self.busy:
            self.busy -= 1
            return FbmuError(*head, StatusOnly(DpStatus.BUSY))
        match q:
            case FbmuHello():
                return FbmuHelloAck(*head, HelloAck(held.status, len(held.bytes), MAX_IO, MAX_IO))
            case FbbuHello():
                count = len(held.bytes) // BLOCK_SIZE
                return FbbuHelloAck(*head, BlockHelloAck(held.status, BLOCK_SIZE, count, 2))
            case FbmuPing():
                return FbmuError(*head, StatusOnly(held.status)) if held.status else FbmuPong(*head, Pong())
            case FbmuRead(payload=p):
                status = held.status or self._range(held, p.offset, p.length)
                found = bytes(held.bytes[p.offset : p.offset + p.length]) if not status else b""
                return FbmuReadResp(*head, ReadResp(status, len(found), found))
            case FbbuReadBlock(payload=p):
                start, size = p.block_index * BLOCK_SIZE, p.block_count * BLOCK_SIZE
                status = held.status or self._range(held, start, size)
                found = bytes(held.bytes[start : start + size]) if not status else b""
                return FbbuReadBlockResp(*head, ReadBlockResp(status, len(found) // BLOCK_SIZE, found))
            case FbmuWrite(payload=p):
                return FbmuWriteResp(*head, StatusOnly(self._write(held, q.nonce, p.offset, p.data)))
            case FbbuWriteBlock(payload=p):
                status = self._write(held, q.nonce, p.block_index * BLOCK_SIZE, p.block_data)
                return FbbuWriteBlockResp(*head, StatusOnly(status))

    def _write(self, held: Held, nonce: int, offset: int, data: bytes) -> DpStatus:
        status = held.status or self._range(held, offset, len(data))
        if not status and nonce <= held.highest_write:
            self.counts["stale"] += 1
            return DpStatus.STALE_WRITE
        if not status:
            held.highest_write = nonce
            held.bytes[offset : offset + len(data)] = data
        return status

    def _range(self, held: Held, offset: int, length: int) -> DpStatus:
        return DpStatus.OK if offset + length <= len(held.bytes) else DpStatus.OUT_OF_RANGE


class MemoryPlane(FakeDataPlane):
    """The fake device of `testing`, bound to a Memory that really answers."""

    memory: Memory

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        found = super().do(step, lease)
        if step == "open":
            self.memory.leases[lease.lease_id] = Held(lease.size, lease.dp_auth, lease.dp_key)
        return found

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        old = self.memory.leases[lease.lease_id]
        held = self.memory.leases[lease.lease_id] = Held(lease.size, lease.dp_auth, lease.dp_key)
        held.bytes = old.bytes
        return super().rekey(lease)

    def undo(self, step: str, lease: LeaseSpec) -> None:
        super().undo(step, lease)
        if step == "open":
            self.memory.leases[lease.lease_id].status = DpStatus.EXPIRED

    def _tlvs(self, lease: LeaseSpec) -> tuple[Any, ...]:
        block = lease.kind == ResourceType.BLOCK
        quic = lease.binding == Binding.QUIC
        udp_kind = Transport.FBBU_UDP if block else Transport.FBMU_UDP
        kind = (Transport.FBBU_QUIC if block else Transport.FBMU_QUIC) if quic else udp_kind
        most = 65_536 if quic else MAX_IO
        tlvs: tuple[Any, ...] = (Endpoint(kind, LOOPBACK, self.memory.port), Limits(lease.size, most, most))
        if block:
            tlvs += (BlockGeometry(BLOCK_SIZE, lease.size // BLOCK_SIZE, most // BLOCK_SIZE),)
        return (*tlvs, DpAuthTlv(lease.dp_auth))


def now() -> Instant:
    leapt = int(ahead() * NS)
    return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + leapt, (time.time_ns() + leapt) // 1_000_000)


class NodeRig:
    """Drives a real core behind a real QUIC server. Trusts `friend`."""

    def __init__(self, policy: Policy) -> None:
        self.identity, self.friend = Identity.generate(), Identity.generate()
        self.memory, self.journal = Memory(), FakeJournal()
        self.plane = MemoryPlane(capacity=1 << 26)
        self.plane.memory = self.memory
        self.trust = FakeTrust({self.friend.node_id})
        setup = Setup(self.identity.node_id, bytes(32), "boot", now(), policy)
        offers = [self._offer(kind) for kind in (ResourceType.MEM, ResourceType.BLOCK)]
        self.core = CoreNode(setup, offers, self.trust, random.Random(1))
        self.server = QuicServer(self.identity, self)
        self.asked: Counter[int] = Counter()

    def _offer(self, kind: ResourceType) -> Offer:
        resource_id = resource_id_of(self.identity.node_id, kind, "fake")
        bindings = (Binding.UDP, Binding.QUIC)
        granule = BLOCK_SIZE if kind == ResourceType.BLOCK else 1
        resource = Resource(resource_id, kind, self.plane.capacity, "fake", bindings)
        return Offer(resource, bindings, self.plane.steps, granule=granule)

    def connection_opened(self, peer: StreamPeer) -> None:
        self.core.connection_opened(peer)

    def connection_closed(self, connection: int) -> None:
        self.core.connection_closed(connection)

    def request_limit(self, peer: StreamPeer, first_bytes: bytes) -> int:
        return (1 << 20) + 100 if peer.node_id in self.trust.ids else 4096

    def request(self, data: bytes, peer: StreamPeer) -> None:
        if data[:4] != b"FBIO":
            answer = self.memory.answer(data, quic=True)
            if answer is None:
                self.server.reset(peer, 1)
            else:
                self.server.answer(peer, answer)
            return
        self.core.receive(data, peer, now())
        self.turn()

    def turn(self) -> None:
        """Do what the core wants done, and send what it has to say."""
        self.core.handle_timer(now())
        while (effect := self.core.next_effect()) is not None:
            try:
                result = carry_out(effect, self.plane, self.journal)
            except OSError as error:
                self.core.effect_failed(effect, error, now())
            else:
                self.core.effect_succeeded(effect, result, now())
        for data, to in self.core.datagrams_to_send(now()):
            if isinstance(to, Push):
                self.server.push(to.connection, data)
            elif isinstance(to, Reset):
                self.server.reset(StreamPeer(to.connection, to.stream, 0, b"", b"", ("", 0), ("", 0)), to.code)
            else:
                self.server.answer(to, data)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self.turn()


@asynccontextmanager
async def node_rig(policy: Policy | None = None) -> AsyncIterator[NodeRig]:
    """Serve a node on loopback; `rig.port` is its control port."""
    rig = NodeRig(policy or Policy())
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: rig.memory, local_addr=("127.0.0.1", 0))
    _, rig.port = await rig.server.start("127.0.0.1", 0)
    ticking = asyncio.create_task(rig.tick())
    try:
        yield rig
    finally:
        ticking.cancel()
        await rig.server.close()
        transport.close()
