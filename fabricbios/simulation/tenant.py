"""A client with a life of its own: finds nodes through the relay, leases, renews, frees, and now and then crashes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from fabricbios.errors import WireError
from fabricbios.model import ALL_PERMS, NS, LeaseEventKind, Op, ResourceType, RevokeOutcome, Status, id_of_key
from fabricbios.ports import UdpPeer
from fabricbios.simulation.invariants import must
from fabricbios.simulation.machine import PAGE, Machine, new_key
from fabricbios.simulation.network import Connection, Network
from fabricbios.simulation.schedule import Schedule
from fabricbios.transport.asker import Question
from fabricbios.transport.node_entry import NodeEntry
from fabricbios.wire import (
    CapRequestParams,
    FenceClearParams,
    Frame,
    LeaseAllocParams,
    LeaseAllocResult,
    LeaseAttachParams,
    LeaseEvent,
    LeaseFreeParams,
    LeaseRenewParams,
    LeaseRenewResult,
    LeaseRevokeParams,
    LeaseRevokeResult,
    MsgType,
    Request,
    Response,
)

MAX_LEASES = 6
PAUSE = 0.5  # seconds between two deeds, on average
ASK_RELAY = 0.1  # of the deeds
CRASH = 0.01
AWAY = 5.0  # seconds until a crashed client is back, on average
TOKEN_SECS = 300
_OVER = frozenset({LeaseEventKind.REVOKED, LeaseEventKind.EXPIRED, LeaseEventKind.FENCED})

Then = Callable[[Status, bytes], None]


class Tenant:
    """`machines` says which machine an id is: the address book that QUIC would be."""

    def __init__(
        self, number: int, schedule: Schedule, network: Network, rng: random.Random, machines: Mapping[int, Machine],
        relay: UdpPeer,
    ) -> None:  # fmt: skip
        self.name = f"client-{number}"
        self.address = UdpPeer(f"10.58.{number >> 8}.{number & 255}", 40_000)
        self._schedule, self._network, self._rng = schedule, network, rng
        self._machines, self._relay = machines, relay
        _, self.public_key = new_key(rng)
        self.node_id = id_of_key(self.public_key)
        self.found: list[NodeEntry] = []
        self.stopped = False
        self._is_admin = number == 0
        self._leases: dict[int, Machine] = {}
        self._tokens: dict[int, bytes] = {}
        self._connections: dict[int, Connection] = {}
        self._question: Question | None = None
        self._request_id = 0
        self._life = 0
        network.attach(self.address, self._datagram)

    # -- the course of its life

    def start(self) -> None:
        self._solicit()
        self._next(self._life, PAUSE)

    def _next(self, life: int, mean: float) -> None:
        self._schedule.after(self._rng.expovariate(1 / mean), lambda: self._live(life))

    def _live(self, life: int) -> None:
        if self.stopped or life != self._life:
            return
        if self._rng.random() < CRASH:
            self._crash()
            return
        self._do_something()
        self._next(life, PAUSE)

    def _do_something(self) -> None:
        rng = self._rng
        luck = rng.random()
        if luck < ASK_RELAY or not self.found:
            self._solicit()
        elif luck < 0.45 and len(self._leases) < MAX_LEASES:
            self._alloc(self._known())
        elif luck < 0.5 and self._is_admin:
            self._take_away(self._known())
        elif self._leases:
            lease_id = rng.choice(list(self._leases))
            rng.choice((self._renew, self._renew, self._renew, self._free, self._attach))(lease_id)

    def _crash(self) -> None:
        """Everything is forgotten but the key: the leases run out by themselves."""
        self._schedule.note("client.crashed", self.name)
        self._life += 1
        self._network.forget(self)
        self._leases.clear()
        self._tokens.clear()
        self._connections.clear()
        self.found, self._question = [], None
        life = self._life
        self._schedule.after(self._rng.expovariate(1 / AWAY), lambda: self._next(life, PAUSE))

    def _known(self) -> Machine:
        return self._machines[self._rng.choice(self.found).node_id]

    # -- discovery

    def _solicit(self) -> None:
        self._question = Question(sender=self.node_id, rng=self._rng.randbytes)
        self._ask_relay(self._question)

    def _ask_relay(self, question: Question) -> None:
        if question is not self._question:
            return
        now = self._schedule.clock.now
        for data in question.questions_to_send(now):
            self._network.send(data, self.address, self._relay)
        deadline = question.next_deadline()
        if deadline is not None:
            self._schedule.at(deadline, lambda: self._ask_relay(question))

    def _datagram(self, data: bytes, peer: UdpPeer) -> None:
        question = self._question
        if question is None:
            return
        again = question.receive(data, peer.host, self._schedule.clock.now)
        if again is not None:
            self._network.send(again, self.address, peer)
        if question.done:
            self._question = None
            self.found = question.entries
            self._schedule.note("client.found", self.name, len(self.found))
            for entry in self.found:
                must(
                    entry.verified, f"an entry of the relay is not proven: {entry.flaw}", self._machines[entry.node_id]
                )

    # -- leases

    def _alloc(self, machine: Machine) -> None:
        rng = self._rng
        params = LeaseAllocParams(
            rng.choice((2, 10, 60)), rng.choice((0, 0, 5)), int(ResourceType.MEM), rng.randint(1, 4) * PAGE
        )

        def granted(status: Status, result: bytes) -> None:
            self._schedule.note("alloc.answered", self.name, status.name)
            if status is Status.OK:
                got = LeaseAllocResult.unpack(result)
                must(got.lease_id not in machine.told, "a lease id was given twice", machine)
                machine.told[got.lease_id] = got.expires_at
                self._leases[got.lease_id] = machine

        self._with_token(machine, Op.LEASE_ALLOC, params, granted)

    def _renew(self, lease_id: int) -> None:
        machine = self._leases[lease_id]

        def renewed(status: Status, result: bytes) -> None:
            if status is Status.OK:
                told = LeaseRenewResult.unpack(result).expires_at
                must(told >= machine.told[lease_id], "a renewal made a lease shorter", machine)
                machine.told[lease_id] = told
            elif status in (Status.LEASE_EXPIRED, Status.RESOURCE_NOT_FOUND):
                self._leases.pop(lease_id, None)

        self._with_token(machine, Op.LEASE_RENEW, LeaseRenewParams(lease_id, self._rng.choice((5, 30))), renewed)

    def _free(self, lease_id: int) -> None:
        machine = self._leases.pop(lease_id)

        def freed(status: Status, result: bytes) -> None:
            if status is Status.OK:
                machine.freed.add(lease_id)
                self._schedule.note("client.freed", self.name, lease_id)

        self._ask(machine, Op.LEASE_FREE, LeaseFreeParams(lease_id).pack(), b"", freed)

    def _attach(self, lease_id: int) -> None:
        """Take it up again: another key from now on."""
        params = LeaseAttachParams(lease_id).pack()
        self._ask(self._leases[lease_id], Op.LEASE_ATTACH, params, b"", lambda s, r: None)

    def _take_away(self, machine: Machine) -> None:
        """As the admin: revoke somebody's lease, with or without a warning; clear a fence."""
        if machine.up and machine.fenced:
            resource_id = machine.node.summaries()[0].resource_id
            self._with_token(machine, Op.FENCE_CLEAR, FenceClearParams(resource_id), self._cleared)
        elif machine.told:
            lease_id = self._rng.choice(list(machine.told)[-8:])
            params = LeaseRevokeParams(lease_id, self._rng.choice((0, 3)))

            def revoked(status: Status, result: bytes) -> None:
                done = status is Status.OK and LeaseRevokeResult.unpack(result).outcome == RevokeOutcome.TORN_DOWN
                if done:
                    machine.freed.add(lease_id)
                    self._schedule.note("client.revoked", lease_id)

            self._with_token(machine, Op.LEASE_REVOKE, params, revoked)

    def _cleared(self, status: Status, result: bytes) -> None:
        self._schedule.note("fence.cleared" if status is Status.OK else "fence.stands")

    def pushed(self, data: bytes) -> None:
        event = LeaseEvent.unpack(Frame.unpack(data, "quic").payload)
        self._schedule.note("client.told", self.name, LeaseEventKind(event.event).name)
        if event.event in _OVER:
            self._leases.pop(event.lease_id, None)

    # -- requests

    def _with_token(self, machine: Machine, op: Op, params: Any, then: Then) -> None:
        """Ask with a token, fetched where there is none; one that is refused is thrown away."""
        token = self._tokens.get(machine.node_id)
        if token is None:
            wish = CapRequestParams(ALL_PERMS, ttl_secs=TOKEN_SECS, audience=self.node_id).pack()

            def got(status: Status, result: bytes) -> None:
                if status is Status.OK:
                    self._tokens[machine.node_id] = result
                    self._ask(machine, op, params.pack(), result, then)

            self._ask(machine, Op.CAP_REQUEST, wish, b"", got)
            return

        def answered(status: Status, result: bytes) -> None:
            if status is Status.INVALID_TOKEN:
                self._tokens.pop(machine.node_id, None)
            then(status, result)

        self._ask(machine, op, params.pack(), token, answered)

    def _ask(self, machine: Machine, op: Op, params: bytes, token: bytes, then: Then) -> None:
        connection = self._connections.get(machine.node_id)
        if connection is None or not self._network.is_open(connection):
            connection = self._connections[machine.node_id] = self._network.connect(self, machine)
        self._request_id += 1
        request = Request(int(op), token=token, params=params).pack()
        nonce = self._schedule.clock.now.boot_ns // (NS // 1000)
        frame = Frame(int(MsgType.REQUEST), 0, self._request_id, nonce, self.node_id, request).pack()
        life = self._life

        def heard(data: bytes | None) -> None:
            if data is None:
                self._schedule.note("request.lost", self.name, op.name)
            elif life == self._life:
                self._heard(machine, data, then)

        self._network.ask(connection, frame, heard)

    def _heard(self, machine: Machine, data: bytes, then: Then) -> None:
        try:
            response = Response.unpack(Frame.unpack(data, "quic").payload, "quic")
        except WireError as e:
            must(False, f"an answer cannot be read: {e}", machine)
            return
        then(Status(response.status), response.result)
