"""The asking side of discovery (D5): SOLICIT, the cookie, the pieces of the answer, the proofs. Sans-IO.

One `Question` goes to one address. The first SOLICIT is padded to 1200 bytes, so that a small answer
may come at once; SOLICIT_RETRY makes it ask again with the cookie. Silence makes it ask again anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabricbios.errors import WireError
from fabricbios.model import NS, Instant
from fabricbios.transport.node_entry import NodeEntry, node_entry
from fabricbios.wire.discovery import Filter, Solicit, SolicitResponse, SolicitRetry
from fabricbios.wire.fragmentation import Assembly, inflate
from fabricbios.wire.frame import FRAG_SIZE, HEADER_SIZE, Frame, FrameFlag, MsgType
from fabricbios.wire.proof import verify_entry

QUESTION_SIZE = 1200  # D5: bytes of the first SOLICIT frame
MAX_ANSWERS = 256  # to one question: many nodes answer a multicast
ASK_AGAIN_NS = NS // 2
MAX_ASKED = 6


class Question:
    """One SOLICIT and what comes of it. `rng(n)` gives n random bytes; `peer` is only a name here."""

    def __init__(
        self, *, sender: int, filters: Sequence[Filter] = (), rng: Callable[[int], bytes], many: bool = False
    ) -> None:
        """`many` waits for more answers after the first: a multicast has many answerers."""
        self._sender = sender
        self._filters = tuple(filters)
        self._request_id = int.from_bytes(rng(8), "big")
        self._many = many
        self._asked = 0
        self._ask_ns = 0
        self._cookies: dict[str, bytes] = {}  # peer -> cookie, each shown once
        self._pieces: dict[tuple[str, int], Assembly] = {}
        self._entries: dict[int, NodeEntry] = {}
        self._heard: set[str] = set()
        self.done = False

    @property
    def answered(self) -> bool:
        """Whether anybody answered at all; no nodes is an answer too."""
        return bool(self._heard)

    @property
    def entries(self) -> list[NodeEntry]:
        return sorted(self._entries.values(), key=lambda entry: entry.node_id)

    def next_deadline(self) -> int | None:
        """Return when to ask again, CLOCK_BOOTTIME in ns; None once there is nothing left to try."""
        return None if self.done or self._asked >= MAX_ASKED else self._ask_ns

    def questions_to_send(self, now: Instant) -> list[bytes]:
        """Return the SOLICIT to send to the address asked, if it is time."""
        deadline = self.next_deadline()
        if deadline is None or now.boot_ns < deadline:
            return []
        self._ask_ns = now.boot_ns + (ASK_AGAIN_NS << self._asked)
        self._asked += 1
        self._cookies.clear()  # the answer to the last one may be lost
        return [self._solicit(b"", now)]

    def receive(self, data: bytes, peer: str, now: Instant) -> bytes | None:
        """Take a datagram; return what to send back to this very peer: the question with its cookie.

        What is not an answer to this question, or breaks a rule, changes nothing.
        """
        try:
            frame = Frame.unpack(data, transport="udp")
            if frame.request_id != self._request_id:
                return None
            if frame.msg_type == MsgType.SOLICIT_RETRY and not frame.flags & ~FrameFlag.SIGNED:
                return self._with_cookie(SolicitRetry.unpack(frame.payload).cookie, peer, now)
            if frame.msg_type == MsgType.RESPONSE:
                self._answer(frame, peer, now)
        except WireError:
            return None
        return None

    def _with_cookie(self, cookie: bytes, peer: str, now: Instant) -> bytes | None:
        """One question for one cookie: a host that sends the same one again cannot make us a flood."""
        if self._cookies.get(peer) == cookie or len(self._cookies) >= MAX_ANSWERS:
            return None
        self._cookies[peer] = cookie
        self._ask_ns = now.boot_ns + ASK_AGAIN_NS
        return self._solicit(cookie, now)

    def _solicit(self, cookie: bytes, now: Instant) -> bytes:
        solicit = Solicit(1 if self._filters else 0, self._filters, cookie)
        room = QUESTION_SIZE - HEADER_SIZE - FRAG_SIZE - len(solicit.pack())
        payload = solicit.replace(padding=max(0, room)).pack()
        return Frame(
            msg_type=MsgType.SOLICIT,
            flags=FrameFlag.FRAG_V2,  # says that we take fragments with offsets
            request_id=self._request_id,
            nonce=now.unix_ms,
            sender=self._sender,
            frag_offset=0,
            frag_total_len=len(payload),
            payload=payload,
        ).pack("udp")

    def _answer(self, frame: Frame, peer: str, now: Instant) -> None:
        payload = self._whole(frame, peer)
        if payload is None:
            return
        if frame.flags & FrameFlag.COMPRESSED:
            payload = inflate(payload)
        response = SolicitResponse.unpack(payload, transport="udp")
        self._heard.add(peer)
        self.done = not self._many
        for listed in response.announce_payload_bytes:
            self._keep(listed, peer, now)

    def _whole(self, frame: Frame, peer: str) -> bytes | None:
        """Return the payload this frame completes. A new answer of a peer takes the place of its last one."""
        if not frame.fragmented:
            return frame.payload
        key = (peer, frame.sender)
        held = self._pieces.get(key)
        if held is None or held.frames[0].nonce != frame.nonce:
            if len(self._pieces) >= MAX_ANSWERS:
                return None
            held = self._pieces[key] = Assembly(frame)
        try:
            if not held.add(frame):
                return None
        except WireError:
            del self._pieces[key]
            raise
        del self._pieces[key]
        return held.payload()

    def _keep(self, listed: bytes, peer: str, now: Instant) -> None:
        try:
            found = node_entry(verify_entry(listed), peer, now)
        except WireError:
            return
        known = self._entries.get(found.node_id)
        if known is None or (found.verified, found.sequence) > (known.verified, known.sequence):
            self._entries[found.node_id] = found
