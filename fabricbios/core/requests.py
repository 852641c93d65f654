"""From the bytes of a stream to the handler of its op: what D2, D3 and D6 ask of every REQUEST.

Whatever a peer sends ends here in an answer or a reset; nothing it sends raises past `serve`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fabricbios.core.intents import status_of_bad_alloc
from fabricbios.core.ops import capability, enrolling, fencing, information, leasing
from fabricbios.core.state import Ask, NodeState, Read
from fabricbios.errors import Refused, WireError
from fabricbios.model import Instant, Op, Status
from fabricbios.ports import StreamPeer
from fabricbios.wire import (
    CapRefreshParams,
    CapRequestParams,
    CapRevokeParams,
    EnrollRequestParams,
    FenceClearParams,
    Frame,
    FrameFlag,
    LeaseAllocParams,
    LeaseAttachParams,
    LeaseFreeParams,
    LeaseQueryParams,
    LeaseRenewParams,
    LeaseRevokeParams,
    MsgType,
    Request,
    SchedulerFenceSetParams,
    TimeSyncParams,
)
from fabricbios.wire.rules import QUIC
from fabricbios.wire.seal import verify_frame

UNTRUSTED_LIMIT, TRUSTED_LIMIT = 4 << 10, 64 << 10  # D1: bytes of one request
MAX_READ, SHORT = 1024, 512  # payloads remembered, and the bytes of the longest of them


class Handler(NamedTuple):
    """`params` None: the op takes none. `strangers`: who is not trusted is heard, too (D3), and may claim or enrol.
    `again`: clients ask it byte for byte as they did before, so what was read is remembered."""

    run: Callable[[NodeState, Ask, Any, Instant], bytes | None]
    params: Any = None
    strangers: bool = False
    again: bool = False


HANDLERS: dict[int, Handler] = {
    Op.PING: Handler(information.ping, strangers=True, again=True),
    Op.GET_IDENTITY: Handler(information.identity, strangers=True),
    Op.GET_INVENTORY: Handler(information.inventory, again=True),
    Op.GET_BUILD_INFO: Handler(information.build_info),
    Op.GET_THERMAL: Handler(information.thermal, again=True),
    Op.TIME_SYNC: Handler(information.time_sync, TimeSyncParams),
    Op.ENROLL_REQUEST: Handler(enrolling.enroll, EnrollRequestParams, strangers=True),
    Op.CAP_REQUEST: Handler(capability.request, CapRequestParams, strangers=True),
    Op.CAP_REFRESH: Handler(capability.refresh, CapRefreshParams),
    Op.CAP_REVOKE: Handler(capability.revoke, CapRevokeParams),
    Op.LEASE_ALLOC: Handler(leasing.alloc, LeaseAllocParams, again=True),
    Op.LEASE_RENEW: Handler(leasing.renew, LeaseRenewParams),
    Op.LEASE_FREE: Handler(leasing.free, LeaseFreeParams),
    Op.LEASE_QUERY: Handler(leasing.query, LeaseQueryParams),
    Op.LEASE_LIST_ACTIVE: Handler(leasing.list_active, again=True),
    Op.LEASE_REVOKE: Handler(leasing.revoke, LeaseRevokeParams),
    Op.LEASE_ATTACH: Handler(leasing.attach, LeaseAttachParams),
    Op.FENCE_CLEAR: Handler(fencing.clear, FenceClearParams),
    Op.SCHEDULER_FENCE_SET: Handler(fencing.scheduler_set, SchedulerFenceSetParams),
    Op.SCHEDULER_FENCE_GET: Handler(fencing.scheduler_get),
}
_KNOWN = frozenset(int(op) for op in Op)
_SIGNED = int(FrameFlag.SIGNED)  # plain: flag arithmetic is slow, and this is every request


def request_limit(state: NodeState, peer: StreamPeer, now: Instant) -> int:
    """Return how many bytes of payload one request of this peer may have."""
    return TRUSTED_LIMIT if state.trust.trusted(peer, now) else UNTRUSTED_LIMIT


def serve(state: NodeState, data: bytes, peer: StreamPeer, now: Instant) -> None:
    """Answer one stream's bytes, now or later, or reset the stream."""
    trusted = state.trust.trusted(peer, now)
    if trusted:
        state.outbox.trusts(peer.connection)
    frame = _readable(data, peer, TRUSTED_LIMIT if trusted else UNTRUSTED_LIMIT)
    if frame is None:
        state.outbox.reset(peer)
        return
    read = state.read.get(frame.payload)
    try:
        request = read.request if read else Request.unpack(frame.payload, QUIC)
    except WireError as e:
        op = int.from_bytes(frame.payload[:2], "big") if len(frame.payload) >= 2 else 0
        state.outbox.refuse_op(peer, frame.request_id, op, Status.BAD_REQUEST, str(e), now)
        return
    ask = Ask(peer, frame.request_id, request.op, request.resource_id, request.token, trusted)
    try:
        if frame.sender != peer.node_id:
            raise Refused.of(Status.INSUFFICIENT_PERM, "the frame's sender is not the TLS peer")
        if read and trusted:
            result = read.run(state, ask, read.params, now)
        else:
            result = _run(state, ask, request, frame.payload, now)
    except Refused as refusal:
        state.outbox.refuse(ask, refusal.status, refusal.reason, now)
        return
    if result is not None:
        state.outbox.answer(ask, result, now)


def _readable(data: bytes, peer: StreamPeer, limit: int) -> Frame | None:
    """Return the REQUEST frame, or None for what D6 ends in a reset."""
    try:
        frame = Frame.unpack(data, QUIC)
    except WireError:
        return None
    if frame.msg_type != MsgType.REQUEST or len(frame.payload) > limit:
        return None
    if frame.flags & _SIGNED and not (peer.public_key and verify_frame(frame, peer.public_key)):
        return None
    return frame


def _run(state: NodeState, ask: Ask, request: Request, payload: bytes, now: Instant) -> bytes | None:
    handler = HANDLERS.get(ask.op)
    if not ask.trusted and (handler is None or not handler.strangers):
        raise _untrusted()
    if handler is None:
        known = f"{Op(ask.op).name} is not served by this build" if ask.op in _KNOWN else "unknown op"
        raise Refused.of(Status.INVALID_OP, known)
    params = _decode(ask, handler.params, request.params)
    if ask.trusted and handler.again and len(payload) <= SHORT:
        _remember(state, payload, Read(request, handler.run, params))
    if ask.op == Op.CAP_REQUEST and not ask.trusted and not state.trust.claim(ask.peer, now):
        raise _untrusted()
    return handler.run(state, ask, params, now)


def _remember(state: NodeState, payload: bytes, read: Read) -> None:
    """What bytes mean is the same whenever and by whomever they are sent; whether it is done is judged each time."""
    if len(state.read) >= MAX_READ:
        del state.read[next(iter(state.read))]
    state.read[payload] = read


def _untrusted() -> Refused:
    return Refused.of(Status.INSUFFICIENT_PERM, "this key is not trusted here")


def _decode(ask: Ask, kind: Any, params: bytes) -> Any:
    """Return the params' value. A stranger learns nothing about what it got wrong (D3)."""
    if kind is None:
        if params:
            raise Refused.of(Status.BAD_REQUEST, "this op takes no params")
        return None
    try:
        return kind.unpack(params)
    except WireError as e:
        if not ask.trusted:
            raise _untrusted() from e
        status = status_of_bad_alloc(params) if ask.op == Op.LEASE_ALLOC else Status.BAD_REQUEST
        raise Refused.of(status, str(e)) from e
