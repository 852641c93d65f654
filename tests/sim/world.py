"""A node with hostile luck: effects finish in any order, fail, half happen; answers get lost; the daemon is killed.

Everything is drawn from one seed, so that a failing seed replays bit for bit. `World.check` holds the
invariants after every step; `World.finish` brings all to rest and finds nothing left.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

from fabricbios.core.effects import Do, Effect, Record, Undo
from fabricbios.core.node import Node, Reset
from fabricbios.core.outbox import Push
from fabricbios.model import NS, LeaseState, Op, ResourceFlags, ResourceType, Status, hex128
from fabricbios.ports import StreamPeer
from fabricbios.simulation.machine import PromisingJournal
from fabricbios.testing import (
    NODE_ID,
    TOKEN_KEY,
    FakeDataPlane,
    FakeTrust,
    SimClock,
    carry_out,
    fail_half_way,
    memory_offer,
    parts,
    peer_of,
    setup,
)
from fabricbios.wire import (
    FenceClearParams,
    Frame,
    LeaseAllocParams,
    LeaseAllocResult,
    LeaseAttachParams,
    LeaseFreeParams,
    LeaseRenewParams,
    LeaseRevokeParams,
    MsgType,
    Request,
    Response,
    Token,
)
from fabricbios.wire.token import mint

CLIENTS = (1, 2, 3)
PAGE = 4096
_MEM = int(ResourceType.MEM)
# Good at any time and for anything, so that a jump of Unix time does not end the game.
_TOKENS = {
    c: mint(Token(token_id=c, issuer=NODE_ID, audience=c, perms=255, expires_at=1 << 62), TOKEN_KEY).pack()
    for c in CLIENTS
}


class World:
    """One node, three clients, one device of 16 pages, one journal."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = SimClock()
        self.plane = FakeDataPlane(capacity=16 * PAGE)
        self.journal = PromisingJournal()
        self.trust = FakeTrust(set(CLIENTS))
        self.offer = memory_offer(self.plane)
        self.setup = setup(self.clock)
        self.flying: list[Effect] = []
        self.asked: dict[tuple[int, int], tuple[Op, int, bool]] = {}  # op, lease, was the resource fenced then
        self.ids: list[tuple[int, int]] = []  # leases that clients heard of, with their holders
        self.seen: set[str] = set()
        self.freed: set[int] = set()  # leases whose FREE or revocation was answered as done
        self.trace = hashlib.sha256()
        self.fails = 0.0
        self.sick = self.rng.random() < 0.2  # undos fail for as long as this lasts
        self.stream = 0
        self.crashes = self.compactions = 0
        self.begun: dict[Effect, Sequence[Any] | OSError] = {}  # in flight, and the result of the step
        self.start()
        self.settle_in()

    def start(self) -> None:
        self.node = Node(self.setup, [self.offer], self.trust, self.rng)
        self.node.restore(self.journal.entries(), self.clock.now)
        for client in CLIENTS:
            self.node.connection_opened(peer_of(client))

    def settle_in(self) -> None:
        """Begin with a few leases in place, before luck turns."""
        for client in CLIENTS:
            if self.rng.random() < 0.7:
                params = LeaseAllocParams(self.rng.choice((5, 60)), self.rng.choice((0, 20)), _MEM, PAGE)
                self.send(client, Op.LEASE_ALLOC, params.pack())
        self.settle()
        self.fails = self.rng.choice((0.0, 0.05, 0.25))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.check()

    def step(self) -> None:
        luck = self.rng.random()
        if luck < 0.2:
            self.ask()
        elif luck < 0.52:
            self.take_off()
        elif luck < 0.88:
            self.land()
        elif luck < 0.96:
            self.wait(self.rng.choice((1, 8) if self.sick else (0.01, 0.1, 0.3, 1, 8)))
        elif luck < 0.97:
            self.sick = not self.sick
        elif luck < 0.98:
            self.compact()
        else:
            self.crash()
        self.listen()

    # -- clients

    def ask(self) -> None:
        rng = self.rng
        client, lease_id = rng.choice(self.ids[-4:]) if self.ids else (1, 5)
        if rng.random() < 0.2:
            client = rng.choice(CLIENTS)
        secs, grace, size = rng.choice((2, 10, 60)), rng.choice((0, 4)), rng.randint(1, 20_000)
        op, params = rng.choice(
            (
                (Op.LEASE_RENEW, LeaseRenewParams(lease_id, secs)),
                (Op.LEASE_ALLOC, LeaseAllocParams(secs, grace, _MEM, size)),
                (Op.LEASE_RENEW, LeaseRenewParams(lease_id, secs)),
                (Op.LEASE_FREE, LeaseFreeParams(lease_id)),
                (Op.LEASE_REVOKE, LeaseRevokeParams(lease_id, rng.choice((0, 3)))),
                (Op.LEASE_ATTACH, LeaseAttachParams(lease_id)),
                (Op.FENCE_CLEAR, FenceClearParams(self.offer.resource.resource_id)),
            )
        )  # fmt: skip
        self.send(client, op, params.pack(), lease_id)

    def send(self, client: int, op: Op, params: bytes, lease_id: int = 0) -> None:
        self.stream += 4
        peer = peer_of(client, stream=self.stream)
        self.asked[peer.connection, peer.stream] = (op, lease_id, self.fenced)
        request = Request(int(op), token=_TOKENS[client], params=params).pack()
        frame = Frame(int(MsgType.REQUEST), 0, self.stream, 1, client, request).pack()
        self.node.receive(frame, peer, self.clock.now)

    @property
    def fenced(self) -> bool:
        return bool(self.node.summaries()[0].flags & ResourceFlags.FENCED)

    def listen(self) -> None:
        """Take what the node sends; one answer in ten is lost on the way."""
        self.seen |= {event.name for event in self.node.events()}
        for data, to in self.node.datagrams_to_send(self.clock.now):
            self.trace.update(data)
            assert not isinstance(to, Reset)
            if isinstance(to, StreamPeer):
                self.hear(Response.unpack(Frame.unpack(data, "quic").payload), to)
            else:
                assert isinstance(to, Push)

    def hear(self, response: Response, to: StreamPeer) -> None:
        op, lease_id, was_fenced = self.asked.pop((to.connection, to.stream))
        ok = response.status == Status.OK
        if op is Op.LEASE_ALLOC and was_fenced:
            assert response.status == Status.RESOURCE_FENCED, "a fenced resource was leased"
        if op is Op.LEASE_FREE and ok:
            self.freed.add(lease_id)
        if op is Op.LEASE_REVOKE and ok and response.result == b"\0":
            self.freed.add(lease_id)
        if op is Op.LEASE_ALLOC and ok and self.rng.random() < 0.9:
            self.ids.append((to.node_id, LeaseAllocResult.unpack(response.result).lease_id))

    # -- effects

    def take_off(self) -> None:
        """Begin some of the effects that are wanted."""
        while self.rng.random() < 0.9 and (effect := self.node.next_effect()) is not None:
            theirs = effect.lease
            busy = [e for e in self.flying if e.lease is not None and theirs is not None]
            assert all(e.lease.lease_id != theirs.lease_id for e in busy), "two effects of one lease at once"  # type: ignore[union-attr]
            self.flying.append(effect)

    def land(self) -> None:
        """Some of the effects under way come to their ends, in any order and whichever way."""
        for _ in range(min(len(self.flying), self.rng.randint(1, 6))):
            effect = self.flying.pop(self.rng.randrange(len(self.flying)))
            error = self.outcome(effect)
            if error is not None:
                self.node.effect_failed(effect, error, self.clock.now)

    def outcome(self, effect: Effect) -> OSError | None:
        """Carry out an effect and report success, or return the failure; a failed one may have happened."""
        fails = self.rng.random() < self.fails or (self.sick and isinstance(effect, Undo))
        try:
            if effect in self.begun:
                return self.end(effect)
            if not fails:
                self.node.effect_succeeded(effect, carry_out(effect, self.plane, self.journal), self.clock.now)
                return None
            if self.rng.random() < 0.5:
                fail_half_way(effect, self.plane, self.journal)
        except OSError as e:
            return e
        return OSError(errno.EIO, "bad luck")

    def compact(self) -> None:
        """The journal is written anew while steps run: of each so much may have happened as happens beside the loop."""
        if any(isinstance(effect, Record) for effect in self.flying):
            return
        self.compactions += 1
        for effect in self.flying:
            if isinstance(effect, Do | Undo) and effect not in self.begun and self.rng.random() < 0.5:
                try:
                    self.begun[effect] = carry_out(replace(effect, after=None), self.plane, self.journal)
                except OSError as e:
                    self.begun[effect] = e
        self.journal.lines = [json.dumps(entry) for entry in self.node.journal()]

    def end(self, effect: Effect) -> OSError | None:
        """Let happen what is left of an effect that was begun. OSError where the journal does not take it."""
        result = self.begun.pop(effect)
        if isinstance(result, OSError):
            return result
        if isinstance(effect, Do | Undo) and effect.after is not None:
            self.journal.append([effect.after], durable=False)
        self.node.effect_succeeded(effect, result, self.clock.now)
        return None

    # -- time and death

    def wait(self, seconds: float) -> None:
        end = self.clock.now.boot_ns + int(seconds * NS)
        deadline = self.node.next_deadline()
        late = deadline is None or self.rng.random() < 0.3  # the loop was held up
        self.clock.advance_to(end if late or deadline is None else min(end, deadline))
        if self.rng.random() < 0.1:
            self.clock.jump_unix(self.rng.randint(-1000, 1000))
        self.node.handle_timer(self.clock.now)

    def crash(self) -> None:
        """kill -9: of what was under way some parts happened, some did not, and nobody knows."""
        self.crashes += 1
        for effect in self.flying:
            if self.begun.pop(effect, None) is not None:
                continue
            with suppress(OSError):
                for _ in islice(parts(effect, self.plane, self.journal), self.rng.randint(0, 3)):
                    pass
        self.flying.clear()
        self.asked.clear()
        if self.rng.random() < 0.3:
            self.clock.advance(self.rng.choice((1, 10)))
        self.start()

    # -- what must hold

    def check(self) -> None:
        held = {lease.spec.lease_id: lease for lease in self.node.leases() if lease.state is not LeaseState.FREE}
        assert set(self.plane.held) <= set(held), "something is held for a lease that is over"
        assert not self.freed & set(self.plane.held), "something is held after FREE was answered"
        # An end that could not be recorded comes back after a kill, beside what was granted since: it holds nothing.
        real = [lease for lease_id, lease in held.items() if not lease.ending or lease_id in self.plane.held]
        assert sum(lease.spec.size for lease in real) <= self.plane.capacity, "more is granted than there is"
        for lease_id, holding in self.plane.held.items():
            if holding.open:
                promised = self.journal.promised[hex128(lease_id)]
                assert holding.expires_ns <= promised, "the data path lets in for longer than was recorded"
        places = sorted((h.start, h.start + h.size) for h in self.plane.held.values())
        assert all(a[1] <= b[0] for a, b in pairwise(places)), "two leases on the same bytes"

    def finish(self) -> str:
        """Let luck turn: kill it once more, clear fences, drain; nothing may be left. Return the trace."""
        self.fails, self.sick = 0.0, False
        self.crash()
        self.settle()
        self.send(CLIENTS[0], Op.FENCE_CLEAR, FenceClearParams(self.offer.resource.resource_id).pack())
        self.settle()
        assert not self.fenced, "a cleared fence stands"
        self.node.drain(self.clock.now)
        self.settle()
        assert self.node.drained
        assert not self.plane.held, "something is left behind"
        assert self.node.summaries()[0].available == self.plane.capacity, "the books do not add up"
        assert not list(self.node.journal()), "the journal has not forgotten"
        self.trace.update("\n".join(self.journal.lines).encode())
        return self.trace.hexdigest()

    def settle(self) -> None:
        while self.flying or (effect := self.node.next_effect()) is not None:
            if not self.flying:
                self.flying.append(effect)
            self.land()
            self.listen()
            self.check()
