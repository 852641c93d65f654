"""A node with hostile luck: a real Node and a real Discovery, a device and a journal that outlive them, and crashes."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from itertools import islice

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabricbios.core.announcer import NodeFacts, StoreSequence
from fabricbios.core.discovery import Discovery
from fabricbios.core.effects import Effect, Entry, Undo
from fabricbios.core.node import Close, Node, Offer, Push, Reset
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.model import (
    ALL_PERMS,
    NS,
    Binding,
    Instant,
    Op,
    Resource,
    ResourceFlags,
    ResourceType,
    id_of_key,
    resource_id_of,
)
from fabricbios.ports import StreamPeer, TrustedKeys, UdpPeer
from fabricbios.simulation import invariants
from fabricbios.simulation.network import Network
from fabricbios.simulation.schedule import Schedule
from fabricbios.testing import FakeDataPlane, FakeJournal, carry_out, fail_half_way, parts, setup
from fabricbios.wire import FenceClearParams, Frame, MsgType, Request, Token
from fabricbios.wire.token import mint

PAGE = 4096
PAGES = 16
ANNOUNCE_SECS = 5
QUICK, SLOW = 0.0001, 0.05  # seconds that an effect takes
LATE = 0.2  # seconds that a busy event loop may be late
BINDINGS = (Binding.UDP, Binding.QUIC)


class PromisingJournal(FakeJournal):
    """Knows the latest end it was told of each lease."""

    def __init__(self) -> None:
        super().__init__()
        self.promised: dict[str, int] = {}

    def append(self, entries: Sequence[Entry], durable: bool) -> None:
        super().append(entries, durable)
        for entry in entries:
            if "expires_ns" in entry:
                self.promised[entry["id"]] = max(entry["expires_ns"], self.promised.get(entry["id"], 0))


def new_key(rng: random.Random) -> tuple[Ed25519PrivateKey, bytes]:
    """Return a private key and its raw public half."""
    key = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    return key, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Machine:
    """`failures` is the part of effects that fail; some of those have happened all the same."""

    def __init__(
        self, number: int, schedule: Schedule, network: Network, rng: random.Random, failures: float,
        clients: dict[int, bytes], relays: tuple[UdpPeer, ...],
    ) -> None:  # fmt: skip
        self.name = f"node-{number}"
        self.address = UdpPeer(f"10.57.{number >> 8}.{number & 255}", 5700)
        self.schedule, self.network, self.rng = schedule, network, rng
        self.failures, self.sick = failures, False
        self.key, self.public_key = new_key(rng)
        self.node_id = id_of_key(self.public_key)
        self.plane = FakeDataPlane(capacity=PAGES * PAGE)
        self.journal = PromisingJournal()
        self.freed: set[int] = set()
        self.told: dict[int, int] = {}  # lease -> the end its holder knows, Unix seconds
        self.up, self.life, self.boots = False, 0, 1
        self._clients, self._relays = clients, relays
        self._token_key = rng.randbytes(32)
        self._skew_ms = rng.randint(-1000, 1000)
        self._booted_ns = 0  # the fleet's clock at which this machine's began
        self._flying: list[Effect] = []
        self._sequence = 0
        self._wake_ns = -1
        network.attach(self.address, self._datagram)

    @property
    def now(self) -> Instant:
        """Both clocks as this machine has them."""
        true = self.schedule.clock.now
        return Instant(true.boot_ns - self._booted_ns, true.unix_ms + self._skew_ms)

    @property
    def fenced(self) -> bool:
        return bool(self.node.summaries()[0].flags & ResourceFlags.FENCED)

    # -- life and death

    def start(self) -> None:
        """Start, or start again: all that remains are journal, device, keys and the last sequence."""
        self.up = True
        self.started_sequence = self._sequence
        self.started_at = self.schedule.seconds
        name = f"boot-{self.boots}"
        facts = setup(self.schedule.clock, node_id=self.node_id, token_key=self._token_key, boot=name, started=self.now)
        trust = TrustStore(TrustMode.PINNED, TrustedKeys(peers=self._clients))
        self.node = Node(facts, [self._offer()], trust, self.rng)
        self.node.restore(self.journal.entries(), self.now)
        self.discovery = Discovery(
            self.key, self._facts(), targets=self._relays, last_sequence=self._sequence,
            interval_secs=ANNOUNCE_SECS, rng=self.rng.randbytes,
        )  # fmt: skip
        self.schedule.note("node.started", self.name)
        self.pump()

    def _offer(self) -> Offer:
        resource_id = resource_id_of(self.node_id, ResourceType.MEM, "ram")
        resource = Resource(resource_id, ResourceType.MEM, self.plane.capacity, "ram", BINDINGS)
        return Offer(resource, BINDINGS, self.plane.steps, granule=PAGE)

    def _facts(self) -> NodeFacts:
        return NodeFacts(self.address.host, 5701, resources=self.node.summaries(), transports=BINDINGS)

    def crash(self, reboot: bool) -> None:
        """kill -9: of what was under way some parts happened, some did not. A reboot takes the memory with it."""
        if not self.up:
            return
        for effect in self._flying:
            self._carry_out(effect, self.rng.randint(0, 3))
        self._flying.clear()
        self.up, self.life, self._wake_ns = False, self.life + 1, -1
        self.schedule.note("node.rebooted" if reboot else "node.killed", self.name)
        if reboot:
            self._lose_memory()
        self.network.lose(self)

    def _lose_memory(self) -> None:
        self.boots += 1
        self._booted_ns = self.schedule.now_ns - NS
        self.plane.held.clear()
        self.plane.keys.clear()
        self.plane.fenced.clear()

    def clear_fences(self) -> None:
        """As an admin would, by FENCE_CLEAR: teardown works again."""
        if self.fenced:
            holder, key = next(iter(self._clients.items()))
            wish = Token(
                token_id=1, issuer=self.node_id, audience=holder, perms=int(ALL_PERMS), expires_at=self.now.unix + 60
            )
            params = FenceClearParams(self.node.summaries()[0].resource_id).pack()
            request = Request(int(Op.FENCE_CLEAR), token=mint(wish, self._token_key).pack(), params=params).pack()
            frame = Frame(int(MsgType.REQUEST), 0, 1, self.now.unix_ms, holder, request).pack()
            self.asked(frame, StreamPeer(0, 4, holder, key, b"", ("", 0), ("", 0)))

    def drain(self) -> None:
        """Tear every lease down, as SIGTERM does."""
        self.node.drain(self.now)
        self.pump()

    # -- the wire

    def connected(self, peer: StreamPeer) -> None:
        self.node.connection_opened(peer)

    def disconnected(self, connection: int) -> None:
        if self.up:
            self.node.connection_closed(connection)

    def asked(self, data: bytes, peer: StreamPeer) -> None:
        self.node.receive(data, peer, self.now)
        self.pump()

    def _datagram(self, data: bytes, peer: UdpPeer) -> None:
        if self.up:
            self.discovery.receive(data, peer, self.now)
            self.pump()

    # -- the loop

    def pump(self) -> None:
        """Begin what the core wants done, send what it has to say, and sleep until its next deadline."""
        while (effect := self.node.next_effect()) is not None:
            self._take_off(effect)
        self.discovery.update(self._facts(), self.now)
        while (store := self.discovery.next_effect()) is not None:
            self._store(store)
        self._say()
        self._arm()
        invariants.check(self)

    def _say(self) -> None:
        for event in self.node.events():
            self.schedule.note(event.name, self.name, event.lease_id)
            if event.name == "lease.expired":
                invariants.check_expiry(self, event.lease_id)
        for data, to in self.node.datagrams_to_send(self.now):
            self.schedule.note_bytes("stream.sent", data)
            if isinstance(to, Push):
                self.network.push(to.connection, data)
            elif isinstance(to, Close):
                self.network.close(to.connection)
            else:
                self.network.answer(to.connection, to.stream, None if isinstance(to, Reset) else data)
        for data, peer in self.discovery.datagrams_to_send(self.now):
            self.network.send(data, self.address, peer)

    def _arm(self) -> None:
        due = [d for d in (self.node.next_deadline(), self.discovery.next_deadline()) if d is not None]
        if not due:
            return
        wake_ns = min(due) + self._booted_ns
        if wake_ns != self._wake_ns:
            self._wake_ns = wake_ns
            late = int(self.rng.random() * LATE * NS) if self.rng.random() < 0.2 else 0
            life = self.life
            self.schedule.at(wake_ns + late, lambda: self._woken(wake_ns, life))

    def _woken(self, wake_ns: int, life: int) -> None:
        if self.up and life == self.life and wake_ns == self._wake_ns:
            self._wake_ns = -1
            self.node.handle_timer(self.now)
            self.discovery.handle_timer(self.now)
            self.pump()

    # -- effects

    def _take_off(self, effect: Effect) -> None:
        self._flying.append(effect)
        life = self.life
        self.schedule.after(self.rng.uniform(QUICK, SLOW), lambda: self._land(effect, life))

    def _land(self, effect: Effect, life: int) -> None:
        if life != self.life:
            return
        self._flying.remove(effect)
        error = self._outcome(effect)
        if error is not None:
            self.node.effect_failed(effect, error, self.now)
        self.pump()

    def _outcome(self, effect: Effect) -> OSError | None:
        """Carry out an effect and report success, or return the failure; a failed one may have happened."""
        fails = self.rng.random() < self.failures or (self.sick and isinstance(effect, Undo))
        try:
            if not fails:
                self.node.effect_succeeded(effect, carry_out(effect, self.plane, self.journal), self.now)
                return None
            if self.rng.random() < 0.5:
                fail_half_way(effect, self.plane, self.journal)
        except OSError as e:
            return e
        return OSError(errno.EIO, "bad luck")

    def _carry_out(self, effect: Effect, so_far: int) -> None:
        """Let so many parts of an effect happen."""
        try:
            for _ in islice(parts(effect, self.plane, self.journal), so_far):
                pass
        except OSError:
            self.schedule.note("effect.half_done", self.name)

    def _store(self, effect: StoreSequence) -> None:
        """The sequence of the next announcement goes to the disk, or does not."""
        if self.rng.random() < self.failures:
            self.discovery.effect_failed(effect, self.now)
        else:
            self._sequence = effect.sequence
            self.discovery.effect_succeeded(effect, self.now)
