"""Messages in their circumstances: keys, clock, peer, transport and question, as the vectors' `given` names them.

A message alone says whether it is well-formed. Whether its seal holds, its dates count and its
answer fits takes more; here that is put together for one message at a time, for people, captures
and vectors. The daemon asks the same functions, in its own order.
"""

from __future__ import annotations

import hmac
from typing import Any, NamedTuple

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.model import DpAuth
from fabricbios.wire.certificate import Certificate
from fabricbios.wire.dataplane import DP_HEADER_SIZE, Datagram, DpHeader
from fabricbios.wire.description import Struct
from fabricbios.wire.discovery import SolicitRetry
from fabricbios.wire.dp_auth import ANSWERS, Tagger, question_message, tag_in
from fabricbios.wire.frame import Frame, FrameFlag
from fabricbios.wire.json_form import Json, from_json, number, octets
from fabricbios.wire.rules import BY_NAME, QUIC, UDP, UDP6, Rules
from fabricbios.wire.seal import sign_certificate, sign_frame, verify_certificate, verify_frame
from fabricbios.wire.token import Token, attenuate, mac_holds, mint, objection

SKEW_MS = 30_000  # of a signed frame's nonce (D2)
_BYTES = (
    "seed", "public_key", "issuer_seed", "issuer_public_key", "token_key", "parent", "dp_key", "question",
    "cookie_key", "source_addr",
)  # fmt: skip
_U16, _U32, _U64, _U128 = ((0, (1 << bits) - 1) for bits in (16, 32, 64, 128))
_NUMBERS = {
    "ip": (4, 6), "now": _U64, "now_ms": _U64, "peer": _U128, "dp_auth": (0, 255), "block_size": (1, _U32[1]),
    "source_port": _U16, "minute": _U64,
}  # fmt: skip


class Given(NamedTuple):
    """What is known besides the bytes; None is not known, and not judged."""

    transport: str | None = None
    ip: int | None = None
    seed: bytes | None = None
    public_key: bytes | None = None
    issuer_seed: bytes | None = None
    issuer_public_key: bytes | None = None
    now: int | None = None
    now_ms: int | None = None
    token_key: bytes | None = None
    parent: bytes | None = None
    peer: int | None = None
    dp_key: bytes | None = None
    dp_auth: int | None = None
    question: bytes | None = None
    block_size: int | None = None
    cookie_key: bytes | None = None
    source_addr: bytes | None = None
    source_port: int | None = None
    minute: int | None = None

    @staticmethod
    def of(given: Json) -> Given:
        """Read `given` of a vector; keys for people are ignored. Raise LocalMisuse for values that do not fit."""
        if not isinstance(given, dict):
            raise LocalMisuse("given is not an object")
        known: dict[str, Any] = {k: octets(given[k], k) for k in _BYTES if given.get(k) is not None}
        known |= {k: _number(given[k], k, *bounds) for k, bounds in _NUMBERS.items() if given.get(k) is not None}
        transport = given.get("transport")
        if transport not in (None, "udp", "quic"):
            raise LocalMisuse("transport is udp or quic")
        if known.get("ip") == 5:
            raise LocalMisuse("ip is 4 or 6")
        return Given(transport=transport, **known)

    def rules(self, cls: type[Struct]) -> Rules:
        """Return the limits that a message of this class is judged by."""
        rules = BY_NAME[self.transport or cls.TRANSPORT]
        if rules is UDP and self.ip == 6:
            rules = UDP6
        return rules if self.block_size is None else rules._replace(block_size=self.block_size)


def unseal(cls: type[Struct], data: bytes, given: Given) -> Any:
    """Return the value of a message whose seals hold. Raise WireError if it is refused for any reason."""
    rules = given.rules(cls)
    value = cls.unpack(data, rules)
    verify(value, data, given, rules)
    return value


def verify(value: Struct, data: bytes, given: Given, rules: Rules) -> None:
    """Raise WireError where a seal, a date or an answer does not fit what is given."""
    if isinstance(value, Frame):
        _verify_frame(value, given)
    elif isinstance(value, Certificate):
        _verify_certificate(value, given)
    elif isinstance(value, Token):
        _verify_token(value, given)
    elif isinstance(value, SolicitRetry):
        _verify_cookie(value, given)
    elif isinstance(value, Datagram) and rules.transport != QUIC.transport:
        _verify_datagram(value, data, given)


def _verify_frame(frame: Frame, given: Given) -> None:
    needs_none = frame.signature is None and given.transport == QUIC.transport  # D2: TLS has done it there
    if given.public_key is not None and not needs_none and not verify_frame(frame, given.public_key):
        raise WireError("the frame's signature does not hold")
    if given.now_ms is not None and frame.signature is not None and abs(frame.nonce - given.now_ms) > SKEW_MS:
        raise WireError("the nonce is more than 30 s from now", 16)


def _verify_certificate(certificate: Certificate, given: Given) -> None:
    key = given.issuer_public_key
    if key is not None and not verify_certificate(certificate, key):
        raise WireError("the certificate's signature does not hold")
    if given.now is not None and not certificate.in_its_dates(given.now):
        raise WireError("the certificate is outside its dates")


def _verify_token(token: Token, given: Given) -> None:
    if given.token_key is not None and not mac_holds(token, given.token_key):
        raise WireError("the token's MAC chain does not hold")
    why = objection(token, now=given.now, peer=given.peer)
    if why:
        raise WireError(why)


def _verify_cookie(retry: SolicitRetry, given: Given) -> None:
    if None in (given.cookie_key, given.source_addr, given.source_port, given.minute):
        return
    source = (given.source_addr or b"") + (given.source_port or 0).to_bytes(2, "big")
    made = hmac.digest(given.cookie_key or b"", source + (given.minute or 0).to_bytes(8, "big"), "sha256")
    if not hmac.compare_digest(made, retry.cookie):
        raise WireError("the cookie is not for this address and minute")


def _verify_datagram(datagram: Datagram, data: bytes, given: Given) -> None:
    if given.question is not None:
        asked = _question(given.question)
        if (asked.request_id, asked.lease_id, asked.nonce) != (datagram.request_id, datagram.lease_id, datagram.nonce):
            raise WireError("an answer repeats request_id, lease_id and nonce")
    tag = _tag(data, datagram, given)
    if tag is not None and not hmac.compare_digest(tag, datagram.auth_tag):
        raise WireError("auth_tag does not hold", DP_HEADER_SIZE - len(tag))


def _tag(data: bytes, datagram: Datagram, given: Given) -> bytes | None:
    """Return the tag that the datagram should carry, None if what is given does not tell."""
    if given.dp_auth == DpAuth.HMAC_HEADER and datagram.op in ANSWERS:
        return None if given.question is None else tag_in(given.question)
    if given.dp_key is None or given.dp_auth is None:
        return None
    mode = _mode(given.dp_auth)
    return Tagger(mode, given.dp_key).tag(question_message(data, mode))


def _mode(value: int) -> DpAuth:
    try:
        return DpAuth(value)
    except ValueError:
        raise LocalMisuse(f"dp_auth {value} is no mode") from None


def _question(data: bytes) -> DpHeader:
    if len(data) < DP_HEADER_SIZE:
        raise LocalMisuse("the question is shorter than a header")
    return DpHeader.unpack_prefix(data)[0]


def seal(cls: type[Struct], fields: Json, given: Given) -> bytes:
    """Return the bytes of a message made from its JSON form, sealed with what keys are given.

    Raise LocalMisuse for fields that cannot be sent.
    """
    value = sealed(from_json(cls, fields), given)
    rules = given.rules(cls)
    data: bytes = value.pack(rules)
    if isinstance(value, Datagram) and rules.transport != QUIC.transport:
        tag = _tag(data, value, given)
        if tag is not None:
            data = value.replace(auth_tag=tag).pack(rules)
    return data


def sealed(value: Any, given: Given) -> Any:
    """Return the value with signature or MAC where a key for it is given."""
    if isinstance(value, Frame) and given.seed is not None and value.flags & FrameFlag.SIGNED:
        return sign_frame(value, _private_key(given.seed))
    if isinstance(value, Certificate) and given.issuer_seed is not None:
        return sign_certificate(value, _private_key(given.issuer_seed))
    if isinstance(value, Token) and given.token_key is not None:
        return mint(value, given.token_key)
    if isinstance(value, Token) and given.parent is not None:
        return _narrowed(value, given.parent)
    return value


def _narrowed(wish: Token, parent_bytes: bytes) -> Token:
    """Carry the parent's MAC on to a token that has its fields and caveats, and more caveats."""
    token = Token.unpack(parent_bytes)
    for caveat in wish.caveats[len(token.caveats) :]:
        token = attenuate(token, caveat)
    if token.replace(mac=wish.mac) != wish:
        raise LocalMisuse("the token is not its parent and more caveats")
    return token


def _private_key(seed: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        return Ed25519PrivateKey.from_private_bytes(seed)
    except ValueError as e:
        raise LocalMisuse(f"not an Ed25519 seed: {e}") from None


def _number(given: Json, label: str, low: int, high: int) -> int:
    value = number(given, label)
    if not low <= value <= high:
        raise LocalMisuse(f"{label} is not between {low} and {high}")
    return value
