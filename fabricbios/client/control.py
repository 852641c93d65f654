"""Control ops over one connection: REQUEST out, RESPONSE in, LEASE_EVENTs beside them (D6)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fabricbios.errors import Disconnected, Refused, TimedOut, Untrusted, WireError
from fabricbios.model import Op, Status
from fabricbios.transport import Identity, Link, dial
from fabricbios.transport.link import Accept
from fabricbios.wire import ErrorResult, Frame, LeaseEvent, MsgType, Reason, Request, Response

REQUEST_SECONDS = 10.0
DOUBT_SECONDS = 1.0  # for a PING to a node that was silent for longer than a question may take


class Control:
    """The way to one node. A connection that was lost is dialled again by the next question.

    A question that was under way when the connection broke is not repeated: it may have been carried out.
    """

    def __init__(self, host: str, port: int, identity: Identity | None, accept: Accept, timeout: float) -> None:
        self.host, self.port, self.identity = host, port, identity
        self.on_event: Callable[[LeaseEvent], None] = lambda event: None
        self.on_lost: Callable[[], None] = lambda: None
        self._accept, self._timeout = accept, timeout
        self._link: Link | None = None
        self._dialling = asyncio.Lock()
        self._failed: Disconnected | Untrusted | None = None  # why the last dial did
        self._request_id = 0
        self._nonce = 0
        self._closed = False

    @property
    def node_id(self) -> int:
        """The id of the node's proven key."""
        if self._link is None:
            raise Disconnected("not connected yet")
        return self._link.node_id

    @property
    def client_id(self) -> int:
        """Our own id, zero without an identity."""
        return self.identity.node_id if self.identity else 0

    async def link(self) -> Link:
        """Return the connection, dialled anew if it was lost. Raises Disconnected or Untrusted."""
        if self._closed:
            raise Disconnected("the connection was closed here")
        failed_before = self._failed
        if (link := self._living()) is None:
            async with self._dialling:  # who comes second finds what the first one dialled, or why there is nothing
                if self._failed is not None and self._failed is not failed_before:
                    raise type(self._failed)(*self._failed.args)
                link = self._living() or await self._dial_again()
        return link

    def _living(self) -> Link | None:
        return None if self._link is None or self._link.closed else self._link

    async def _dial_again(self) -> Link:
        """Dial, and keep what came of it for whoever waits meanwhile. A dial that is cancelled says nothing."""
        try:
            self._link, self._failed = await self._dial(), None
        except (Disconnected, Untrusted) as error:
            self._failed = error
            raise
        return self._link

    async def _dial(self) -> Link:
        try:
            link = await dial(self.host, self.port, self.identity, self._accept, self._timeout)
        except UnicodeError as error:  # what getaddrinfo says of labels too long for it
            raise Disconnected(f"{self.host!r} is no host name: {error}") from None
        link.on_push, link.on_closed = self._pushed, self._lost
        if self._closed:  # meanwhile
            link.close()
        return link

    async def doubt(self) -> None:
        """Give up the connection if it draws no answer any more: the next question dials.

        A node that was killed and started again knows nothing of it, and QUIC takes its idle time to notice.
        """
        if (link := self._living()) is None:
            return
        _, question = self._question(Op.PING)
        try:
            await link.request(question, DOUBT_SECONDS)
        except TimedOut:
            link.close()
        except Disconnected:
            return  # an answer of a kind, or it is closed already

    async def call(
        self, op: Op, params: bytes = b"", resource_id: int = 0, token: bytes = b"", timeout: float = REQUEST_SECONDS
    ) -> bytes:
        """Ask one thing and return its result bytes. Raises Refused for any status but OK, Disconnected, TimedOut."""
        link = self._living() or await self.link()
        request_id, question = self._question(op, params, resource_id, token)
        try:
            answer = await link.request(question, timeout)
        except TimedOut:
            await self.doubt()
            raise
        return _result(answer, op, request_id, link.node_id)

    def close(self) -> None:
        """Say goodbye; questions under way fail with Disconnected."""
        self._closed = True
        if self._link is not None:
            self._link.close()

    def _question(self, op: Op, params: bytes = b"", resource_id: int = 0, token: bytes = b"") -> tuple[int, bytes]:
        """Return a new request id, and the frame that asks."""
        self._request_id += 1
        request = Request(op=op, resource_id=resource_id, token=token, params=params)
        frame = Frame(
            msg_type=MsgType.REQUEST,
            flags=0,
            request_id=self._request_id,
            nonce=self._next_nonce(),
            sender=self.client_id,
            payload=request.pack("quic"),
        )
        return frame.request_id, frame.pack("quic")

    def _next_nonce(self) -> int:
        self._nonce = max(self._nonce + 1, time.time_ns() // 1_000_000)
        return self._nonce

    def _pushed(self, data: bytes) -> None:
        """An event that cannot be read is dropped: the node is trusted with the lease, not with our process."""
        try:
            frame = Frame.unpack(data, "quic")
            event = LeaseEvent.unpack(frame.payload, "quic") if frame.msg_type == MsgType.LEASE_EVENT else None
        except WireError:
            return
        if event is not None and frame.sender == self.node_id:
            self.on_event(event)

    def _lost(self) -> None:
        self.on_lost()


def _result(answer: bytes, op: Op, request_id: int, node_id: int) -> bytes:
    """Check that this is the node's answer to that very question."""
    try:
        frame = Frame.unpack(answer, "quic")
        if (frame.msg_type, frame.request_id, frame.sender) != (MsgType.RESPONSE, request_id, node_id):
            raise WireError("not the answer to the question")
        response = Response.unpack(frame.payload, "quic")
        if response.status != Status.OK:
            raise Refused.of(Status(response.status), _reason(response.result))
    except WireError as error:
        raise Disconnected(f"the node's answer to {op.name} cannot be read: {error}") from error
    if response.op != op:
        raise Disconnected(f"the node answered op 0x{response.op:04x} to {op.name}")
    return response.result


def _reason(result: bytes) -> str:
    tlvs = ErrorResult.unpack(result).tlvs if result else ()
    return next((tlv.reason for tlv in tlvs if isinstance(tlv, Reason)), "")
