"""Control ops over one connection: REQUEST out, RESPONSE in, LEASE_EVENTs beside them (D6)."""

from __future__ import annotations

import time
from collections.abc import Callable

from fabricbios.errors import Disconnected, Refused, WireError
from fabricbios.model import Op, Status
from fabricbios.transport import Identity, Link, dial
from fabricbios.transport.link import Accept
from fabricbios.wire import ErrorResult, Frame, LeaseEvent, MsgType, Reason, Request, Response

REQUEST_SECONDS = 10.0


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
        if self._link is None or self._link.closed:
            link = await dial(self.host, self.port, self.identity, self._accept, self._timeout)
            link.on_push, link.on_closed = self._pushed, self._lost
            self._link = link
        return self._link

    async def call(
        self, op: Op, params: bytes = b"", resource_id: int = 0, token: bytes = b"", timeout: float = REQUEST_SECONDS
    ) -> bytes:
        """Ask one thing and return its result bytes. Raises Refused for any status but OK, Disconnected, TimedOut."""
        link = await self.link()
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
        answer = await link.request(frame.pack("quic"), timeout)
        return _result(answer, op, frame.request_id, link.node_id)

    def close(self) -> None:
        """Say goodbye; questions under way fail with Disconnected."""
        self._closed = True
        if self._link is not None:
            self._link.close()

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
