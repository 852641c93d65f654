"""The daemon as a process, on its good and bad days. Loopback alone: needs no root."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from node_rig import NodeProcess, gone

from fabricbios.errors import InsufficientPermission, LeaseExpired, NotFound, Refused
from fabricbios.model import LeaseStatus, Perm, ResourceType
from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def node(tmp_path):
    with closing(NodeProcess(tmp_path)) as process:
        process.start()
        yield process


ALWAYS = (
    "fabricbios_build_info",
    "fabricbios_resource_capacity",
    "fabricbios_resource_available",
    "fabricbios_fenced_resources",
    "fabricbios_discovery_messages_total",
    "fabricbios_dp_requests_total",
    "fabricbios_dp_bytes_total",
    "fabricbios_dp_drops_total",
)
OWNER = Identity.generate()


async def allocated(client, ttl=60, size=1 << 20, **wishes):
    return await client.lease_alloc(ttl, ResourceType.MEM, size, **wishes)


def start_fails(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "fabricbios.daemon", "node", *arguments], capture_output=True, text=True, timeout=90
    )
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.returncode, done.stderr


def test_lease_write_read_free(node):
    async def work(client):
        async with client.lease_memory(3 << 20, ttl=30) as lease:
            data = os.urandom(2_000_001)
            await lease.write(999_999, data)
            assert await lease.read(999_999, len(data)) == data
        assert await client.list_active() == ()

    node.run(work, OWNER)
    assert node.metric("fabricbios_leases{")['fabricbios_leases{kind="mem",state="active"}'] == 0
    assert node.metric('fabricbios_dp_bytes_total{direction="written"').popitem()[1] >= 2_000_001


def test_every_metric_of_the_interface_is_there(node):
    names = {n.partition("{")[0] for n in node.metric("fabricbios_")}
    for name in ALWAYS:
        assert name in names, name
    node.run(lambda client: client.ping(), OWNER)
    later = {n.partition("{")[0] for n in node.metric("fabricbios_")}
    assert {"fabricbios_lease_ops_total", "fabricbios_control_handshakes_total"} <= later
    assert "fabricbios_lease_op_seconds_bucket" in later


def test_memory_is_the_same_over_udp_and_quic(node):
    from fabricbios.model import Binding

    async def work(client):
        async with client.lease_memory(1 << 20, ttl=30, binding=Binding.QUIC) as over_quic:
            data = os.urandom((1 << 20) - 5)
            await over_quic.write(5, data)
            assert await over_quic.read(5, len(data)) == data
            with pytest.raises(Refused):
                await client.attach_memory(over_quic.lease_id ^ 1, 30).open()

    node.run(work, OWNER)


def test_strangers_get_ping_and_identity_and_no_more(node):
    node.run(lambda client: client.cap_request(Perm.ALLOC), OWNER)  # the claim

    async def work(client):
        await client.ping()
        assert (await client.identity()).node_id == client.node_id
        for question in (client.inventory, client.build_info, client.cap_request, client.list_active):
            with pytest.raises(InsufficientPermission):
                await question()

    node.run(work, Identity.generate())
    node.run(work, None)


def test_a_second_claimant_is_refused_also_after_a_restart(node):
    node.run(lambda client: client.cap_request(Perm.ALLOC), OWNER)
    assert node.end() == 0
    assert node.start()["claimed"] is True

    async def work(client):
        with pytest.raises(InsufficientPermission):
            await client.cap_request(Perm.ALLOC)

    node.run(work, Identity.generate())
    node.run(lambda client: client.cap_request(Perm.ALLOC), OWNER)


def test_sigterm_with_leases_live_leaves_nothing(node):
    async def work(client):
        return [await allocated(client) for _ in range(12)]

    node.run(work, OWNER)
    servers = node.servers()
    assert node.end() == 0
    assert all(gone(pid) for pid in servers)
    assert node.start()
    assert node.run(lambda client: client.list_active(), OWNER) == ()


def test_kill_9_ends_the_server_process_and_the_next_start_cleans_up(node):
    leases = node.run(lambda client: allocated(client), OWNER)
    servers = node.servers()
    assert servers
    node.end(signal.SIGKILL)
    assert all(gone(pid) for pid in servers)
    node.start()

    async def work(client):
        for _ in range(600):
            try:
                found = await client.query(leases.lease_id)
            except NotFound:
                return
            if found.lease_status != LeaseStatus.ACTIVE:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("a lease without memory is called active")

    node.run(work, OWNER)
    free = node.metric("fabricbios_resource_available").popitem()[1]
    assert free == 16 << 20


def test_a_killed_server_process_is_started_again_with_the_same_bytes(node):
    async def work(client):
        async with client.lease_memory(1 << 20, ttl=60) as lease:
            await lease.write(0, b"still here")
            for pid in node.servers():
                os.kill(pid, signal.SIGKILL)
            assert await lease.read(0, 10, timeout=60) == b"still here"

    node.run(work, OWNER)


def test_sigterm_while_it_starts_is_heard_and_leaves_nothing(tmp_path):
    node = NodeProcess(tmp_path)
    node.spawn()
    while not (servers := node.servers()):  # the data plane's process is up, the ready line is not out
        assert node.process.poll() is None, node.said()
        time.sleep(0.001)
    try:
        assert node.end() == 0
        assert all(gone(pid) for pid in servers)
        assert "Traceback" not in node.said()
    finally:
        node.close()


STUCK_SECONDS = 600
STUCK = f"""
import time
from fabricbios.daemon.main import main
from fabricbios.dataplane.slab import Memory
Memory.zero = lambda *_: time.sleep({STUCK_SECONDS})
main()
"""


def test_a_driver_that_never_returns_does_not_keep_the_daemon(tmp_path):
    node = NodeProcess(tmp_path)
    node.program = ["-c", STUCK]
    node.start()
    try:
        node.run(lambda client: allocated(client, size=8 << 20), OWNER)
        assert node.end(seconds=STUCK_SECONDS / 2) == 0
        assert "FENCED" in node.said()
    finally:
        node.close()


def test_nothing_of_what_is_leased_can_end_in_a_core_dump(node):
    for pid in (node.process.pid, *node.servers()):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("ends", ["its time", "a revocation's grace"])
def test_a_stopped_daemon_still_lets_leases_end(node, ends):
    """The data path compares its own clock: neither expiry nor revocation needs a daemon (D10)."""

    async def work(client):
        lease = client.lease_memory(1 << 20, ttl=5 if ends == "its time" else 60)
        await lease.open()
        lease._renewer.cancel()
        if ends != "its time":
            await client.revoke(lease.lease_id, 5)
        await lease.write(0, b"x")
        node.kill(signal.SIGSTOP)
        try:
            assert await lease.read(0, 1) == b"x"
            await asyncio.sleep(5.5)
            with pytest.raises(LeaseExpired):
                await lease._io.read(0, memoryview(bytearray(1)), 60)
        finally:
            node.kill(signal.SIGCONT)
        await lease.detach()

    node.run(work, OWNER)


def test_a_second_daemon_on_the_state_directory_is_refused(node):
    code, said = start_fails(*node.flags)
    assert code == 1
    assert str(node.process.pid) in said


def test_a_second_daemon_on_the_port_is_refused(node, tmp_path):
    port = ["--control-port", str(node.port), "--state-dir", str(tmp_path / "other"), "--bind", "127.0.0.1"]
    code, said = start_fails(*port, "--discovery-port", "0", "--fbmu-port", "0", "--fbbu-port", "0", "--xdp", "off")
    assert code == 1
    assert str(node.port) in said


def test_a_state_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    code, said = start_fails("--state-dir", str(tmp_path / "file" / "state"), "--control-port", "0")
    assert code == 2
    assert "--state-dir" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mem_capacity = 'lots'", ("mem_capacity", "lots", "size")),
        ("memory = '1G'", ("memory", "no such key")),
        ("[policy.default]\nperms = ['fly']", ("policy.default.perms", "'fly'")),
        ("[policy.peer.bob]\nmax_leases = 1", ("policy.peer", "0x")),
        ("trust = 'anyone'", ("trust", "tofu, pinned, certified")),
        ("this is not toml", ("not TOML",)),
        ("bind = 'here'", ("bind", "here")),
    ],
)
def test_a_wrong_configuration_names_file_key_and_remedy(tmp_path, text, words):
    file = tmp_path / "fabricbiosd.toml"
    file.write_text(text)
    code, said = start_fails("--config", str(file), "--state-dir", str(tmp_path / "s"))
    assert code == 2
    assert all(word in said for word in words), said


def test_drop_ins_and_flags_win_in_their_order(tmp_path):
    file = tmp_path / "fabricbiosd.toml"
    file.write_text("mem_capacity = '4M'\nannounce_interval = 5\n[policy.default]\nmax_leases = 9\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-more.toml").write_text("mem_capacity = '8M'\n[policy.default]\nmax_leases = 1\n")
    node = NodeProcess(tmp_path, "--config", str(file), mem="16M")
    node.start()
    try:

        async def work(client):
            assert [r.capacity for r in await client.inventory()] == [16 << 20]
            await allocated(client)
            with pytest.raises(Refused) as refusal:
                await allocated(client)
            assert refusal.value.status.name == "CAPACITY_EXCEEDED"

        node.run(lambda client: client.cap_request(), OWNER)
        node.run(work, OWNER)
    finally:
        node.close()


def test_sighup_takes_over_a_new_pin_and_keeps_the_old_on_a_broken_file(node):
    from fabricbios.transport import trustdir

    node.run(lambda client: client.cap_request(), OWNER)
    friend = Identity.generate()
    trustdir.save(node.directory / "trust", trustdir.PEERS, friend.public_key)
    node.kill(signal.SIGHUP)
    while "reloaded trust" not in node.said():
        time.sleep(0.02)
    node.run(lambda client: client.inventory(), friend)
    node.run(lambda client: client.inventory(), OWNER)


def test_the_command_line_does_the_whole_job(node, tmp_path):
    words = [sys.executable, "-m", "fabricbios.cli", "-H", f"127.0.0.1:{node.port}", "--identity", str(tmp_path / "me")]

    def cli(*command, data=None, code=0):
        done = subprocess.run([*words, *command], input=data, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout

    lease = json.loads(cli("lease", "mem", "--size", "2M", "--ttl", "5m", "--json"))
    short = lease["lease_id"][2:10]
    data = os.urandom(1 << 20)
    cli("write", short, "--offset", "100", data=data)
    assert cli("read", short, "--offset", "100", "--length", str(len(data))) == data
    assert len(json.loads(cli("leases", "--json"))["leases"]) == 1
    assert json.loads(cli("renew", short, "--ttl", "10m", "--json"))["generation"] == 2
    assert json.loads(cli("status", "--json"))["paths"]["fbmu"].startswith("user")
    cli("write", short, "--offset", "2M", data=b"beyond", code=2)
    cli("free", short)
    assert b"RESOURCE_NOT_FOUND" in subprocess.run([*words, "free", lease["lease_id"]], capture_output=True).stderr
    token = json.loads(cli("token", "request", "--perms", "read,alloc,delegate", "--json"))
    narrowed = json.loads(cli("token", "attenuate", token["hex"], "--for", "10s", "--json"))
    assert narrowed["caveats"][0]["name"] == "TimeBound"
