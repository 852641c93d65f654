"""core's objects as targets: whatever is sent to them, nothing raises, and their bounds hold."""

from __future__ import annotations

import random
from collections.abc import Iterator

from discovery_rig import ASKER, announcing, at, key, node_id, question, raw, store

from fabricbios.core.discovery import Discovery
from fabricbios.core.fence import SchedulerFence
from fabricbios.core.reassembly import Reassembler
from fabricbios.core.relay import Relay
from fabricbios.core.token import Scope, Tokens
from fabricbios.errors import LocalMisuse, Refused, WireError
from fabricbios.model import Op, Perm
from fabricbios.ports import UdpPeer
from fabricbios.testing import FakeNode, peer_of
from fabricbios.wire.discovery import Announce, Solicit, SolicitRetry, Withdraw
from fabricbios.wire.fragmentation import cut
from fabricbios.wire.frame import Frame, FrameFlag, MsgType
from fabricbios.wire.proof import add_proof, has_relay_tags, verify_entry
from fabricbios.wire.seal import sign_frame
from fabricbios.wire.token import Range, Token, attenuate, mac_holds, mint, objection
from fuzz import corpus, oracles
from fuzz.records import Record, join, split

KEYS = [key(seed) for seed in range(4)]
IDS = [node_id(k) for k in KEYS]
PUBLIC = [raw(k) for k in KEYS]
TOKEN_KEY = bytes(range(32))


# -- tokens


def token_verify(data: bytes) -> None:
    """No token but one of ours is authentic; what is ours is judged, narrowed and verified without an error."""
    try:
        token = Token.unpack(data)
    except WireError:
        return
    assert isinstance(objection(token, now=token.issued_at, peer=token.audience), str)
    assert not mac_holds(token, TOKEN_KEY)
    ours = mint(token.replace(issuer=1), TOKEN_KEY)
    assert mac_holds(ours, TOKEN_KEY)
    _narrow(ours)
    now = at()._replace(unix_ms=min(token.issued_at, 1 << 60) * 1000)
    tokens = Tokens(1, TOKEN_KEY, SchedulerFence(token.epoch))
    for perm in (Perm.ALLOC, Perm.ADMIN):
        for _ in range(3):
            _verified(tokens, ours, Scope(perm, token.resource_id, size=1), now)


def _narrow(token: Token) -> None:
    try:
        narrowed = attenuate(token, Range(0, 1))
    except LocalMisuse:
        return
    assert mac_holds(narrowed, TOKEN_KEY)
    assert not mac_holds(narrowed.replace(caveats=token.caveats), TOKEN_KEY), "a caveat came off"


def _verified(tokens: Tokens, token: Token, scope: Scope, now: object) -> None:
    try:
        assert tokens.verify(token.pack(), scope, peer_of(token.audience), now) == token  # type: ignore[arg-type]
    except Refused:
        return


# -- a relay's entries


def entries() -> Iterator[bytes]:
    """Announcements, plain and as a relay lists them."""
    for payload in corpus.golden("announce"):
        yield payload
        signed = _signed_announce(payload)
        if signed is not None:
            yield _listed(signed)


def verify_any_entry(data: bytes) -> None:
    """An Entry or a WireError; and an announcement that we sign is proven unless it carries a relay's tags."""
    try:
        entry = verify_entry(data)
    except WireError as error:
        oracles.placed(error, data)
    else:
        oracles.bounded(entry.announce, data)
    signed = _signed_announce(data)
    if signed is not None and not has_relay_tags(signed.payload):
        assert verify_entry(_listed(signed)).proven, "what its node signed is not proven"


def _signed_announce(payload: bytes) -> Frame | None:
    announce = oracles.refuses(Announce.unpack, payload)
    if announce is None:
        return None
    ours = announce.replace(node_id=IDS[0], public_key=PUBLIC[0]).pack()
    return sign_frame(Frame(MsgType.ANNOUNCE, 0, 1, 5, IDS[0], ours), KEYS[0])


def _listed(frame: Frame) -> bytes:
    return add_proof(frame.payload, 7, frame.pack()[:44], frame.signature or b"")


# -- reassembly

_BOUNDS = (4, 2, 2048)


def fragments() -> Iterator[bytes]:
    """Messages of two and three pieces, whole, out of order, and mixed."""
    whole = Frame(MsgType.RESPONSE, 0, 1, 1, 1, bytes(range(200)) * 10)
    for frag_v2 in (True, False):
        pieces = [Record(0, 0, f.pack()) for f in cut(whole, frag_v2=frag_v2)]
        other = [Record(0, 1, f.pack()) for f in cut(whole.replace(request_id=2), frag_v2=frag_v2)]
        yield join(*pieces)
        yield join(*reversed(pieces))
        yield join(pieces[0], other[0], Record(1, 2, b""), pieces[1], other[1])


def reassembly(data: bytes) -> None:
    """Any frames in any order stay within the bounds; what comes out is what its frames hold."""
    table, seconds = Reassembler(*_BOUNDS), 0
    for record in split(data):
        seconds += record.kind & 3
        table.handle_timer(at(seconds))
        _piece(table, record, seconds)
        assert len(table) <= _BOUNDS[0]
        assert 0 <= table.held <= _BOUNDS[2]
    table.handle_timer(at(seconds + 3))
    assert (len(table), table.held, table.next_deadline()) == (0, 0, None)


def _piece(table: Reassembler, record: Record, seconds: int) -> None:
    try:
        frame = Frame.unpack(record.data, "udp")
        frames = table.add(frame, UdpPeer("192.0.2.1", record.who), at(seconds)) if frame.fragmented else None
    except WireError:
        return
    if frames and frames[0].flags & FrameFlag.FRAG_V2:
        assert sum(len(f.payload) for f in frames) == frames[0].frag_total_len


# -- discovery


def datagrams() -> Iterator[bytes]:
    """Frames of every kind, alone and in a row, as they are and (kind 1) to be signed."""
    frames = [f for f in corpus.golden("frame") if len(f) <= 1400]
    payloads = [*_frames_of("announce", MsgType.ANNOUNCE), *_frames_of("withdraw", MsgType.WITHDRAW)]
    payloads += _frames_of("solicit", MsgType.SOLICIT)
    for frame in (*frames, *payloads):
        yield join(Record(0, 0, frame))
    for frame in payloads:
        yield join(Record(_SIGNED, 0, frame), Record(_SIGNED, 0, payloads[-1]), Record(_SIGNED | _LATER, 0, frame))
        asked = Record(0, 0, question())
        yield join(Record(_SIGNED, 0, payloads[0]), asked, Record(_COOKIE, 0, asked.data), Record(_SIGNED, 0, frame))
        yield join(Record(0, 0, frame), Record(_COOKIE, 0, frame), Record(_COOKIE | _LATER, 0, frame))


def _frames_of(name: str, msg_type: MsgType) -> list[bytes]:
    payloads = [p for p in corpus.golden(name) if len(p) <= 1200]
    return [Frame(msg_type, 0, i, 0, 5, payload).pack() for i, payload in enumerate(payloads)]


def relay(data: bytes) -> None:
    party = Relay(1, store(), max_nodes=2, rng=random.Random(0).randbytes)
    _play(party, data)
    assert len(party) <= 2


def discovery(data: bytes) -> None:
    party, _ = announcing(KEYS[3], at())
    _play(party, data)


_SIGNED, _LATER, _COOKIE = 1, 2, 4


def _play(party: Relay | Discovery, data: bytes) -> None:
    """Send the records; what comes back is never longer than the question unless the asker proved its address."""
    cookie = b""
    for i, record in enumerate(split(data)):
        now = at(i if record.kind & _LATER else 0)
        party.handle_timer(now)
        party.datagrams_to_send(now)
        sent = _as_its_node(record, i) if record.kind & _SIGNED else record.data
        sent = _with_cookie(sent, cookie) if record.kind & _COOKIE else sent
        party.receive(sent, ASKER, now)
        answers = [answer for answer, to in party.datagrams_to_send(now) if to == ASKER]
        assert cookie or sum(map(len, answers)) <= len(sent), "the answer is longer than the question"
        cookie = next((c for c in map(_cookie_in, answers) if c), cookie)
        party.next_deadline()
    party.handle_timer(at(1000))


def _with_cookie(data: bytes, cookie: bytes) -> bytes:
    """Return a SOLICIT as who got this cookie sends it again; any other frame as it is."""
    frame = oracles.refuses(Frame.unpack, data)
    solicit = oracles.refuses(Solicit.unpack, frame.payload) if frame and frame.msg_type == MsgType.SOLICIT else None
    if solicit is None:
        return data
    payload = solicit.replace(cookie=cookie).pack()
    whole = {"frag_offset": 0, "frag_total_len": len(payload)} if frame.flags & FrameFlag.FRAG_V2 else {}
    packed = oracles.refuses(lambda: frame.replace(payload=payload, **whole).pack())
    return data if packed is None else bytes(packed)


def _cookie_in(answer: bytes) -> bytes:
    frame = Frame.unpack(answer, "udp")
    return SolicitRetry.unpack(frame.payload).cookie if frame.msg_type == MsgType.SOLICIT_RETRY else b""


def _as_its_node(record: Record, place: int) -> bytes:
    """Return the frame signed by one of our nodes, with the ids that go with it; as it is where that is impossible."""
    frame = oracles.refuses(Frame.unpack, record.data)
    if frame is None:
        return record.data
    who = record.who % 3
    payload = frame.payload
    if frame.msg_type == MsgType.ANNOUNCE and (announce := oracles.refuses(Announce.unpack, payload)):
        payload = announce.replace(node_id=IDS[who], public_key=PUBLIC[who]).pack()
    if frame.msg_type == MsgType.WITHDRAW and (withdraw := oracles.refuses(Withdraw.unpack, payload)):
        payload = withdraw.replace(node_id=IDS[who]).pack()
    changed = frame.replace(sender=IDS[who], nonce=at().unix_ms + place, payload=payload)
    packed = oracles.refuses(lambda: sign_frame(changed, KEYS[who]).pack())
    return record.data if packed is None else packed


# -- a node

_RAW, _TOKEN, _LAST_LEASE, _RUN, _TIME, _FAIL = 1, 2, 4, 8, 16, 32
_FAILING = (("do", "reserve"), ("do", "open"), ("undo", "open"), ("undo", "reserve"), ("renew", ""), ("rekey", ""))


def requests() -> Iterator[bytes]:
    """Each op with its golden params; and allocations that are used, renewed, revoked and fail."""
    params = [(op, p) for op in Op for p in corpus.golden(f"{op.name.lower()}_params") if len(p) <= 512]
    for op, p in params:
        yield join(Record(_RUN | _TOKEN, 1, op.to_bytes(2, "big") + p))
    alloc = next(p for op, p in params if op is Op.LEASE_ALLOC)
    begin = Record(_RUN | _TOKEN, 1, Op.LEASE_ALLOC.to_bytes(2, "big") + _MEMORY + alloc[10:])
    for op, p in params:
        then = Record(_RUN | _TOKEN | _LAST_LEASE, 1, op.to_bytes(2, "big") + p)
        yield join(begin, then, Record(_TIME | _FAIL, 200, b""), then)
    for data in corpus.golden("frame", "request"):
        yield join(Record(_RAW, 1, data))


_MEMORY = bytes.fromhex("0000003c00000005") + b"\0\2"  # a minute, five seconds of grace, memory


def node(data: bytes) -> None:
    """Nothing raises, whoever asks for what; every request is answered, reset, or waits for an effect."""
    rig = FakeNode(trusted=(1, 2))
    for record in split(data):
        if record.kind & _FAIL:
            rig.plane.failures[_FAILING[record.who % len(_FAILING)]] = 2
        if record.kind & _TIME:
            rig.pass_time(record.who)
        elif record.kind & _RAW:
            rig.node.receive(record.data, peer_of(record.who % 4, stream=1), rig.clock.now)
        else:
            _ask(rig, record)
        if record.kind & _RUN:
            rig.run()
    rig.pass_time(1000)


def _ask(rig: FakeNode, record: Record) -> None:
    op, params = int.from_bytes(record.data[:2], "big"), record.data[2:]
    last = next(reversed(list(rig.node.leases())), None)
    if record.kind & _LAST_LEASE and last is not None:
        params = last.spec.lease_id.to_bytes(16, "big") + params[16:]
    rig.send(record.who % 4, op, params, token=_token(rig, record.who % 4) if record.kind & _TOKEN else b"")


def _token(rig: FakeNode, who: int) -> bytes:
    now = rig.clock.now.unix
    token = Token(token_id=who + 1, issuer=0xF0, perms=255, issued_at=now, expires_at=now + 60)
    return mint(token, TOKEN_KEY).pack()
