"""Public fakes, for this project's tests and everybody else's: a clock, a data plane that fails on purpose, a journal.

`FakeNode` puts them around a real `core.node.Node`, with effects carried out at once and answers decoded.
"""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fabricbios.core.effects import Adopt, Do, Effect, Entry, Fence, Forget, Record, Rekey, Renew, Undo
from fabricbios.core.node import Close, Destination, Node, Offer, Push, Reset, Setup
from fabricbios.core.policy import Policy
from fabricbios.errors import FabricError, Refused
from fabricbios.model import NS, Binding, Instant, Op, Resource, ResourceType, Status, Transport, resource_id_of
from fabricbios.ports import LeaseSpec, StreamPeer
from fabricbios.wire import (
    CapRequestParams,
    DpKey,
    Endpoint,
    ErrorResult,
    Frame,
    LeaseAllocParams,
    LeaseAllocResult,
    LeaseEvent,
    Limits,
    MsgType,
    Reason,
    Request,
    Response,
)

NODE_ID = 0xF0
TOKEN_KEY = bytes(range(32))
STEPS = ("reserve", "open")


class SimClock:
    """Both clocks; BOOTTIME only goes forward, Unix time may be made to jump."""

    def __init__(self, boot_ns: int = 1_000 * NS, unix_ms: int = 1_800_000_000_000) -> None:
        self._boot_ns = boot_ns
        self._unix_ahead_ms = unix_ms - boot_ns // 1_000_000  # so that many small steps lose nothing to rounding

    @property
    def now(self) -> Instant:
        return Instant(self._boot_ns, self._unix_ahead_ms + self._boot_ns // 1_000_000)

    def advance(self, seconds: float) -> Instant:
        """Let time pass."""
        self.advance_to(self._boot_ns + int(seconds * NS))
        return self.now

    def advance_to(self, boot_ns: int) -> None:
        self._boot_ns = max(self._boot_ns, boot_ns)

    def jump_unix(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._unix_ahead_ms += int(seconds * 1000)


class FakeJournal:
    """A journal in memory. `fail_next` appends fail with ENOSPC; entries pass through JSON, as on a disk."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fail_next = 0

    def append(self, entries: Sequence[Entry], durable: bool) -> None:
        if self.fail_next:
            self.fail_next -= 1
            raise OSError(errno.ENOSPC, "fake journal is full")
        self.lines += map(json.dumps, entries)

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@dataclass
class FakeHolding:
    """What the fake device holds for one lease."""

    start: int
    size: int
    open: bool = False
    expires_ns: int = 0
    generation: int = 0
    dp_key: bytes = b""


@dataclass
class FakeDataPlane:
    """A device of `capacity` bytes that hands out ranges first fit, and fails where it is told to.

    `failures` maps (verb, step) to how many times it fails, -1 for ever; verbs are do, undo, adopt, renew,
    rekey, forget. `half` lets a failing do happen all the same. It outlives the node, as hardware does.
    """

    capacity: int = 1 << 30
    failures: dict[tuple[str, str], int] = field(default_factory=dict)
    half: bool = False
    held: dict[int, FakeHolding] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)  # until forget: what answers EXPIRED
    fenced: set[int] = field(default_factory=set)
    calls: list[tuple[str, str, int]] = field(default_factory=list)

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        return STEPS

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        if self._fails("do", step, lease):
            if self.half:
                self._apply(step, lease)
            raise OSError(errno.EIO, f"fake do {step}")
        self._apply(step, lease)
        return self._tlvs(lease) if step == "open" else (DpKey(lease.dp_key),) if step == "reserve" else ()

    def _apply(self, step: str, lease: LeaseSpec) -> None:
        if step == "reserve":
            self.held[lease.lease_id] = FakeHolding(self._place(lease.size), lease.size)
            return
        holding = self.held[lease.lease_id]
        holding.open, holding.expires_ns, holding.generation = True, lease.expires_ns, lease.generation
        holding.dp_key = self.keys[lease.lease_id] = lease.dp_key

    def _place(self, size: int) -> int:
        at = 0
        for h in sorted(self.held.values(), key=lambda h: h.start):
            if h.start - at >= size:
                break
            at = h.start + h.size
        if at + size > self.capacity:
            raise OSError(errno.ENOSPC, "fake device is full")
        return at

    def undo(self, step: str, lease: LeaseSpec) -> None:
        if self._fails("undo", step, lease):
            raise OSError(errno.EBUSY, f"fake undo {step}")
        if step == "reserve":
            self.held.pop(lease.lease_id, None)
        elif lease.lease_id in self.held:
            self.held[lease.lease_id].open = False

    def adopt(self, lease: LeaseSpec) -> Sequence[Any]:
        holding = self.held.get(lease.lease_id)
        if self._fails("adopt", "", lease) or holding is None or not holding.open:
            raise OSError(errno.ENOENT, "fake: not whole")
        holding.expires_ns, holding.generation = lease.expires_ns, lease.generation
        return ()

    def renew(self, lease: LeaseSpec) -> None:
        if self._fails("renew", "", lease):
            raise OSError(errno.EIO, "fake renew")
        holding = self.held[lease.lease_id]
        holding.expires_ns, holding.generation = lease.expires_ns, lease.generation

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        if self._fails("rekey", "", lease):
            raise OSError(errno.EIO, "fake rekey")
        self.held[lease.lease_id].dp_key = self.keys[lease.lease_id] = lease.dp_key
        return (*self._tlvs(lease), DpKey(lease.dp_key))

    def fence(self, lease: LeaseSpec) -> None:
        self.fenced.add(lease.lease_id)

    def forget(self, lease: LeaseSpec) -> None:
        if self._fails("forget", "", lease):
            raise OSError(errno.EIO, "fake forget")
        self.keys.pop(lease.lease_id, None)
        self.fenced.discard(lease.lease_id)

    def may_access(self, lease_id: int, now: Instant) -> bool:
        """Whether the data path would serve this lease now."""
        holding = self.held.get(lease_id)
        return holding is not None and holding.open and now.boot_ns < holding.expires_ns

    def _tlvs(self, lease: LeaseSpec) -> tuple[Any, ...]:
        loopback = bytes(10) + b"\xff\xff\x7f\0\0\1"
        return (Endpoint(int(Transport.FBMU_UDP), loopback, 5702), Limits(lease.size, 1024, 1024))

    def _fails(self, verb: str, step: str, lease: LeaseSpec) -> bool:
        self.calls.append((verb, step, lease.lease_id))
        left = self.failures.get((verb, step), 0)
        if left > 0:
            self.failures[verb, step] = left - 1
        return left != 0


@dataclass
class FakeTrust:
    """Trusts the ids it is told to; `claimable` lets the first CAP_REQUEST claim."""

    ids: set[int] = field(default_factory=set)
    claimable: bool = False
    owners: set[int] = field(default_factory=set)
    approved: dict[int, bytes] = field(default_factory=dict)
    controller: bytes | None = None

    def trusted(self, peer: StreamPeer, now: Instant) -> bool:
        return peer.node_id in self.ids

    def claim(self, peer: StreamPeer, now: Instant) -> bool:
        if not self.claimable or self.ids or not peer.public_key:
            return False
        self.ids.add(peer.node_id)
        self.owners.add(peer.node_id)
        return True

    def only_controller(self) -> bytes | None:
        return self.controller

    def is_owner(self, node_id: int) -> bool:
        return node_id in self.owners

    def is_approved(self, node_id: int, public_key: bytes) -> bool:
        return self.approved.get(node_id) == public_key

    def stands(self, node_id: int, certificate: bytes | None) -> bool:
        return node_id in self.ids

    def spend_approval(self, node_id: int) -> None:
        self.approved.pop(node_id, None)


def peer_of(node_id: int, connection: int = 0, stream: int = 0, host: str = "192.0.2.1") -> StreamPeer:
    """Return a peer whose key is a stand-in: only its id counts for FakeTrust."""
    key = node_id.to_bytes(32, "big") if node_id else b""
    return StreamPeer(connection or node_id, stream, node_id, key, b"", (host, 40_000), ("192.0.2.9", 5701))


def memory_offer(plane: FakeDataPlane, name: str = "ram", granule: int = 4096) -> Offer:
    """Offer the whole fake device as memory over UDP, then QUIC."""
    resource_id = resource_id_of(NODE_ID, ResourceType.MEM, name)
    bindings = (Binding.UDP, Binding.QUIC)
    return Offer(
        Resource(resource_id, ResourceType.MEM, plane.capacity, name, bindings), bindings, plane.steps, granule=granule
    )


def setup(clock: SimClock, **changes: Any) -> Setup:
    """Return a Setup with test keys."""
    return Setup(NODE_ID, TOKEN_KEY, "boot-1", clock.now)._replace(**changes)


def carry_out(effect: Effect, plane: FakeDataPlane, journal: FakeJournal) -> Sequence[Any]:
    """Do what an effect says, as the daemon would. OSError where the fakes fail."""
    *_, result = parts(effect, plane, journal)
    return result


def fail_half_way(effect: Effect, plane: FakeDataPlane, journal: FakeJournal) -> None:
    """Let an effect that will be reported as failed happen all the same, as far as a failed one can: what comes after
    its success is not written. OSError where the fakes fail."""
    if isinstance(effect, Do | Undo):
        carry_out(replace(effect, after=None), plane, journal)
    elif not isinstance(effect, Record):
        carry_out(effect, plane, journal)


def parts(effect: Effect, plane: FakeDataPlane, journal: FakeJournal) -> Iterator[Sequence[Any]]:
    """Do what an effect says part by part, as a kill would find it; the last yields the result."""
    if isinstance(effect, Record):
        journal.append([effect.entry], effect.durable)
        yield ()
    elif isinstance(effect, Do):
        yield from _do(effect, plane, journal)
    elif isinstance(effect, Undo):
        yield from _undo(effect, plane, journal)
    else:
        yield _step(effect, plane)


def _do(effect: Do, plane: FakeDataPlane, journal: FakeJournal) -> Iterator[Sequence[Any]]:
    if effect.before is not None:
        journal.append([effect.before], effect.durable)
        yield ()
    result = plane.do(effect.step, effect.lease)
    yield result
    if effect.after is not None:
        journal.append([effect.after], durable=False)
        yield result


def _undo(effect: Undo, plane: FakeDataPlane, journal: FakeJournal) -> Iterator[Sequence[Any]]:
    """It goes on without the journal."""
    if effect.before is not None:
        with suppress(OSError):
            journal.append([effect.before], durable=False)
        yield ()
    plane.undo(effect.step, effect.lease)
    yield ()
    if effect.after is not None:
        with suppress(OSError):
            journal.append([effect.after], durable=False)
        yield ()


def _step(effect: Effect, plane: FakeDataPlane) -> Sequence[Any]:
    if isinstance(effect, Rekey):
        return plane.rekey(effect.lease)
    if isinstance(effect, Adopt):
        return plane.adopt(effect.lease)
    if isinstance(effect, Renew):
        plane.renew(effect.lease)
    elif isinstance(effect, Fence):
        plane.fence(effect.lease)
    elif isinstance(effect, Forget):
        plane.forget(effect.lease)
    return ()


@dataclass(frozen=True)
class FakeAnswer:
    """A decoded RESPONSE. `reason` is empty when the status is OK."""

    status: Status
    op: int
    result: bytes
    reason: str = ""


class FakeNode:
    """A real Node on fakes: `ask` one op and get its answer; `events` are the pushes, `resets` the resets."""

    def __init__(
        self,
        plane: FakeDataPlane | None = None,
        *,
        clock: SimClock | None = None,
        trusted: Iterable[int] = (1, 2),
        policy: Policy | None = None,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        self.clock = clock or SimClock()
        self.plane = plane or FakeDataPlane()
        self.journal = FakeJournal()
        self.trust = FakeTrust(set(trusted))
        self._setup = setup(self.clock, policy=policy or Policy(), **changes)
        self._rng = random.Random(seed)
        self.offers = [memory_offer(self.plane)]
        self.events: list[tuple[int, LeaseEvent]] = []
        self.resets: list[Reset] = []
        self.closed: list[int] = []
        self._answers: dict[tuple[int, int], FakeAnswer] = {}
        self._stream = 0
        self.start()

    def start(self, **changes: Any) -> None:
        """Start, or start again after a kill -9: all that remains are journal, device and trust."""
        self.node = Node(self._setup._replace(**changes), self.offers, self.trust, self._rng)
        self.node.restore(self.journal.entries(), self.clock.now)

    def ask(self, node_id: int, op: Op | int, params: Any = b"", *, run: bool = True, **fields: Any) -> FakeAnswer:
        """Send one REQUEST as `node_id` and return its answer. FabricError where none came yet."""
        peer = self.send(node_id, op, params, **fields)
        if run:
            self.run()
        return self.answer(peer)

    def send(self, node_id: int, op: Op | int, params: Any = b"", **fields: Any) -> StreamPeer:
        """Send one REQUEST; `answer` has what came of it later."""
        self._stream += 4
        peer = peer_of(node_id, stream=self._stream)
        raw = params if isinstance(params, bytes) else params.pack()
        request = Request(int(op), params=raw, **fields).pack()
        frame = Frame(int(MsgType.REQUEST), 0, self._stream, self.clock.now.unix_ms, node_id, request)
        self.node.receive(frame.pack(), peer, self.clock.now)
        return peer

    def answer(self, peer: StreamPeer) -> FakeAnswer:
        self._collect()
        try:
            return self._answers[peer.connection, peer.stream]
        except KeyError:
            raise FabricError("no answer yet") from None

    def run(self) -> None:
        """Carry out effects until there are none; time stands still."""
        while (effect := self.node.next_effect()) is not None:
            self.run_one(effect)

    def run_one(self, effect: Effect) -> None:
        try:
            result = carry_out(effect, self.plane, self.journal)
        except OSError as e:
            self.node.effect_failed(effect, e, self.clock.now)
        else:
            self.node.effect_succeeded(effect, result, self.clock.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, stopping at every deadline on the way to do what is due."""
        end = self.clock.now.boot_ns + int(seconds * NS)
        while (deadline := self.node.next_deadline()) is not None and deadline <= end:
            self.clock.advance_to(deadline)
            self.node.handle_timer(self.clock.now)
            self.run()
        self.clock.advance_to(end)
        self._collect()

    def _collect(self) -> None:
        for data, to in self.node.datagrams_to_send(self.clock.now):
            self._deliver(data, to)

    def _deliver(self, data: bytes, to: Destination) -> None:
        if isinstance(to, Reset):
            self.resets.append(to)
            return
        if isinstance(to, Close):
            self.closed.append(to.connection)
            return
        payload = Frame.unpack(data, "quic").payload
        if isinstance(to, Push):
            self.events.append((to.connection, LeaseEvent.unpack(payload)))
            return
        r = Response.unpack(payload)
        self._answers[to.connection, to.stream] = FakeAnswer(Status(r.status), r.op, r.result, _reason(r))

    # -- what nearly every test begins with

    def token(self, node_id: int, perms: int = 255, *, resource_id: int = 0, **fields: Any) -> bytes:
        """Return a token from CAP_REQUEST, or raise Refused."""
        wish = {"ttl_secs": 300, "audience": node_id, **fields}
        got = self.ask(node_id, Op.CAP_REQUEST, CapRequestParams(perms, **wish), resource_id=resource_id)
        return self._ok(got).result

    def alloc(self, node_id: int, secs: int = 60, grace: int = 0, size: int = 8192, **fields: Any) -> LeaseAllocResult:
        """Return a lease of memory, or raise Refused."""
        params = LeaseAllocParams(secs, grace, int(ResourceType.MEM), size)
        got = self.ask(node_id, Op.LEASE_ALLOC, params, **{"token": self.token(node_id), **fields})
        return LeaseAllocResult.unpack(self._ok(got).result)

    def _ok(self, answer: FakeAnswer) -> FakeAnswer:
        if answer.status is not Status.OK:
            raise Refused.of(answer.status, answer.reason)
        return answer


def _reason(response: Response) -> str:
    if response.status == Status.OK:
        return ""
    return next((t.reason for t in ErrorResult.unpack(response.result).tlvs if isinstance(t, Reason)), "")
