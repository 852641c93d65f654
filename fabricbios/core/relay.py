"""A relay: hears ANNOUNCE and WITHDRAW, answers SOLICIT for all it has heard (D4, D5, relay discovery profile).

It verifies what it hears, and hands on the proof with it, so that nobody has to believe a relay.
Sans-IO, in core's one shape.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from fabricbios.core.answers import Answers, Datagram, is_here, is_loopback
from fabricbios.core.asking import ANSWERS, AskingBack
from fabricbios.core.filters import Wanted
from fabricbios.core.gate import Dropped, Gate, Incoming
from fabricbios.core.heard import Heard, HeardNodes, Put, Standing, TooManySorts
from fabricbios.core.trust import TrustStore
from fabricbios.errors import WireError
from fabricbios.model import NS, Instant, id_of_key
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import Announce, Solicit, SolicitResponse, SolicitRetry, Withdraw
from fabricbios.wire.frame import HEADER_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.inventory import NodeCertificate
from fabricbios.wire.proof import add_proof, announcement_in, has_relay_tags

MAX_NODES = 4096
MAX_PAYLOAD = 64 * 1024  # D1: an entry of the answer is a `bytes` on UDP
_ROOM_FOR_TAGS = 128
_SWEEP_NS = NS


class Relay:
    """`rng(n)` gives n random bytes. `trust` decides whom it lists, by its mode."""

    def __init__(
        self, node_id: int, trust: TrustStore, *, max_nodes: int = MAX_NODES, rng: Callable[[int], bytes]
    ) -> None:
        self.node_id = node_id
        self._trust = trust
        self._nodes = HeardNodes(max_nodes)
        self._asking = AskingBack(node_id, rng)
        self._gate = Gate(node_id, frozenset({MsgType.ANNOUNCE, MsgType.WITHDRAW, MsgType.SOLICIT}), self._asking)
        self._answers = Answers(node_id, rng)
        self._outgoing: deque[Datagram] = deque()
        self._sweep_ns = 0

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """(message type, result) -> how often; `fabricbios_discovery_messages_total`."""
        return self._gate.counts

    def __len__(self) -> int:
        return len(self._nodes)

    def receive(self, data: bytes, peer: UdpPeer, now: Instant) -> None:
        """Take one datagram; what it draws is in `datagrams_to_send` and `counts`."""
        frame = self._gate.open(data, peer, now)
        if frame is None:
            return
        if frame.msg_type in ANSWERS:  # that we await: the gate lets no other in
            self._gate.count(MsgType(frame.msg_type), self._answered(frame, peer, now))
            return
        message = self._gate.admit(frame, self._key_of(frame.sender), peer, now)
        if message is None:
            return
        try:
            result = self._take(message, now)
        except WireError:
            result = "malformed"
        self._gate.count(message.msg_type, result)

    def handle_timer(self, now: Instant) -> None:
        self._gate.handle_timer(now)
        if now.boot_ns >= self._sweep_ns:
            self._sweep_ns = now.boot_ns + _SWEEP_NS
            self._gate.counts["announce", "expired"] += self._nodes.expire(now)

    def trust_changed(self, now: Instant) -> None:
        """The trust store says something else than before: who is not vouched for any more has to introduce itself."""
        self._gate.counts["announce", "distrusted"] += self._nodes.recheck(lambda heard: self._keeps(heard, now))

    def _keeps(self, heard: Heard, now: Instant) -> bool:
        a = heard.announce
        who = a.node_id, a.public_key, _certificate(a)
        return self._trust.vouched(*who, now) if heard.standing is Standing.VOUCHED else self._trust.lists(*who, now)

    def next_deadline(self) -> int | None:
        """Return CLOCK_BOOTTIME in ns, or None. While there are nodes they are looked through once a second."""
        sweep = self._sweep_ns if len(self._nodes) else None
        return min((d for d in (sweep, self._gate.next_deadline()) if d is not None), default=None)

    def datagrams_to_send(self, now: Instant) -> list[Datagram]:
        datagrams = [*self._outgoing, *self._asking.datagrams_to_send()]
        self._outgoing.clear()
        return datagrams

    def next_effect(self) -> None:
        """A relay keeps nothing on disk: its nodes announce themselves again."""

    def _key_of(self, node_id: int) -> bytes | None:
        heard = self._nodes.get(node_id)
        return self._trust.knows(node_id) or (heard.announce.public_key if heard else None)

    def _take(self, message: Incoming, now: Instant) -> str:
        if message.msg_type == MsgType.SOLICIT:
            return self._solicited(message, now)
        if not message.signed:
            return "unsigned"
        if message.msg_type == MsgType.ANNOUNCE:
            return self._announced(message, now)
        return self._withdrawn(message)

    def _answered(self, frame: Frame, peer: UdpPeer, now: Instant) -> str:
        """Who was asked answers; only the address that was asked can (core/asking.py)."""
        try:
            answer = self._gate.gather(frame, peer, now)
            if answer is None:
                return "fragment"
            if answer.msg_type == MsgType.SOLICIT_RETRY:
                self._asking.repeat(SolicitRetry.unpack(answer.payload), peer, now)
                return "repeated"
            self._asking.answered(peer)
            return self._told(answer, now)
        except WireError:
            return "malformed"
        except Dropped as dropped:
            return dropped.result

    def _told(self, answer: Incoming, now: Instant) -> str:
        """A node answers for itself alone (D5)."""
        entries = SolicitResponse.unpack(answer.payload, transport="udp").announce_payload_bytes
        if len(entries) != 1:
            return "not_alone"
        announcement = announcement_in(entries[0])
        if announcement.sender != answer.sender:
            return "wrong_id"
        return self._announced(self._gate.own_word(announcement, answer.peer, now), now, reached=True)

    def _announced(self, message: Incoming, now: Instant, reached: bool = False) -> str:
        """`reached` means that the address it came from has proved itself."""
        announce = Announce.unpack(message.payload)
        if not message.sender == announce.node_id == id_of_key(announce.public_key):
            return "wrong_id"
        if len(message.payload) > MAX_PAYLOAD - _ROOM_FOR_TAGS:
            return "too_long"
        if has_relay_tags(message.payload):
            return "relay_tags"
        certificate = _certificate(announce)
        if not self._trust.lists(announce.node_id, announce.public_key, certificate, now):
            return "untrusted"
        if not self._nodes.is_new(announce.node_id, announce.sequence):
            return "reached" if reached and self._nodes.reach(announce.node_id, message.peer.host) else "old"
        vouched = self._trust.vouched(announce.node_id, announce.public_key, certificate, now)
        standing = Standing.VOUCHED if vouched else Standing.REACHED if reached else Standing.STRANGER
        try:
            outcome = self._nodes.put(announce, _listed(message, now), standing, message.peer.host, now)
        except TooManySorts:
            return "too_many_sorts"
        if outcome is Put.DISPLACED:
            self._gate.count(message.msg_type, outcome.value)
            outcome = Put.ACCEPTED
        elif outcome is not Put.ACCEPTED and standing is Standing.STRANGER:
            self._asking.ask(message.peer, message.length, False, now)
        return outcome.value

    def _withdrawn(self, message: Incoming) -> str:
        withdraw = Withdraw.unpack(message.payload)
        if withdraw.node_id != message.sender:
            return "wrong_id"
        if self._nodes.get(withdraw.node_id) is None:
            return "unknown_node"
        is_legacy = len(message.payload) == 16  # has no sequence; its signature and fresh nonce must do (D4)
        if not is_legacy and not self._nodes.is_new(withdraw.node_id, withdraw.sequence):
            return "old"
        self._nodes.drop(withdraw.node_id, withdraw.sequence)
        return "accepted"

    def _solicited(self, message: Incoming, now: Instant) -> str:
        solicit = Solicit.unpack(message.payload)
        here = is_here(message.peer.host)  # else a node on our loopback is none of its own
        wanted = Wanted(solicit.filters)

        def entry(h: Heard) -> bytes | None:
            told = wanted.matches(h.announce) and (here or not is_loopback(h.announce.control_addr))
            return h.listed if told else None

        entries = map(entry, () if wanted.nobody else self._nodes.live(now, wanted.node_id))
        result, datagrams = self._answers.answer(message, solicit, entries, now)
        self._outgoing.extend(datagrams)
        return result


def _certificate(announce: Announce) -> bytes:
    """Return the first NODE_CERTIFICATE of the extensions as wire bytes, b"" if there is none."""
    return next((tlv.pack() for tlv in announce.extensions if isinstance(tlv, NodeCertificate)), b"")


def _listed(message: Incoming, now: Instant) -> bytes:
    """Return the entry with our TLVs; what came in fragments, or deflated, has no header that could prove it."""
    frame = message.frames[0]
    plain = len(message.frames) == 1 and frame.flags == FrameFlag.SIGNED
    header = frame.pack()[:HEADER_SIZE] if plain else None
    return add_proof(message.payload, now.unix, header, frame.signature or b"")
