"""Asking back: how a relay hears a node whose announcements others crowd out, or whose address is in doubt.

An ANNOUNCE is proven by its signature, but nothing in it proves where it came from, and looking at signatures has its
price. A SOLICIT (D5) with a request_id that only the right address gets to see proves both: the node's answer carries
its ANNOUNCE with the proof (D4), and is known for an answer before any signature is looked at. So whoever cannot read
what is sent to that node's address neither keeps it out nor passes for it.

A question is never longer than the datagram that made us ask, and each endpoint is asked once in ten seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from fabricbios.core.ratelimit import TokenBuckets
from fabricbios.model import NS, Instant
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import Solicit, SolicitRetry
from fabricbios.wire.frame import FRAG_SIZE, HEADER_SIZE, Frame, FrameFlag, MsgType

AGAIN_NS = 10 * NS
QUESTION_SIZE = 1200  # D5: what an asker pads its first SOLICIT to
STRANGERS_PER_SECOND, STRANGERS_BURST = 100, 200  # questions to who never proved itself there
MAX_ASKED = 65_536
ANSWERS = frozenset({MsgType.RESPONSE, MsgType.SOLICIT_RETRY})

Datagram = tuple[bytes, UdpPeer]
_Endpoint = tuple[str, int]


class _Asked:
    """One question. `open` until it was answered; `retried` says that its cookie was used."""

    __slots__ = ("at_ns", "open", "request_id", "retried")

    def __init__(self, at_ns: int, request_id: int) -> None:
        self.at_ns, self.request_id = at_ns, request_id
        self.open, self.retried = True, False


class AskingBack:
    """The questions of one port. `rng(n)` returns n unpredictable bytes."""

    def __init__(self, own_id: int, rng: Callable[[int], bytes], most: int = MAX_ASKED) -> None:
        self._own_id, self._rng, self._most = own_id, rng, most
        self._asked: OrderedDict[_Endpoint, _Asked] = OrderedDict()  # longest ago first
        self._strangers = TokenBuckets(STRANGERS_PER_SECOND, STRANGERS_BURST)
        self._outgoing: list[Datagram] = []

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, peer: UdpPeer, room: int, proven: bool, now: Instant) -> None:
        """Ask who is there, in at most `room` bytes, unless it was asked just now or too many strangers were."""
        asked = self._asked.get((peer.host, peer.port))
        if asked is not None and now.boot_ns - asked.at_ns < AGAIN_NS:
            return
        if not proven and not self._strangers.take("", now):
            return
        asked = _Asked(now.boot_ns, int.from_bytes(self._rng(8), "big"))
        self._asked[peer.host, peer.port] = asked
        self._asked.move_to_end((peer.host, peer.port))
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)
        self._send(asked, Solicit(0), min(room, QUESTION_SIZE), peer, now)

    def awaits(self, frame: Frame, peer: UdpPeer, now: Instant) -> bool:
        """Whether this is, or is a piece of, the answer to what we asked there."""
        asked = self._asked.get((peer.host, peer.port))
        if asked is None or not asked.open or now.boot_ns - asked.at_ns >= AGAIN_NS:
            return False
        return asked.request_id == frame.request_id and frame.msg_type in ANSWERS

    def repeat(self, retry: SolicitRetry, peer: UdpPeer, now: Instant) -> None:
        """Repeat an awaited question with the cookie that came for it, once: the address has proved itself by now."""
        asked = self._asked[peer.host, peer.port]
        if not asked.retried:
            asked.retried = True
            self._send(asked, Solicit(0, cookie=retry.cookie), 0, peer, now)

    def answered(self, peer: UdpPeer) -> None:
        """The answer is here: await no other."""
        self._asked[peer.host, peer.port].open = False

    def datagrams_to_send(self) -> list[Datagram]:
        datagrams, self._outgoing = self._outgoing, []
        return datagrams

    def _send(self, asked: _Asked, solicit: Solicit, room: int, peer: UdpPeer, now: Instant) -> None:
        """Padded to `room` bytes: an answer that fits in it comes at once (D5)."""
        padding = max(0, room - HEADER_SIZE - FRAG_SIZE - len(solicit.pack()))
        payload = solicit.replace(padding=padding).pack()
        frame = Frame(
            msg_type=MsgType.SOLICIT,
            flags=FrameFlag.FRAG_V2,
            request_id=asked.request_id,
            nonce=now.unix_ms,
            sender=self._own_id,
            payload=payload,
            frag_offset=0,
            frag_total_len=len(payload),
        )
        self._outgoing.append((frame.pack(), peer))
