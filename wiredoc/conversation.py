"""The bytes of docs/spec/conversation.md, computed with the codec from keys that are no secret."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from fabricbios.model import Binding, DpAuth, Op, Perm, ResourceType, Status, Transport, id_of_key
from fabricbios.wire.bindings import BindingTlv, DpAuthTlv, DpKey, Endpoint, Generation, Limits
from fabricbios.wire.control import Request, Response
from fabricbios.wire.dataplane import (
    DP_HEADER_SIZE,
    Datagram,
    FbmuHello,
    FbmuHelloAck,
    FbmuRead,
    FbmuReadResp,
    FbmuWrite,
    FbmuWriteResp,
    Hello,
    HelloAck,
    Read,
    ReadResp,
    StatusOnly,
    Write,
)  # fmt: skip
from fabricbios.wire.description import Struct
from fabricbios.wire.dp_auth import Tagger, question_message, tag_in, with_tag
from fabricbios.wire.frame import Frame, MsgType
from fabricbios.wire.lease import LeaseAllocParams, LeaseAllocResult, LeaseFreeParams, LeaseFreeResult
from fabricbios.wire.params import CapRequestParams, PingParams, PingResult
from fabricbios.wire.token import Token, mint
from wiredoc.annotated import annotated, dump

CLIENT, NODE = (id_of_key(hashlib.sha256(who).digest()) for who in (b"client", b"node"))
TOKEN_KEY, DP_KEY_BYTES = bytes([3] * 32), bytes(range(32))
NOW = 1_800_000_000  # Unix seconds
LEASE = int.from_bytes(hashlib.sha256(b"lease").digest()[:16], "big")
RESOURCE = int.from_bytes(hashlib.sha256(b"resource").digest()[:16], "big")
NODE_ADDRESS = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 2))
HELLO_WORLD = b"hello, fabric"
PERMS = Perm.READ | Perm.WRITE | Perm.ALLOC | Perm.RENEW


def _token() -> Token:
    token_id = int.from_bytes(hashlib.sha256(b"token").digest()[:16], "big")
    return mint(
        Token(token_id=token_id, issuer=NODE, audience=CLIENT, perms=PERMS, issued_at=NOW, expires_at=NOW + 300),
        TOKEN_KEY,
    )


def _bindings() -> tuple[BindingTlv | DpAuthTlv | DpKey | Generation | Endpoint | Limits, ...]:
    return (
        BindingTlv(Binding.UDP), DpAuthTlv(DpAuth.BLAKE2S_FULL), DpKey(DP_KEY_BYTES), Generation(1),
        Endpoint(Transport.FBMU_UDP, NODE_ADDRESS, 5702), Limits(4096, 1408, 1404),
    )  # fmt: skip


WISHES = LeaseAllocParams(60, 0, ResourceType.MEM, 4096, (DpAuthTlv(DpAuth.BLAKE2S_FULL),))
CONTROL: dict[str, tuple[int, Op, Struct, Struct]] = {
    "ping": (1, Op.PING, PingParams(), PingResult(3600)),
    "cap_request": (2, Op.CAP_REQUEST, CapRequestParams(PERMS, 300, CLIENT), _token()),
    "lease_alloc": (3, Op.LEASE_ALLOC, WISHES, LeaseAllocResult(LEASE, NOW + 60, _bindings())),
    "lease_free": (4, Op.LEASE_FREE, LeaseFreeParams(LEASE), LeaseFreeResult()),
}
DATA: dict[str, tuple[Datagram, Datagram]] = {
    "hello": (
        FbmuHello(1, LEASE, 1, payload=Hello(LEASE, padding=4)),
        FbmuHelloAck(1, LEASE, 1, payload=HelloAck(0, 4096, 1408, 1404)),
    ),
    "write": (
        FbmuWrite(2, LEASE, 2, payload=Write(64, len(HELLO_WORLD), HELLO_WORLD)),
        FbmuWriteResp(2, LEASE, 2, payload=StatusOnly(0)),
    ),
    "read": (
        FbmuRead(3, LEASE, 3, payload=Read(64, len(HELLO_WORLD), padding=len(HELLO_WORLD) - 4)),
        FbmuReadResp(3, LEASE, 3, payload=ReadResp(0, len(HELLO_WORLD), HELLO_WORLD)),
    ),
}


def frames(name: str) -> tuple[Frame, Frame]:
    """Return the REQUEST and the RESPONSE of one exchange, as they stand on its stream."""
    number, op, params, result = CONTROL[name]
    token = _token().pack() if op is Op.LEASE_ALLOC else b""
    resource = RESOURCE if op in (Op.CAP_REQUEST, Op.LEASE_ALLOC) else 0
    request = Request(op, resource, token, params.pack()).pack("quic")
    response = Response(Status.OK, op, result.pack()).pack("quic")
    return (
        Frame(MsgType.REQUEST, 0, number, NOW * 1000 + number, CLIENT, request),
        Frame(MsgType.RESPONSE, 0, number, NOW * 1000 + 10 + number, NODE, response),
    )


def datagrams_of(name: str, mode: DpAuth = DpAuth.BLAKE2S_FULL) -> tuple[bytes, bytes]:
    """Return question and answer with their tags."""
    tagger = Tagger(mode, DP_KEY_BYTES)
    asked, answered = (d.pack() for d in DATA[name])
    question = with_tag(asked, tagger.tag(question_message(asked, mode)))
    if mode == DpAuth.HMAC_HEADER:
        return question, with_tag(answered, tag_in(question))
    return question, with_tag(answered, tagger.tag(question_message(answered, mode)))


def _control(name: str) -> str:
    _, op, params, result = CONTROL[name]
    request, response = frames(name)
    out = [f"REQUEST, {len(request.pack())} bytes:\n", dump(request.pack())]
    out += ["`params`:\n", annotated(params)] if params.pack() else ["No params.\n"]
    out += [f"RESPONSE, {len(response.pack())} bytes:\n", dump(response.pack())]
    out += [f"`result` of {op.name}:\n", annotated(result)] if result.pack() else ["The result is empty.\n"]
    return "\n".join(out)


def _ping() -> str:
    request, response = frames("ping")
    asked, answered = Request.unpack(request.payload, "quic"), Response.unpack(response.payload, "quic")
    return "\n".join([
        "The REQUEST's frame:\n", annotated(request), "its payload:\n", annotated(asked),
        "The RESPONSE's frame:\n", annotated(response), "its payload:\n", annotated(answered),
        "and the result in it:\n", annotated(PingResult(3600)),
    ])  # fmt: skip


def _data(name: str) -> str:
    question, answer = datagrams_of(name)
    asked, answered = DATA[name]
    return "\n".join([
        "Question:\n", annotated(type(asked).unpack(question)), "Answer:\n", annotated(type(answered).unpack(answer)),
    ])  # fmt: skip


def _tags() -> str:
    """The READ in every mode: M, the question's tag, the answer's."""
    out = [f"dp_key is `{DP_KEY_BYTES.hex()}`.\n"]
    for mode in DpAuth:
        question, answer = datagrams_of("read", mode)
        out += [f"### {int(mode)} {mode.name}\n", "M of the question:\n", dump(question_message(question, mode))]
        out += [f"auth_tag of the question `{tag_in(question).hex()}`\n"]
        if mode == DpAuth.HMAC_HEADER:
            out += ["The answer repeats it.\n"]
        else:
            out += [
                "M of the answer:\n",
                dump(question_message(answer, mode)),
                f"auth_tag of the answer `{tag_in(answer).hex()}`\n",
            ]
    return "\n".join(out)


def _whole_read() -> str:
    question, answer = datagrams_of("read")
    assert len(question) >= len(answer) > DP_HEADER_SIZE
    return "\n".join(
        [f"Question, {len(question)} bytes:\n", dump(question), f"Answer, {len(answer)} bytes:\n", dump(answer)]
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "ping": _ping,
    "cap_request": lambda: _control("cap_request"),
    "lease_alloc": lambda: _control("lease_alloc"),
    "lease_free": lambda: _control("lease_free"),
    "hello": lambda: _data("hello"),
    "write": lambda: _data("write"),
    "read": lambda: _data("read"),
    "read_bytes": _whole_read,
    "tags": _tags,
}
