"""Discovery as a node does it (D4, D5): it announces itself, and answers SOLICIT for itself alone.

Sans-IO, in core's one shape. Multicast goes to peers whose host carries the interface as its scope
(`ff02::5701%eth0`, and by the same token `239.57.0.1%eth0`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabricbios.core.announcer import Announcer, NodeFacts, StoreSequence
from fabricbios.core.answers import Answers, Datagram, address_bytes, is_here, is_loopback
from fabricbios.core.filters import matches
from fabricbios.core.gate import Gate, Incoming
from fabricbios.core.trust import TrustStore
from fabricbios.errors import ConfigError, WireError
from fabricbios.model import DISCOVERY_PORT, MULTICAST_V4, MULTICAST_V6, NS, Instant
from fabricbios.ports import UdpPeer
from fabricbios.wire.certificate import Certificate
from fabricbios.wire.discovery import Solicit, WithdrawReason
from fabricbios.wire.frame import MsgType

MIN_GAP_NS = NS  # between two announcements, however often the facts change
STORE_AGAIN_NS = 5 * NS
_MAPPED = bytes(10) + b"\xff\xff"


def _check_certificate(facts: NodeFacts) -> None:
    """Before the first announcement fails by it, where nobody would see."""
    try:
        if facts.certificate:
            Certificate.unpack(facts.certificate)
    except WireError as error:
        raise ConfigError(f"this node's certificate (node.cert) is none: {error}: issue a new one") from None


def multicast_peers(ifaces: Sequence[str], port: int = DISCOVERY_PORT) -> tuple[UdpPeer, ...]:
    """Return both groups on each named interface."""
    return tuple(UdpPeer(f"{group}%{iface}", port) for iface in ifaces for group in (MULTICAST_V4, MULTICAST_V6))


class Discovery:
    """The node's side. `targets` are its relays and multicast_peers(); `rng(n)` gives n random bytes."""

    def __init__(
        self,
        private_key: Ed25519PrivateKey,
        facts: NodeFacts,
        *,
        targets: Sequence[UdpPeer] = (),
        last_sequence: int = 0,
        interval_secs: float = 30,
        ttl_secs: int = 0,
        trust: TrustStore | None = None,
        rng: Callable[[int], bytes],
    ) -> None:
        """`ttl_secs` 0 means three intervals, so that two announcements may be lost (D4).

        Raises ConfigError for a certificate in `facts` that is none.
        """
        _check_certificate(facts)
        ttl = ttl_secs or max(1, round(3 * interval_secs))
        self._announcer = Announcer(private_key, last_sequence=last_sequence, ttl_secs=ttl, rng=rng)
        self.node_id = self._announcer.node_id
        self._facts = facts
        self._reachable = ""
        self._targets = tuple(targets)
        self._interval_ns = int(interval_secs * NS)
        self._trust = trust
        self._gate = Gate(self.node_id, frozenset({MsgType.SOLICIT}))
        self._answers = Answers(self.node_id, rng)
        self._outgoing: deque[Datagram] = deque()
        self._effects: deque[StoreSequence] = deque()
        self._storing: StoreSequence | None = None
        self._due_ns = 0  # at once
        self._last_ns = -MIN_GAP_NS
        self._goodbye: WithdrawReason | None = None
        self.asked_from_afar: UdpPeer | None = None  # who last got no answer, because all we could name was loopback
        self.has_left = False  # WITHDRAW is among the datagrams to send, or was

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """(message type, result) -> how often; `fabricbios_discovery_messages_total`."""
        return self._gate.counts

    def set_targets(self, targets: Sequence[UdpPeer]) -> None:
        """Announce to these from now on: names resolve anew, relays move."""
        self._targets = tuple(targets)

    def update(self, facts: NodeFacts, now: Instant) -> None:
        """Announce news soon, at most once a second; no news changes nothing."""
        if facts != self._facts:
            self._facts = facts
            self._announce_soon(now)

    def set_reachable(self, address: str, now: Instant) -> None:
        """Announce this in place of a control address that is unspecified: a node bound to all it has."""
        if address != self._reachable:
            self._reachable = address
            self._announce_soon(now)

    def withdraw(self, reason: WithdrawReason, now: Instant) -> None:
        """Say goodbye, once the sequence is stored, and announce no more."""
        self._goodbye = reason
        self._due_ns = now.boot_ns
        self.handle_timer(now)

    def receive(self, data: bytes, peer: UdpPeer, now: Instant) -> None:
        """Take one datagram; what it draws is in `datagrams_to_send` and `counts`."""
        frame = self._gate.open(data, peer, now)
        if frame is None:
            return
        key = self._trust.knows(frame.sender) if self._trust else None
        message = self._gate.admit(frame, key, peer, now)
        if message is not None:
            self._gate.count(message.msg_type, self._solicited(message, now))

    def handle_timer(self, now: Instant) -> None:
        self._gate.handle_timer(now)
        if now.boot_ns < self._due_ns or self._storing is not None:
            return
        self._due_ns = now.boot_ns + self._interval_ns
        self._storing = StoreSequence(self._announcer.next_sequence(now))
        self._effects.append(self._storing)

    def next_deadline(self) -> int | None:
        """Return CLOCK_BOOTTIME in ns, or None."""
        due = self._due_ns if self._storing is None else None
        return min((d for d in (due, self._gate.next_deadline()) if d is not None), default=None)

    def datagrams_to_send(self, now: Instant) -> list[Datagram]:
        datagrams = list(self._outgoing)
        self._outgoing.clear()
        return datagrams

    def next_effect(self) -> StoreSequence | None:
        return self._effects.popleft() if self._effects else None

    def effect_succeeded(self, effect: StoreSequence, now: Instant) -> None:
        """The sequence is safe: use it."""
        self._storing = None
        self._send(effect.sequence, now)

    def effect_failed(self, effect: StoreSequence, now: Instant) -> None:
        """An announcement waits until its sequence can be stored; a goodbye is better said than not."""
        self._storing = None
        if self._goodbye is not None:
            self._send(effect.sequence, now)
        else:
            self._gate.count(MsgType.ANNOUNCE, "not_stored")
            self._due_ns = now.boot_ns + STORE_AGAIN_NS

    def _send(self, sequence: int, now: Instant) -> None:
        self._last_ns = now.boot_ns
        if self._goodbye is None:
            kind, datagrams = MsgType.ANNOUNCE, self._announcer.announce(self._told(), sequence, now)
        else:
            kind, datagrams = MsgType.WITHDRAW, [self._announcer.withdraw(self._goodbye, sequence, now)]
            self._due_ns, self.has_left = now.boot_ns + (1 << 62), True
        for target in self._targets:
            told = self._goodbye is not None or self._reaches(target)
            self._gate.count(kind, "sent" if told else "not_reachable")
            self._outgoing.extend((data, target) for data in datagrams if told)

    def _announce_soon(self, now: Instant) -> None:
        self._due_ns = min(self._due_ns, max(now.boot_ns, self._last_ns + MIN_GAP_NS))

    def _told(self) -> NodeFacts:
        if any(address_bytes(self._facts.control_addr).removeprefix(_MAPPED)) or not self._reachable:
            return self._facts
        return self._facts._replace(control_addr=self._reachable)

    def _reaches(self, peer: UdpPeer) -> bool:
        """Whether a peer can make use of the address we announce: loopback leads whoever is elsewhere to itself."""
        announced = self._announcer.announced
        return announced is not None and (not is_loopback(announced.control_addr) or is_here(peer.host))

    def _solicited(self, message: Incoming, now: Instant) -> str:
        try:
            solicit = Solicit.unpack(message.payload)
        except WireError:
            return "malformed"
        announced = self._announcer.announced
        if announced is None or not matches(announced, solicit.filters):
            return "no_match"
        if not self._reaches(message.peer):
            self.asked_from_afar = message.peer
            return "not_reachable"
        result, datagrams = self._answers.answer(message, solicit, (self._announcer.entry(now),), now)
        self._outgoing.extend(datagrams)
        return result
