"""The Wireshark dissector in tshark: golden vectors, forgeries, fragments, and a real node's traffic."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from capture_rig import captured, secrets_logged, without_first
from dissector_rig import AS_STREAM, QUIC_PORT, agrees, carried, expected, unreadable
from facilities import require
from node_rig import NodeProcess
from pcap_rig import Packet, Sent, packets, tshark, write_pcap
from vectors.golden import FAMILIES, family

from fabricbios.errors import WireError
from fabricbios.model import DpAuth
from fabricbios.transport import Identity
from fabricbios.wire import Tagger
from fabricbios.wire.dp_auth import ANSWERS
from fabricbios.wire.registry import TYPES

AUTH = Path(__file__).parents[2] / "wiredoc/lua/auth.lua"
# Rules that take more than one value at a time; the dissector leaves them to the codec.
NOT_JUDGED = ("an error result without REASON", "more caveats follow than DEPTH allows")
GOOD, BAD, UNVERIFIED = "1", "2", "0"
LABELS = [mode.label for mode in DpAuth]


@pytest.fixture(autouse=True)
def _tools():
    require("tools", bool(shutil.which("tshark")), "tshark is not installed")


def carriable(kind: str) -> list[tuple[dict, Sent]]:
    """Return the vectors of one kind that a datagram can carry."""
    cases = [c for name in FAMILIES for c in family(name)[kind] if c["type"] in TYPES]
    found = [(c, carried(c["type"], bytes.fromhex(c["hex"]))) for c in cases]
    return [(c, sent) for c, sent in found if sent is not None and len(sent.data) < 65_000]


def verdict(case: dict, sent: Sent) -> tuple[object, str]:
    """Return what the codec makes of a vector without keys: the value, or why it is refused."""
    try:
        value = TYPES[case["type"]].unpack(bytes.fromhex(case["hex"]), "quic" if sent.dport == QUIC_PORT else "udp")
    except WireError as error:
        return None, error.reason
    return value, ""


def ours(packet: Packet) -> bool:
    return bool({"fabricbios", "fabricbios_quic"} & set(packet.protocols))


def test_golden_vectors_show_their_fields(tmp_path):
    cases = carriable("cases")
    assert len(cases) > 400
    shown = packets(write_pcap(tmp_path / "valid.pcap", [s for _, s in cases]), *AS_STREAM)
    for (case, sent), packet in zip(cases, shown, strict=True):
        value, why = verdict(case, sent)
        assert ours(packet), case["name"]
        assert bool(packet.complaints) == bool(why or unreadable(value)), (case["name"], packet.complaints)
        fields = iter(packet.fields)
        for name, held in [] if value is None else expected(value):
            assert any(f.name == name and agrees(f, held) for f in fields), (case["name"], name, held)


def test_what_the_codec_refuses_is_marked(tmp_path):
    cases = carriable("invalid")
    assert len(cases) > 400
    shown = packets(write_pcap(tmp_path / "invalid.pcap", [s for _, s in cases]), *AS_STREAM)
    for (case, sent), packet in zip(cases, shown, strict=True):
        value, why = verdict(case, sent)
        if why not in NOT_JUDGED:
            refused = bool(why) or unreadable(value)
            assert refused == (bool(packet.complaints) or not ours(packet)), (case["name"], why, packet.complaints)


def tagged(kind: str, mode: int, *rules: str) -> list[dict]:
    """Return the datagrams with a key in this mode, each lease with one key; no answers to a question that is given."""
    found: list[dict] = []
    for case in (c for name in ("fbmu", "fbbu") for c in family(name)[kind]):
        given = case["given"]
        fits = given.get("dp_auth") == mode and given.get("dp_key") and not given.get("question")
        if fits and given.get("transport") != "quic" and (not rules or case["rule"] in rules):
            found += [case] if keys_agree([*found, case]) else []
    return found


def keys_agree(cases: list[dict]) -> bool:
    """Whether no lease has two keys here, as it has in some vectors but never in a capture."""
    return len({lease_of(c) for c in cases}) == len({(lease_of(c), c["given"]["dp_key"]) for c in cases})


def lease_of(case: dict) -> str:
    return case["hex"][32:64]


def statuses(path: Path, cases: list[dict], mode: str) -> list[list[str]]:
    """Return auth.status of each vector, every lease with its own key."""
    sent = [Sent(bytes.fromhex(c["hex"]), 5702) for c in cases]
    keys = ",".join(f"{lease_of(c)}:{c['given']['dp_key']}" for c in cases)
    options = ("-o", f"fabricbios.dp_key:{keys}", "-o", f"fabricbios.dp_auth:{mode}")
    return [p.values("fabricbios.auth.status") for p in packets(write_pcap(path, sent), *options)]


def forged(case: dict) -> dict:
    """Return the vector with one bit of its tag turned."""
    data = bytearray.fromhex(case["hex"])
    data[40] ^= 1
    return {**case, "hex": data.hex()}


def test_auth_tags_are_checked_in_the_mode_that_is_told(tmp_path):
    for mode, label in enumerate(LABELS):
        good = tagged("cases", mode)
        bad = [*map(forged, good), *(c for c in tagged("invalid", mode, "tag") if keys_agree([*good, c]))]
        assert len(good) >= 3
        found = statuses(tmp_path / f"{mode}.pcap", [*good, *bad], label)
        assert found == [[GOOD]] * len(good) + [[BAD]] * len(bad), label


def test_the_mode_may_be_found_out(tmp_path):
    good: list[dict] = []
    for case in (c for mode in range(4) for c in tagged("cases", mode)):
        good += [case] if keys_agree([*good, case]) else []
    found = statuses(tmp_path / "a.pcap", [*good, *map(forged, good)], "auto")
    assert found[: len(good)] == [[GOOD]] * len(good)
    for case, status in zip(good, found[len(good) :], strict=True):
        # An answer whose tag fits no mode may still repeat, as HMAC_HEADER has it, what was asked before the capture.
        answer = int(case["hex"][10:12], 16) in ANSWERS
        assert status == [BAD] or (answer and status == [UNVERIFIED]), case["name"]


def test_an_answer_of_hmac_header_repeats_the_questions_tag(tmp_path):
    cases = [
        c for c in family("fbmu")["cases"]
        if c["given"].get("dp_auth") == 0 and c["given"].get("question") and c["given"].get("dp_key")
    ]  # fmt: skip
    case = cases[0]
    question, answer = (Sent(bytes.fromhex(h), 5702) for h in (case["given"]["question"], case["hex"]))
    other = Sent(answer.data[:40] + bytes(16) + answer.data[56:], 5702)
    options = ("-o", f"fabricbios.dp_key:{case['given']['dp_key']}", "-o", "fabricbios.dp_auth:hmac-header")
    shown = packets(write_pcap(tmp_path / "a.pcap", [answer, question, answer, other]), *options)
    assert [p.values("fabricbios.auth.status") for p in shown] == [[UNVERIFIED], [GOOD], [GOOD], [BAD]]


def test_a_key_that_is_none_is_said_so(tmp_path):
    case = family("fbmu")["cases"][0]
    capture = write_pcap(tmp_path / "a.pcap", [Sent(bytes.fromhex(case["hex"]), 5702)])
    assert "64 hexadecimal digits" in tshark(capture, "-V", "-o", "fabricbios.dp_key:1234")


def split_frames(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        flags, size = int.from_bytes(data[at + 6 : at + 8]), int.from_bytes(data[at + 40 : at + 44])
        size += 44 + (8 if flags & 8 else 0) + (64 if flags & 1 else 0)
        found.append(data[at : at + size])
        at += size
    return found


def test_fragments_are_put_together_and_inflated(tmp_path):
    cases = family("fragments")["cases"]
    parts = [[Sent(f, 5700, host=i + 1) for f in split_frames(bytes.fromhex(c["hex"]))] for i, c in enumerate(cases)]
    shown = iter(packets(write_pcap(tmp_path / "a.pcap", [s for part in parts for s in part])))
    for case, part in zip(cases, parts, strict=True):
        last = [next(shown) for _ in part][-1]
        raw = {f.name: f.raw for f in last.fields}
        whole = (
            raw.get("fabricbios.frame.inflated")
            or raw.get("fabricbios.frame.reassembled")
            or raw["fabricbios.frame.payload"]
        )
        if len(whole) < 10_000:  # tshark prints no more of a field
            assert whole.hex() == case["fields"]["payload"], case["name"]


def test_broken_fragments_break_nothing(tmp_path):
    cases = family("fragments")["invalid"]
    sent = [Sent(bytes.fromhex(c["hex"])[:65_000], 5700, host=i + 1) for i, c in enumerate(cases)]
    sent += [
        Sent(f, 5700, host=100 + i) for i, c in enumerate(cases) for f in split_frames(bytes.fromhex(c["hex"])) if f
    ]
    tshark(write_pcap(tmp_path / "a.pcap", sent), "-V")


def test_magics_are_known_on_any_port_and_nothing_else_is_taken(tmp_path):
    datagram = bytes.fromhex(family("fbmu")["cases"][0]["hex"])
    sent = [
        Sent(datagram, 4321),
        Sent(datagram, 4321, v6=True),
        Sent(b"FBM?" + datagram[4:], 4321),
        Sent(b"FBMU", 4321),
    ]
    shown = packets(write_pcap(tmp_path / "a.pcap", sent))
    assert [ours(p) for p in shown] == [True, True, False, False]


def test_any_cut_and_any_changed_byte_is_no_lua_error(tmp_path):
    seeds = [carried(t, bytes.fromhex(c["hex"])) for t, c in {c["type"]: c for c, _ in carriable("cases")}.items()]
    small = [s for s in seeds if s is not None and len(s.data) < 600]
    cuts = [s._replace(data=s.data[: len(s.data) * i // 7]) for s in small for i in range(1, 7)]
    noise = [
        s._replace(data=s.data[:i] + bytes((s.data[i] ^ 0xFF,)) + s.data[i + 1 :])
        for s in small
        for i in range(4, len(s.data), 23)
    ]
    assert len(noise) > 300
    tshark(write_pcap(tmp_path / "a.pcap", cuts + noise), "-V", *AS_STREAM)


@pytest.mark.parametrize("lua", ["lua5.2", "lua5.4"])
def test_tags_are_the_same_in_every_lua(tmp_path, lua):
    require("tools", bool(shutil.which(lua)), f"{lua} is not installed")
    key, sizes = bytes(range(32)), (0, 1, 7, 8, 15, 40, 55, 56, 63, 64, 65, 127, 128, 1432)
    script = (
        AUTH.read_text()
        + """
    local key, chars = "", {}
    for i = 0, 31 do key = key .. string.char(i) end
    for n in arg[1]:gmatch("%d+") do
        for mode = 1, 3 do
            local tag = auth.tag[mode](key, ("\\1\\200\\255"):rep(n):sub(1, n))
            print((tag:gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
        end
    end
    """
    )
    (tmp_path / "auth.lua").write_text(script)
    said = subprocess.run(
        [lua, "auth.lua", str(sizes)], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    messages = [(b"\x01\xc8\xff" * n)[:n] for n in sizes]
    assert said.split() == [Tagger(mode, key).tag(m).hex() for m in messages for mode in (1, 2, 3)]


async def main_job(client) -> None:
    """The demo's traffic: lease, write, read, free. What is asked one by one is a packet each in a capture; of what is
    asked at once the kernel may show a train as one."""
    await client.ping()
    async with client.lease_memory(1 << 20, ttl=30) as lease:
        data = os.urandom(20_000)
        await lease.write(99, data)
        assert await lease.read(99, len(data)) == data
        for at in range(30):
            assert await lease.read(99 + at, 1) == data[at : at + 1]
        await client.inventory()


def test_a_real_node_and_client(tmp_path):
    can_capture = os.geteuid() == 0 and shutil.which("tcpdump")
    require("tools", bool(can_capture), "capturing on loopback needs root and tcpdump")
    node = NodeProcess(tmp_path)
    ready = node.start()
    control, capture, keys = ready["control"]["port"], tmp_path / "all.pcap", tmp_path / "keys"
    try:
        with captured(capture, [control, ready["fbmu"]["port"]]), secrets_logged(keys):
            node.run(main_job, Identity.generate())
    finally:
        node.close()
    after_retry = without_first(capture, 2, tmp_path / "after_retry.pcap")
    shown = packets(after_retry, "-d", f"udp.port=={control},quic", secrets=keys)
    assert [p.complaints for p in shown if p.complaints] == []
    ops = [v for p in shown for v in p.values("fabricbios.response.op")]
    assert {int(op, 0) for op in ops} >= {0x0001, 0x0002, 0x0100, 0x0200, 0x0201}
    tags = [v for p in shown for v in p.values("fabricbios.auth.status")]
    assert len(tags) > 50
    assert set(tags) == {GOOD}, "the key is learned from LEASE_ALLOC's result"
    (key,) = {v.replace(":", "") for p in shown for v in p.values("fabricbios.dp_key.dp_key")}
    again = packets(capture, "-Y", "fabricbios", "-o", f"fabricbios.dp_key:{key}", "-o", "fabricbios.dp_auth:blake2s")
    assert [v for p in again for v in p.values("fabricbios.auth.status")] == [GOOD] * len(tags)
