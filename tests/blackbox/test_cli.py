"""interfaces.md for people: exit codes, --json documents, a lease from the command line, on a `control-server`."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from blackbox import programs
from blackbox.keys import Key, id_of
from blackbox.programs import Program, cli, run, serving
from blackbox.quic import Peer

DONE, FAILED, USAGE, REFUSED, UNREACHED = range(5)


def control_server(d: Path) -> Program:
    """Return a node without discovery and hardware, not started: a memory pool to develop against."""
    return Program(
        d, "control-server", "--state-dir", str(d / "state"), "--runtime-dir", str(d / "run"), "--trust-dir",
        str(d / "trust"),
        "--bind", "127.0.0.1", "--control-port", "0", "--fbmu-port", "0", "--mem-capacity", "16M",
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(control_server(tmp_path_factory.mktemp("server"))) as program:
        yield program


@pytest.fixture(scope="module")
def env(server, tmp_path_factory) -> dict[str, str]:
    """What the owner's commands are run with: he has claimed the server."""
    d = tmp_path_factory.mktemp("client")
    env = {
        **os.environ,
        "FABRICBIOS_NODE": f"127.0.0.1:{server.port('control')}",
        "FABRICBIOS_IDENTITY": str(d / "id"),
        "HOME": str(d),
    }
    claim = cli("token", "request", env=env)
    assert claim.returncode == DONE, claim.stderr
    return env


def document(done, noun: str) -> dict:
    """The one document of --json, its schema named and versioned."""
    found = json.loads(done.stdout)
    assert found["schema"] == f"fabricbios.{noun}/1", done.stderr
    return found


@pytest.fixture(scope="module")
def lease(env) -> dict:
    """One that no test ends."""
    done = cli("lease", "mem", "--size", "64K", "--ttl", "5m", "--grace", "30s", "--json", env=env)
    assert done.returncode == DONE, done.stderr
    return document(done, "lease")


def test_identity_is_made_on_first_use(tmp_path):
    env = {**os.environ, "FABRICBIOS_IDENTITY": str(tmp_path / "id"), "HOME": str(tmp_path)}
    first, second = (document(cli("identity", "--json", env=env), "identity") for _ in range(2))
    assert int(first["node_id"], 16) == id_of(bytes.fromhex(first["public_key"]))
    assert first == second


def test_write_and_read(lease, env):
    data = os.urandom(40_000)
    short = lease["lease_id"][2:8]
    assert cli("write", short, "--offset", "100", stdin=data, env=env).returncode == DONE
    got = cli("read", short, "--offset", "100", "--length", "40000", stdin=b"", env=env)
    assert (got.returncode, got.stdout) == (DONE, data)
    too_much = cli("write", short, "--offset", "60000", stdin=data, env=env)
    assert too_much.returncode in (FAILED, USAGE)
    assert len(too_much.stderr.decode().strip().splitlines()) == 1


def test_documents(server, lease, env):
    nouns = {"status": ["status"], "leases": ["leases"], "token": ["token", "request"]}
    commands = [[*command, "--json"] for command in nouns.values()]
    found = {n: document(d, n) for n, d in zip(nouns, programs.cli_all(*commands, env=env), strict=True)}
    assert found["status"]["node_id"] == server.ready["node_id"]
    assert lease["lease_id"] in [x["lease_id"] for x in found["leases"]["leases"]]


def test_renew(lease, env):
    done = cli("renew", lease["lease_id"], "--ttl", "10m", "--json", env=env)
    assert done.returncode == DONE
    assert json.loads(done.stdout)["expires_at"] > lease["expires_at"]


def test_exit_codes(lease, env):
    """2 wrong usage; 3 refused, the status in the message; 4 out of reach. With --json the same as an object."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    stranger = ["--identity", env["FABRICBIOS_IDENTITY"] + "-stranger"]
    cases = [
        (["lease", "mem", "--size", "x", "--ttl", "1m"], USAGE, "size"),
        (["wire", "decode", "no_such_type", "--hex", ""], USAGE, "no_such_type"),
        ([*stranger, "leases"], REFUSED, "INSUFFICIENT_PERM"),
        (["free", "0x" + "12" * 16, "--json"], REFUSED, "RESOURCE_NOT_FOUND"),
        (["-H", nobody, "status", "--json"], UNREACHED, ""),
    ]
    for (command, code, word), done in zip(cases, programs.cli_all(*(c[0] for c in cases), env=env), strict=True):
        assert done.returncode == code, (command, done.stderr)
        assert word in done.stderr
        assert "Traceback" not in done.stderr
        if "--json" in command:
            assert json.loads(done.stderr)["exit_code"] == code


def test_hold_frees_when_interrupted(server, env):
    """`--hold` keeps renewing until interrupted, then frees."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fabricbios.cli", "lease", "mem", "--size", "1M", "--ttl", "5s", "--hold", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    lease_id = json.loads(process.stdout.readline())["lease_id"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode in (DONE, 130)
    listed = json.loads(cli("leases", "--json", env=env).stdout)["leases"]
    assert lease_id not in [x["lease_id"] for x in listed]


def test_nodes(world):
    """Without a relay or a link: the node of -H itself."""
    port = str(world.node.port("discovery"))
    done = cli(
        "-H", "127.0.0.1", "nodes", "--json", "--discovery-port", port, "--identity", str(world.directory / "nobody")
    )
    assert done.returncode == DONE, done.stderr
    assert world.node.ready["node_id"] in done.stdout
    assert document(done, "nodes")


def test_control_client(env):
    refused = run("fabricbios.daemon", "control-client", "lease-alloc", "--type", "mem", "-H", env["FABRICBIOS_NODE"])
    assert refused.returncode == REFUSED
    assert "INSUFFICIENT_PERM" in refused.stdout + refused.stderr


def test_revoke_and_free(env):
    make = ["lease", "mem", "--size", "4K", "--ttl", "1m", "--json"]
    first, second = (document(done, "lease")["lease_id"] for done in programs.cli_all(make, make, env=env))
    revoked, freed = programs.cli_all(["revoke", second, "--grace", "0s"], ["free", first], env=env)
    assert (revoked.returncode, freed.returncode) == (DONE, DONE)
    left = [x["lease_id"] for x in json.loads(cli("leases", "--json", env=env).stdout)["leases"]]
    assert not {first, second} & set(left)


def test_the_servers_end(tmp_path):
    with serving(control_server(tmp_path)) as server:
        with Peer.of(server.port("control"), Key.new()) as peer:
            peer.done(1)
        assert server.stop() == 0
