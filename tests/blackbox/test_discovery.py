"""D4, D5 and the relay discovery profile on UDP 5700: a node's word, a relay's, and badly asked questions."""

import itertools
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackbox import codec
from blackbox.codec import (
    ANNOUNCE,
    COMPRESSED,
    CONTINUED,
    FINAL,
    FRAG_V2,
    RESPONSE,
    SOLICIT_RETRY,
    WITHDRAW,
    Reader,
    frame,
    read_announce,
    tlv16,
    u8,
    u16,
    u32,
    u64,
    u128,
)  # fmt: skip
from blackbox.discovery import Asker, announce_payload, framed, listed, rejoined, solicit, summary
from blackbox.keys import Key, holds, id_of, write_keys
from blackbox.programs import Program, poll, serving
from blackbox.sources import free_source
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EQ, GT, LT, CONTAINS = 1, 2, 3, 4


@pytest.fixture
def asker(world) -> Iterator[Asker]:
    """From an address of its own: unsigned frames are limited by source address."""
    with Asker(world.node.port("discovery"), free_source()) as asker:
        yield asker


def test_announce(world):
    """Signed with the node's own key, which it carries; where the control plane is; what there is to lease."""
    raw = world.announced()
    got = codec.read_frame(raw)
    assert got.msg_type == ANNOUNCE
    assert len(raw) <= 1400
    assert abs(got.nonce - time.time() * 1000) < 30_000
    announce = read_announce(got.payload)
    got.verify(announce.public_key)
    assert got.sender == announce.node_id == id_of(announce.public_key) == world.node.node_id
    assert abs(announce.sequence - time.time() * 1000) < 30_000
    assert abs(announce.timestamp - time.time()) < 30
    assert announce.ttl_secs >= 3
    assert announce.health == 0
    assert announce.control_addr == bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1])
    assert announce.control_port == world.control
    kinds = {s.resource_type for s in announce.resources}
    assert {codec.MEM, codec.BLOCK} <= kinds
    assert all(s.flags & ~3 == 0 for s in announce.resources)
    tags = dict(announce.extensions)
    r = Reader(tags[0x807])
    ranges = {r.uint(2) for _ in range(r.uint(2))}
    r.end()
    assert {0x100, 0xA00} <= ranges
    assert 0x808 not in tags
    assert 0x809 not in tags


def test_announced_again_and_higher(world):
    """--announce-interval 1; a sequence never comes twice."""
    sequences = [read_announce(codec.read_frame(world.announced()).payload).sequence for _ in range(2)]
    assert sequences[1] > sequences[0]


def test_resource_ids_match_the_inventory(world, owner):
    inventory = {s.resource_id for s in codec.read_summaries(Reader(owner.done(codec.GET_INVENTORY)))}
    announced = {s.resource_id for s in read_announce(codec.read_frame(world.announced()).payload).resources}
    assert announced <= inventory


def test_solicit_padded(world, asker):
    """A node answers for itself alone, with the asker's request_id; the answer never outgrows the question."""
    answer, raw = asker.ask(framed(solicit(), 1200, request_id=77))
    assert answer.msg_type == RESPONSE
    assert answer.request_id == 77
    assert answer.sender == world.node.node_id
    assert len(raw) <= 1200
    (entry,) = listed(answer.payload)
    assert read_announce(entry).node_id == world.node.node_id


def test_solicit_unpadded_gets_a_cookie(world, asker):
    """SOLICIT_RETRY with 32 bytes, no longer than the question; with it the answer may be longer."""
    question = framed(solicit(), 80)
    answer, raw = asker.ask(question)
    assert answer.msg_type == SOLICIT_RETRY
    assert len(raw) <= len(question)
    r = Reader(answer.payload)
    cookie = r.lp()
    r.end()
    assert len(cookie) == 32
    again, raw = asker.ask(framed(solicit(cookie=cookie), 0))
    assert again.msg_type == RESPONSE
    assert len(raw) > len(framed(solicit(cookie=cookie), 0))
    with Asker(world.node.port("discovery"), asker.socket.getsockname()[0]) as other:
        second, raw = other.ask(framed(solicit(cookie=cookie), 0))
        assert second.msg_type == SOLICIT_RETRY  # another port: not proven
        assert len(raw) <= len(framed(solicit(cookie=cookie), 0))
    wrong, _ = asker.ask(framed(solicit(cookie=bytes(32)), 0))
    assert wrong.msg_type == SOLICIT_RETRY


def test_too_short_for_even_a_retry(asker):
    assert len(framed(solicit(), 0)) < 80
    assert asker.silent(framed(solicit(), 0))
    assert asker.silent(framed(solicit(), 79))
    assert asker.ask(framed(solicit(), 80))[0].msg_type == SOLICIT_RETRY


BAD = {
    "filters without query_type": solicit([(1, EQ, u16(2))], query_type=0),
    "query_type 2": solicit(query_type=2),
    "field 0": solicit([(0, EQ, b"")]),
    "field 8": solicit([(8, EQ, b"")]),
    "field 0x3F": solicit([(0x3F, EQ, b"")]),
    "op 0": solicit([(1, 0, u16(2))]),
    "op 5": solicit([(1, 5, u16(2))]),
    "RESOURCE_TYPE GT": solicit([(1, GT, u16(2))]),
    "NODE_ID CONTAINS": solicit([(2, CONTAINS, b"")]),
    "SITE_ID CONTAINS": solicit([(3, CONTAINS, b"")]),
    "LOCALITY_CUSTOM LT": solicit([(6, LT, b"")]),
    "RESOURCE_FLAGS GT": solicit([(7, GT, b"")]),
    "cut": u8(1) + u16(3),
    "cookie of 4 GiB": u8(0) + u16(0) + b"\xff\xff\xff\xff",
}


def test_a_bad_solicit_draws_silence(world):
    """Each from an address of its own, so that no rate limit hides an answer."""
    for how, payload in BAD.items():
        with Asker(world.node.port("discovery"), free_source()) as asker:
            padding = 0 if how.startswith(("cut", "cookie")) else 1200
            assert asker.silent(framed(payload, padding), 0.1), how
    with Asker(world.node.port("discovery"), free_source()) as asker:
        good = framed(solicit(), 1200)
        for how, data in {
            "magic": b"FBIX" + good[4:], "version": good[:4] + b"\1" + good[5:],
            "flags": good[:6] + b"\0\x20" + good[8:],
            "cut": good[:-1], "trailing": good + b"\0", "type": good[:5] + b"\x33" + good[6:], "empty": b"",
            "request": good[:5] + b"\x10" + good[6:],
        }.items():  # fmt: skip
            assert asker.silent(data, 0.1), how
        assert asker.ask(good)[0].msg_type == RESPONSE


def test_filters_of_a_node(world):
    me = world.node.node_id
    for filters, there in (
        ([(1, EQ, u16(2))], True), ([(1, EQ, u16(5))], False), ([(2, EQ, u128(me))], True), ([(2, EQ,
        u128(me ^ 1))], False),
        ([(1, EQ, u16(2)), (2, EQ, u128(me))], True), ([(1, EQ, u16(2)), (2, EQ, u128(1))], False), ([(0x40, EQ,
        b"x")], False),
        ([(0xFF, GT, b"")], False), ([(3, LT, struct.pack(">I", 2**32 - 1))], True), ([(3, GT, struct.pack(">I",
        2**32 - 1))], False),
        ([(7, CONTAINS, u16(1))], False), ([(7, EQ, u16(0))], True),
    ):  # fmt: skip
        with Asker(world.node.port("discovery"), free_source()) as asker:
            if there:
                (entry,) = asker.entries(filters)
                assert read_announce(entry).node_id == me
            else:
                asker.send(framed(solicit(filters), 1200))
                raw = asker.receive_raw(0.15)
                assert raw is None or listed(codec.read_frame(raw).payload) == [], filters


def test_unsigned_frames_are_limited(world):
    """10 a second and a burst of 20 a source address; others are not disturbed."""
    with Asker(world.node.port("discovery"), free_source()) as asker:
        started = time.monotonic()
        for _ in range(120):
            asker.send(framed(solicit(), 1200))
        answers, last = 0, started
        while asker.receive_raw(2) is not None:
            answers, last = answers + 1, time.monotonic()
        assert 10 <= answers <= 20 + 10 * (last - started) + 1
    with Asker(world.node.port("discovery"), free_source()) as other:
        assert other.ask(framed(solicit(), 1200))[0].msg_type == RESPONSE


# ---- the relay


@pytest.fixture(scope="module")
def announcers() -> dict[str, Key]:
    """Keys that the relay has pinned, each for one test: of whom it has heard it knows for a while."""
    return {name: Key.new() for name in ("heard", "unheard", "withdrawn", "another", "brief", "filtered")}


@pytest.fixture(scope="module")
def relay(tmp_path_factory, world, announcers) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("relay")
    write_keys(directory / "trust", *announcers.values())
    write_keys(directory / "trust", world.controller, folder="controllers")
    node_key = Ed25519PublicKey.from_public_bytes(world.public_key())
    pem = node_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / "trust" / "peers" / "node.pem").write_bytes(pem)
    with serving(relay_of(directory)) as program:
        yield program


def relay_of(directory: Path) -> Program:
    return Program(
        directory, "relay", "--bind", "127.0.0.1", "--discovery-port", "0", "--state-dir", str(directory / "state"),
        "--trust", "certified", "--trust-dir", str(directory / "trust"), "--max-nodes", "64",
    )  # fmt: skip


def asked(relay: Program, filters=None) -> dict[int, bytes]:
    with Asker(relay.port("discovery"), free_source()) as asker:
        return {read_announce(e).node_id: e for e in asker.entries(filters)}


def tell(relay: Program, data: bytes) -> bytes:
    with Asker(relay.port("discovery"), free_source()) as asker:
        return asker.send(data)


def announced(relay: Program, key: Key, **fields) -> bytes:
    return tell(relay, frame(ANNOUNCE, announce_payload(key, **fields), sender=key.id, sign=key))


def heard(relay: Program, key_id: int) -> bytes | None:
    return poll(lambda: asked(relay).get(key_id), 8, 0.05)


def test_the_relays_ready_line(relay):
    assert relay.ready["schema"] == "fabricbios.ready/1"
    assert relay.ready["discovery"]["addr"] == "127.0.0.1"
    assert "fbmu" not in relay.ready


def test_an_entry_proves_itself(world, relay):
    """RELAY_SEEN and ANNOUNCE_PROOF come last; taken off, and lengths restored, the node's own signature holds."""
    original = world.announced()
    tell(relay, original)
    entry = heard(relay, world.node.node_id)
    assert entry, relay.said()
    announce = read_announce(entry)
    assert [tag for tag, _ in announce.extensions][-2:] == [0x808, 0x809]
    seen, proof = announce.extensions[-2][1], announce.extensions[-1][1]
    assert abs(int.from_bytes(seen, "big") - time.time()) < 30
    assert len(proof) == 44 + 64
    own = b"".join(tlv16(tag, value) for tag, value in announce.extensions[:-2])
    added = len(tlv16(0x808, seen)) + len(tlv16(0x809, proof))
    bare = entry[: len(entry) - added - len(own) - 4] + codec.lp(own)
    signed = proof[:44] + bare
    holds(announce.public_key, proof[44:], codec.FRAME_PREFIX + signed)
    assert bare == codec.read_frame(original).payload


def test_who_is_heard(world, relay, announcers):
    """Pinned or certified; not a stranger, not unsigned, not signed by another."""
    pinned, certified, stranger = announcers["heard"], Key.new(), Key.new()
    announced(relay, pinned)
    certificate = tlv16(0x806, codec.certificate(certified, world.controller))
    announced(relay, certified, extensions=certificate)
    announced(relay, stranger)
    announced(relay, Key.new(), extensions=tlv16(0x806, codec.certificate(stranger, world.controller)))
    assert heard(relay, pinned.id)
    assert heard(relay, certified.id)
    assert stranger.id not in asked(relay)
    second = announcers["unheard"]
    tell(relay, frame(ANNOUNCE, announce_payload(second), sender=second.id))
    tell(relay, frame(ANNOUNCE, announce_payload(second), sender=second.id, sign=stranger))
    tell(relay, frame(ANNOUNCE, announce_payload(second), sender=pinned.id, sign=pinned))
    tell(
        relay,
        frame(
            ANNOUNCE, announce_payload(second), sender=second.id, sign=second, nonce=int(time.time() * 1000) - 60_000
        ),
    )
    tell(relay, frame(ANNOUNCE, announce_payload(second, health=8), sender=second.id, sign=second))
    assert second.id not in asked(relay)


def test_sequence_replay_withdraw(relay, announcers):
    """A sequence not above the last is ignored; a nonce counts once; WITHDRAW drops, signed and fresh ones only."""
    key = announcers["withdrawn"]
    now = int(time.time() * 1000) + 1000
    first = announced(relay, key, sequence=now, site=1)
    assert poll(lambda: read_announce(asked(relay).get(key.id, first[44:-64])).sequence == now, 8, 0.05)

    def site() -> int:
        return int.from_bytes(asked(relay)[key.id][38:42], "big")

    assert site() == 1
    announced(relay, key, sequence=now, site=2)
    announced(relay, key, sequence=now - 1, site=3)
    assert site() == 1
    announced(relay, key, sequence=now + 1, site=4)
    assert poll(lambda: site() == 4, 8, 0.05)
    withdraw = u128(key.id) + u64(now + 2) + u8(0)
    tell(relay, frame(WITHDRAW, withdraw, sender=key.id))
    tell(relay, frame(WITHDRAW, withdraw, sender=key.id, sign=announcers["another"]))
    tell(relay, frame(WITHDRAW, u128(key.id) + u64(now) + u8(0), sender=key.id, sign=key))
    tell(relay, frame(WITHDRAW, u128(key.id) + u64(now + 2) + u8(9), sender=key.id, sign=key))
    assert key.id in asked(relay)
    tell(relay, frame(WITHDRAW, withdraw, sender=key.id, sign=key))
    assert poll(lambda: key.id not in asked(relay), 8, 0.05)
    tell(relay, first)  # a replay brings nothing back
    assert key.id not in asked(relay)
    announced(relay, key, sequence=now + 10)
    assert heard(relay, key.id)
    tell(relay, frame(WITHDRAW, u128(key.id), sender=key.id, sign=key))  # the old form
    assert poll(lambda: key.id not in asked(relay), 8, 0.05)


def test_ttl(relay, announcers):
    key = announcers["brief"]
    announced(relay, key, ttl=1)
    assert heard(relay, key.id)
    assert poll(lambda: key.id not in asked(relay), 8, 0.1)


def test_filters_of_a_relay(relay, announcers):
    """AND; RESOURCE_TYPE with RESOURCE_FLAGS want one resource that has both."""
    key = announcers["filtered"]
    resources = u16(2) + summary(codec.MEM, 1, 10) + summary(codec.NET, 2, 11)
    announced(relay, key, site=40, resources=resources)
    assert heard(relay, key.id)
    site = struct.Struct(">I").pack
    for filters, there in (
        ([(1, EQ, u16(codec.MEM))], True), ([(1, EQ, u16(codec.GPU))], False), ([(3, EQ, site(40))], True), ([(3,
        GT, site(39))], True),
        ([(3, GT, site(40))], False), ([(3, LT, site(41))], True), ([(3, LT, site(40))], False), ([(5, EQ,
        site(3))], True), ([(4, EQ, site(2))], True),
        ([(7, EQ, u16(1))], True), ([(7, CONTAINS, u16(3))], False), ([(7, CONTAINS, u16(2))], True),
        ([(1, EQ, u16(codec.MEM)), (7, EQ, u16(1))], True), ([(1, EQ, u16(codec.MEM)), (7, EQ, u16(2))], False),
        ([(6, EQ, bytes(32))], True), ([(6, CONTAINS, b"\0\0x")], False), ([(6, CONTAINS, b"")], True),
    ):  # fmt: skip
        assert (key.id in asked(relay, filters)) is there, filters


def test_nothing_longer_than_an_unproven_question(world, relay):
    key, payload = newcomer(world)  # there is something to be told
    tell(relay, frame(ANNOUNCE, payload, sender=key.id, sign=key))
    assert heard(relay, key.id)
    for size in (80, 100, 150, 300, 700, 1200):
        with Asker(relay.port("discovery"), free_source()) as asker:
            question = framed(solicit(), size)
            asker.send(question)
            raw = asker.receive_raw()
            assert raw is not None
            assert len(raw) <= len(question)


# ---- fragments and compression


def cut(key: Key, payload: bytes, at: list[int], *, v2: bool) -> list[bytes]:
    """Cut an ANNOUNCE at these offsets; each fragment signed for itself, one nonce for all."""
    shared = {"sender": key.id, "nonce": codec.fresh_nonce(), "request_id": codec.fresh_nonce(), "sign": key}
    frames = []
    for start, end in itertools.pairwise([0, *at, len(payload)]):
        flags = (FINAL if end == len(payload) else CONTINUED) | (FRAG_V2 if v2 else 0)
        offsets = u32(start) + u32(len(payload)) if v2 else b""
        frames.append(frame(ANNOUNCE, payload[start:end], flags=flags, middle=offsets, **shared))
    return frames


def newcomer(world, **fields) -> tuple[Key, bytes]:
    """Return a certified key and an ANNOUNCE payload of its own with a dozen resources."""
    key = Key.new()
    resources = u16(12) + b"".join(summary(resource_id=n) for n in range(12))
    certificate = tlv16(0x806, codec.certificate(key, world.controller))
    return key, announce_payload(key, resources=resources, extensions=certificate, **fields)


def tell_all(relay: Program, frames: list[bytes]) -> None:
    """From one address: reassembly is keyed by it."""
    with Asker(relay.port("discovery"), free_source()) as asker:
        for data in frames:
            asker.send(data)


@pytest.mark.parametrize("v2", [True, False], ids=["FRAG_V2", "legacy"])
def test_an_announce_in_fragments(world, relay, v2):
    """It is heard, and has no ANNOUNCE_PROOF."""
    key, payload = newcomer(world)
    frames = cut(key, payload, [200, 500], v2=v2)
    tell_all(relay, frames[::-1] if v2 else frames)
    entry = heard(relay, key.id)
    assert entry
    tags = [tag for tag, _ in read_announce(entry).extensions]
    assert 0x808 in tags
    assert 0x809 not in tags


def test_fragments_that_do_not_fit(world, relay):
    """Overlapping, disagreeing, marked wrong, or one too few: never heard."""
    keys = {}
    for spoil in ("nothing", "overlap", "total", "both marks", "no final", "unsigned", "other nonce"):
        key, payload = newcomer(world)
        end, nonce = len(payload), codec.fresh_nonce()
        start, total, flags, second_nonce, sign = 400, end, FINAL, nonce, key
        match spoil:
            case "overlap":
                start = 399
            case "total":
                total = end + 1
            case "both marks":
                flags = FINAL | CONTINUED
            case "no final":
                flags = CONTINUED
            case "unsigned":
                sign = None
            case "other nonce":
                second_nonce += 1
        shared = {"sender": key.id, "request_id": nonce}
        first = frame(
            ANNOUNCE,
            payload[:400],
            flags=FRAG_V2 | CONTINUED,
            middle=u32(0) + u32(end),
            nonce=nonce,
            sign=key,
            **shared,
        )
        offsets = u32(start) + u32(total)
        second = frame(
            ANNOUNCE, payload[start:], flags=FRAG_V2 | flags, middle=offsets, nonce=second_nonce, sign=sign, **shared
        )
        tell_all(relay, [first, second])
        keys[spoil] = key.id
    assert heard(relay, keys.pop("nothing"))
    there = asked(relay)
    assert [spoil for spoil, key_id in keys.items() if key_id in there] == []


def test_compression(world, relay):
    """One complete zlib stream and nothing after it; past 256 KiB inflating stops."""
    key, payload = newcomer(world)
    tell(relay, frame(ANNOUNCE, zlib.compress(payload), flags=COMPRESSED, sender=key.id, sign=key))
    assert heard(relay, key.id)
    bad = []
    for how in ("trailing", "no end", "not deflated", "too long"):
        key, payload = newcomer(world)
        whole = zlib.compress(payload)
        data = {
            "trailing": whole + b"x",
            "no end": whole[:-1],
            "not deflated": payload,
            "too long": zlib.compress(payload + bytes(300_000)),
        }[how]
        tell(relay, frame(ANNOUNCE, data, flags=COMPRESSED, sender=key.id, sign=key))
        bad.append(key.id)
    assert not set(bad) & set(asked(relay))


def test_a_long_answer(world, relay):
    """In FRAG_V2 fragments to who can take them, in legacy ones to others; each frame at most 1400 bytes."""
    for _ in range(4):
        key, payload = newcomer(world)
        tell(relay, frame(ANNOUNCE, payload, sender=key.id, sign=key))
        assert heard(relay, key.id)
    for v2 in (True, False):
        with Asker(relay.port("discovery"), free_source()) as asker:
            retry, _ = asker.ask(framed(solicit(), 80))
            payload = solicit(cookie=Reader(retry.payload).lp())
            offsets = u32(0) + u32(len(payload)) if v2 else b""
            asker.send(frame(codec.SOLICIT, payload, flags=FRAG_V2 if v2 else 0, middle=offsets))
            pieces = asker.receive_pieces()
            assert len(pieces) > 1
            assert len(listed(rejoined(pieces, v2=v2))) >= 4


def test_relay_ends_well(tmp_path):
    with serving(relay_of(tmp_path)) as relay:
        assert relay.stop() == 0
