"""interfaces.md, the programs: ready line, claims, exit codes, signals, metrics, and what stopping leaves behind."""

import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackbox import codec, programs
from blackbox.codec import (
    CAP_REQUEST,
    FENCE_GET,
    FENCE_REQUIRED,
    FENCE_SET,
    GET_INVENTORY,
    INSUFFICIENT_PERM,
    INVALID_ARGS,
    LIST_ACTIVE,
    MEM,
    OK,
    P_ADMIN,
    P_ALLOC,
    STALE_EPOCH,
    T_DP_AUTH,
    WITHDRAW,
    alloc,
    tlv16,
    u8,
    u32,
    u64,
    u128,
)  # fmt: skip
from blackbox.dataplane import EXPIRED, Line
from blackbox.keys import Key, write_keys
from blackbox.programs import Program, listening, poll, serving, told_to
from blackbox.quic import Peer

CLAIMANT, LATECOMER, INVITED = Key.new(), Key.new(), Key.new()


def node_of(directory: Path, *flags: str) -> Program:
    return programs.node(directory, "--mem-capacity", "8MiB", "--dp-auth", "siphash,blake2s", *flags)


@pytest.fixture
def tofu(tmp_path) -> Iterator[Program]:
    """A node that nobody has claimed."""
    with serving(node_of(tmp_path / "node")) as node:
        yield node


@pytest.fixture(scope="module")
def lasting(tmp_path_factory) -> Iterator[Program]:
    """A node that the claimant has claimed, and that no test ends."""
    with serving(node_of(tmp_path_factory.mktemp("lasting"))) as node:
        claim(node)
        yield node


@pytest.fixture
def claimed(tofu) -> Program:
    """A node of the test's own that the claimant has claimed."""
    claim(tofu)
    return tofu


def claim(node: Program) -> None:
    with connect(node, CLAIMANT) as peer:
        assert wish(peer).status == OK


def wish(peer: Peer) -> codec.Answer:
    return peer.ask(CAP_REQUEST, u32(0xFF) + u32(60) + u128(peer.sender))


def connect(node: Program, key: Key | None) -> Peer:
    return Peer.of(node.port("control"), key)


def test_the_ready_line(world, tofu):
    for node in (world.node, tofu):
        ready = node.ready
        assert ready["schema"] == "fabricbios.ready/1"
        assert re.fullmatch(r"0x[0-9a-f]{32}", ready["node_id"])
        assert ready["pid"] == node.process.pid
        assert ready["version"]
        for plane in ("control", "discovery", "fbmu", "metrics"):
            assert ready[plane]["addr"] == "127.0.0.1"
            assert ready[plane]["port"] > 0
        assert ready["paths"]["fbmu"] == "user"
    assert world.node.ready["fbbu"]["port"] > 0
    assert world.node.ready["paths"]["fbbu"] == "user"
    assert "fbbu" not in tofu.ready
    assert tofu.ready["claimed"] is False


def test_the_claim(tofu):
    """The first peer with a certificate that sends CAP_REQUEST while nobody is trusted, and nobody after it."""
    with connect(tofu, None) as nobody:
        assert wish(nobody).status == INSUFFICIENT_PERM
    with connect(tofu, LATECOMER) as early:
        early.done(codec.PING)
        assert early.refused(GET_INVENTORY) == INSUFFICIENT_PERM
    with connect(tofu, CLAIMANT) as claimant:
        answer = wish(claimant)
        assert answer.status == OK, answer.reason
        assert codec.read_token(answer.result).perms == 0xFF
        claimant.done(GET_INVENTORY)
        with connect(tofu, LATECOMER) as second:
            assert wish(second).status == INSUFFICIENT_PERM
            assert second.refused(GET_INVENTORY) == INSUFFICIENT_PERM


def test_fewer_auth_modes(lasting):
    """Who asks for nothing where 0 is not offered gets one that is; what is not offered is INVALID_ARGS."""
    with connect(lasting, CLAIMANT) as peer:
        lease = peer.lease(60, 0, MEM, 4096)
        assert lease.dp_auth in (2, 3)
        peer.free(lease.lease_id)
        token = peer.token(P_ALLOC).pack()
        for mode in (0, 1):
            assert peer.refused(codec.ALLOC, alloc(9, 0, MEM, 4096, tlv16(T_DP_AUTH, u8(mode))), token) == INVALID_ARGS
        for mode in (2, 3):
            lease = peer.lease(60, 0, MEM, 4096, tlv16(T_DP_AUTH, u8(mode)))
            assert lease.dp_auth == mode
            peer.free(lease.lease_id)


def one_line(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


def test_daemons_that_cannot_start(lasting, tmp_path):
    """The state directory or a port is another's: one line, exit 1."""

    def node(name: str, flag: str, value: object) -> list[str]:
        return ["node", *programs.node(tmp_path / name, flag, str(value)).flags]

    same_state, same_port = programs.fail_all(
        node("a", "--state-dir", lasting.directory / "state"),
        node("b", "--control-port", lasting.port("control")),
    )
    for done in (same_state, same_port):
        assert one_line(done.stderr), done.stderr
        assert "ready" not in done.stdout
    assert (same_state.returncode, same_port.returncode) == (1, 1)


BAD_CONFIGS = {
    'mem-capacity = "64Q"': "mem_capacity",
    "no_such_key = 1": "no_such_key",
    '[policy.default]\nperms = ["fly"]': "perms",
}


def test_bad_configs(tmp_path):
    """A bad config names file, key and remedy, exit 2."""
    commands = []
    for n, text in enumerate(BAD_CONFIGS):
        (tmp_path / f"bad{n}.toml").write_text(text)
        flags = programs.node(tmp_path / str(n)).flags
        commands.append(["node", "--config", str(tmp_path / f"bad{n}.toml"), *flags])
    files = programs.fail_all(*commands)
    for n, (done, (text, key)) in enumerate(zip(files, BAD_CONFIGS.items(), strict=True)):
        assert done.returncode == 2, text
        assert one_line(done.stderr), done.stderr
        assert f"bad{n}.toml" in done.stderr, (text, done.stderr)
        assert key in done.stderr.replace("-", "_")


METRICS = {
    "fabricbios_leases": {"kind", "state"},
    "fabricbios_lease_ops_total": {"op", "status"},
    "fabricbios_lease_op_seconds_bucket": {"le"},
    "fabricbios_dp_requests_total": {"plane", "op", "path"},
    "fabricbios_dp_bytes_total": set(),
    "fabricbios_dp_drops_total": {"plane", "reason"},
    "fabricbios_resource_capacity": {"kind", "unit", "resource"},
    "fabricbios_resource_available": {"kind", "unit", "resource"},
    "fabricbios_fenced_resources": {"kind"},
    "fabricbios_control_handshakes_total": {"result"},
    "fabricbios_discovery_messages_total": {"type", "result"},
    "fabricbios_teardown_seconds_bucket": {"kind", "le"},
    "fabricbios_build_info": set(),
}


def test_metrics(lasting):
    with connect(lasting, CLAIMANT) as peer:
        peer.free(peer.lease(60, 0, MEM, 4096).lease_id)
    samples = {}
    for sample in lasting.metrics():
        samples.setdefault(sample.partition("{")[0], set()).update(re.findall(r"(\w+)=", sample))
    for name, labels in METRICS.items():
        assert name in samples, name
        assert labels <= samples[name], (name, samples[name])


def test_sighup_reloads(lasting):
    write_keys(lasting.directory / "trust", INVITED)
    with connect(lasting, INVITED) as early:
        assert early.refused(GET_INVENTORY) == INSUFFICIENT_PERM
    lasting.process.send_signal(signal.SIGHUP)

    def trusted() -> bool:
        with connect(lasting, INVITED) as peer:
            return peer.ask(GET_INVENTORY).status == OK

    assert poll(trusted, 10, 0.1)


def test_state_is_private(lasting):
    assert os.stat(lasting.directory / "state").st_mode & 0o777 == 0o700


def leases(peer: Peer) -> list[int]:
    r = codec.Reader(peer.done(LIST_ACTIVE))
    return [codec.Reader(r.take(64)).uint(16) for _ in range(r.uint(2))]


def test_sigusr2_hands_over(claimed):
    """The daemon exits; its successor adopts a lease whole, content and all, or has torn it down: never half."""
    with connect(claimed, CLAIMANT) as peer:
        lease = peer.lease(300, 0, MEM, 1 << 16, tlv16(T_DP_AUTH, u8(2)))
        with Line(claimed.port("fbmu"), lease.lease_id, lease.dp_key, 2) as line:
            assert line.write(0, b"kept").status == 0
    node_id = claimed.ready["node_id"]
    assert claimed.stop(signal.SIGUSR2) == 0
    ready = claimed.start()
    assert ready["node_id"] == node_id
    assert ready["claimed"] is True
    with connect(claimed, CLAIMANT) as peer:
        adopted = lease.lease_id in leases(peer)
        answer = peer.ask(codec.QUERY, u128(lease.lease_id))
        assert (answer.status == OK and answer.result[0] == 0) is adopted
        if adopted:
            again = codec.read_grant(peer.done(codec.ATTACH, u128(lease.lease_id)))
            with Line(claimed.port("fbmu"), again.lease_id, again.dp_key, 2) as line:
                assert line.read(0, 4).payload[8:] == b"kept"
            peer.free(lease.lease_id)
        else:
            whole = peer.lease(60, 0, MEM, 8 << 20)  # nothing of it is still held
            peer.free(whole.lease_id)


def test_fencing(claimed):
    """SCHEDULER_FENCE_SET, _GET, and what a fence asks of CAP_REQUEST."""
    with connect(claimed, CLAIMANT) as peer:
        assert peer.done(FENCE_GET) == u8(0) + u64(0)
        assert peer.refused(FENCE_SET, u64(5)) == INSUFFICIENT_PERM
        assert peer.refused(FENCE_SET, u64(5), peer.token(P_ALLOC).pack()) == INSUFFICIENT_PERM
        admin = peer.token(P_ADMIN, ttl=300).pack()
        assert peer.refused(FENCE_SET, u64(0), admin) in (INVALID_ARGS, STALE_EPOCH)
        assert peer.done(FENCE_SET, u64(5), admin) == b""
        assert peer.done(FENCE_GET) == u8(1) + u64(5)
        admin = peer.token(P_ADMIN, ttl=300, tail=u64(5)).pack()
        for stale in (4, 5, 0):
            assert peer.refused(FENCE_SET, u64(stale), admin) in (STALE_EPOCH, INVALID_ARGS)
        params = u32(P_ALLOC) + u32(60) + u128(peer.sender)
        assert peer.refused(CAP_REQUEST, params) == FENCE_REQUIRED
        assert peer.refused(CAP_REQUEST, params + u64(4)) == STALE_EPOCH
        assert codec.read_token(peer.done(CAP_REQUEST, params + u64(5))).epoch == 5
        assert peer.done(FENCE_SET, u64(2**64 - 1), admin) == b""
        assert peer.refused(CAP_REQUEST, params + u64(5)) == STALE_EPOCH


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    with listening() as ear:
        yield ear


@pytest.fixture
def announcing(tmp_path, ear) -> Iterator[Program]:
    """A claimed node that announces to `ear`."""
    with serving(node_of(tmp_path / "node", *told_to(ear))) as node:
        claim(node)
        yield node


def test_sigterm_leaves_nothing_behind(announcing, ear):
    """Every lease torn down, its holder told, WITHDRAW signed and above the last ANNOUNCE, exit 0; the fence stays."""
    with connect(announcing, CLAIMANT) as peer:
        peer.done(FENCE_SET, u64(5), peer.token(P_ADMIN).pack())
        token = peer.token(P_ALLOC, tail=u64(5)).pack()
        held = [codec.read_grant(peer.done(codec.ALLOC, alloc(300, 60, MEM, 1 << 16), token)) for _ in range(5)]
        announcing.process.send_signal(signal.SIGTERM)
        assert peer.pump(lambda: all(peer.lease_events(x.lease_id) for x in held)), peer.closed
        code = announcing.process.wait(60)
        assert code == 0, announcing.said()
    last, withdrawn = 0, None
    while select.select([ear], [], [], 0.2)[0]:
        frame = codec.read_frame(ear.recv(65536))
        if frame.msg_type == codec.ANNOUNCE:
            announce = codec.read_announce(frame.payload)
            key, last = announce.public_key, max(last, announce.sequence)
        elif frame.msg_type == WITHDRAW:
            withdrawn = frame
    assert withdrawn is not None, "no WITHDRAW"
    withdrawn.verify(key)
    assert len(withdrawn.payload) == 25
    assert withdrawn.payload[:16] == u128(announcing.node_id)
    assert int.from_bytes(withdrawn.payload[16:24], "big") > last
    assert withdrawn.payload[24] == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", announcing.port("fbmu")))
    announcing.process.stdout.close()
    announcing.start()
    with connect(announcing, CLAIMANT) as peer:
        assert leases(peer) == []
        assert peer.done(FENCE_GET) == u8(1) + u64(5)
        for lease in held:
            answer = peer.ask(codec.QUERY, u128(lease.lease_id))
            assert answer.status != OK or answer.result[0] != 0


def test_expired_answers_end_after_30_seconds(world, ended_lease):
    """EXPIRED to authentic questions until 30 s after teardown, then the lease is unknown."""
    lease, freed_at = ended_lease
    with Line(world.node.port("fbmu"), lease.lease_id, lease.dp_key, lease.dp_auth) as line:
        line.nonce = 1000
        if time.monotonic() - freed_at < 25:
            assert line.ask(0x30, covered=0).payload == bytes([EXPIRED, 0, 0, 0])

        def forgotten() -> bool:
            line.send(line.question(0x30))
            return line.receive(5) is None  # who has not forgotten answers, if late

        assert poll(forgotten, 90, 0.3)
        assert time.monotonic() - freed_at > 29


def test_an_unfinished_stream_is_reset_after_10_seconds(half_asked):
    peer, stream, asked_at = half_asked
    peer.pump(lambda: peer.streams[stream].over, max(30.0, asked_at + 30 - time.monotonic()))
    assert peer.streams[stream].reset is not None
    assert not peer.streams[stream].data
