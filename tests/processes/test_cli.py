"""The command line against a real node: every document fits its schema, and what goes wrong is told in one line."""

import json
import os
import re
import select
import signal
import subprocess
import time
from contextlib import closing

import pytest
from cli_rig import COMMAND, SCHEMAS, Cli, call, environment, fits
from node_rig import NodeProcess

from fabricbios.transport import Identity, trustdir

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("node")
    with closing(NodeProcess(directory, "--drivers", "simulated")) as process:
        process.start()
        yield process


@pytest.fixture(scope="module")
def owner(node):
    """Who claimed the node."""
    cli = Cli(node.directory / "me", node.port)
    cli.json("token", "request")
    return cli


@pytest.fixture
def lease(owner):
    made = owner.json("lease", "mem", "--size", "1M", "--ttl", "5m")
    yield made["lease_id"]
    owner.run("free", made["lease_id"])


# -- documents


def test_the_life_of_a_lease_in_documents(owner, node):
    fits(node.ready)
    made = owner.json("lease", "mem", "--size", "1M", "--ttl", "5m", "--grace", "10s")
    short = made["lease_id"][2:10]
    written = owner.run("write", short, "--json", stdin=b"x" * 5000)
    assert fits(json.loads(written.out)) == {"schema": "fabricbios.transfer/1", "direction": "written", "bytes": 5000}
    read = owner.run("read", short, "--length", "5000", "--json")
    assert read.out == b"x" * 5000
    assert fits(json.loads(read.err))["bytes"] == 5000
    listed = owner.json("leases")["leases"]
    assert [item["lease_id"] for item in listed] == [made["lease_id"]]
    assert owner.json("leases", "--admin")["leases"][0]["holder"] == owner.json("identity")["node_id"]
    assert owner.json("renew", short, "--ttl", "10m")["generation"] == 2
    status = owner.json("status")
    assert status["leases"] == {"all": 1, "yours": 1}
    assert status["paths"]["fbmu"].startswith("user")
    assert owner.json("free", short)["lease_id"] == made["lease_id"]


def test_documents_of_tokens_and_quic_leases(owner):
    token = owner.json("token", "request", "--perms", "read,delegate", "--ttl", "1m")
    narrow = owner.json(
        "token", "attenuate", token["hex"], "--source-ip", "192.0.2.1", "--range", "0", "4k", "--depth", "1"
    )
    assert [c["name"] for c in narrow["caveats"]] == ["SourceIp", "Range", "Depth"]
    assert owner.json("token", "show", narrow["hex"])["token_id"] == token["token_id"]
    over_quic = owner.json("lease", "mem", "--size", "4k", "--ttl", "5m", "--binding", "quic")
    assert over_quic["dp_auth"] is None
    assert owner.json("revoke", over_quic["lease_id"], "--grace", "5s")["outcome"] == "scheduled"
    assert owner.json("revoke", over_quic["lease_id"])["outcome"] == "torn_down"


def test_a_stranger_sees_a_status_of_few_words(node, owner, tmp_path):
    stranger = Cli(tmp_path / "stranger", node.port)
    assert stranger.json("status")["trusted"] is False
    assert "does not trust this client" in stranger.run("status").out.decode()


def test_watch_prints_each_event_as_a_document_until_interrupted(owner, lease):
    watching = owner.start("watch", "--json")
    while not select.select([watching.stdout], [], [], 0.5)[0]:  # until it listens
        owner.json("renew", lease, "--ttl", "20m")
    event = fits(json.loads(watching.stdout.readline()))
    assert (event["lease_id"], event["event"]) == (lease, "renewed")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 130
    assert fits(json.loads(watching.stderr.read()))["error"] == "interrupted"


def test_hold_renews_until_interrupted_and_frees(owner):
    def ends() -> dict[str, int]:
        return {item["lease_id"]: item["expires_at"] for item in owner.json("leases")["leases"]}

    holding = owner.start("lease", "mem", "--size", "8k", "--ttl", "4s", "--hold", "--json")
    made = fits(json.loads(holding.stdout.readline()))
    held, first = made["lease_id"], made["expires_at"]
    while time.time() < first + 1:
        assert held in ends()
        time.sleep(0.1)
    assert ends()[held] > first
    holding.send_signal(signal.SIGINT)
    assert holding.wait(60) == 130
    assert held not in ends()


def test_hold_frees_when_its_terminal_goes(owner):
    holding = owner.start("lease", "mem", "--size", "1M", "--ttl", "5m", "--hold", "--json")
    made = json.loads(holding.stdout.readline())
    holding.send_signal(signal.SIGHUP)
    assert holding.wait(60) == 130
    assert made["lease_id"] not in str(owner.json("leases"))


def test_hold_goes_on_under_nohup(owner):
    words = [*COMMAND, *owner.whom, "lease", "mem", "--size", "1M", "--ttl", "5m", "--hold", "--json"]
    holding = subprocess.Popen(["nohup", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    made = json.loads(holding.stdout.readline())
    holding.send_signal(signal.SIGHUP)
    assert made["lease_id"] in str(owner.json("leases"))
    holding.send_signal(signal.SIGTERM)
    assert holding.wait(60) == 0


def test_a_held_lease_that_is_taken_away_is_a_failure(owner):
    holding = owner.start("lease", "mem", "--size", "8k", "--ttl", "1m", "--hold", "--json")
    held = fits(json.loads(holding.stdout.readline()))["lease_id"]
    owner.json("revoke", held)
    assert holding.wait(60) == 3
    assert fits(json.loads(holding.stderr.read()))["status"] == "LEASE_EXPIRED"


# -- what goes wrong


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ("lease", "mem", "--size", "lots", "--ttl", "5m"), "64M"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "soon"), "30s"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "0"), "--ttl"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "99999999999s"), "--ttl': 99999999999s is too much"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "1" * 500), "too long"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "1m", "--grace", "99999999999"), "--grace"),
        (2, ("lease", "mem", "--size", "18446744073709551616", "--ttl", "1m"), "too much"),
        (2, ("lease", "mem", "--size", "9" * 400, "--ttl", "1m"), "too long"),
        (3, ("lease", "mem", "--size", "9223372036854775808", "--ttl", "1m"), "CAPACITY_EXCEEDED"),
        (3, ("lease", "mem", "--size", "0", "--ttl", "1m"), "INVALID_ARGS"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "1m", "--resource", "-5"), "--resource"),
        (2, ("lease", "mem", "--size", "1M", "--ttl", "1m", "--resource", "0x" + "1" * 33), "--resource"),
        (2, ("lease", "mem", "--ttl", "1m"), "--size"),
        (2, ("lease", "block", "--size", "1M", "--ttl", "1m", "--binding", "pigeon"), "nvmeof"),
        (3, ("lease", "mem", "--size", "900G", "--ttl", "5m"), "CAPACITY_EXCEEDED"),
        (3, ("lease", "block", "--size", "1M", "--ttl", "5m"), "fabricbios"),
        (2, ("free", "not-an-id"), "not a lease id"),
        (3, ("free", "0x1234"), "fabricbios leases"),
        (3, ("renew", "0x" + "12" * 16, "--ttl", "5m"), "RESOURCE_NOT_FOUND"),
        (3, ("revoke", "0x" + "12" * 16), "RESOURCE_NOT_FOUND"),
        (2, ("revoke", "0x" + "12" * 16, "--grace", "99999999999"), "too much"),
        (2, ("renew", "0x" + "12" * 16, "--ttl", "99999999999"), "too much"),
        (2, ("renew", "0x" + "12" * 16, "--ttl", "0"), "too little"),
        (2, ("token", "request", "--ttl", "99999999999"), "too much"),
        (2, ("nodes", "--relay", "a..b"), "HOST:PORT"),
        (2, ("free", "\udcff\udcfe"), "not a lease id"),
        (3, ("read", "ab"), "RESOURCE_NOT_FOUND"),
        (2, ("token", "show", "00"), "no token"),
        (2, ("token", "request", "--perms", "fly"), "read"),
        (2, ("frobnicate",), "--help"),
    ],
)
def test_what_people_type_wrong(owner, code, words, said):
    assert said in owner.fails(code, *words)


def test_an_offset_beyond_the_lease(owner, lease):
    assert "beyond" in owner.fails(2, "read", lease, "--offset", "1M", "--length", "1")
    assert "beyond" in owner.fails(2, "write", lease, "--offset", "1M", stdin=b"x")


def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(owner, lease, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * (MIB + 1))
    with (tmp_path / "big").open("rb") as big:
        assert owner.start("write", lease, stdin=big).wait(60) == 2
        assert owner.run("read", lease, "--length", "4").out == bytes(4)
        big.seek(MIB)  # as a shell script may have read some of it
        assert owner.start("write", lease, stdin=big).wait(60) == 0
    assert owner.run("read", lease, "--length", "4").out == b"x" + bytes(3)


def test_a_pipe_that_is_too_long_is_told_with_what_went_well(owner):
    made = owner.json("lease", "mem", "--size", "5M", "--ttl", "5m")["lease_id"]
    assert "the first 4 MiB are written" in owner.fails(2, "write", made, stdin=b"x" * (6 * MIB))
    owner.run("free", made)


def test_an_id_may_be_what_a_narrow_table_shows(owner, lease):
    assert owner.run("read", lease[:14] + "…", "--length", "4").out == bytes(4)


def test_a_lease_says_how_to_use_it(owner):
    """The commands it names mean the same node and the same client, over the binding that was asked for."""
    said = owner.run("lease", "mem", "--size", "4k", "--ttl", "9d", "--binding", "quic").out.decode()
    assert "the node grants no more" in said
    (hint,) = re.findall(r"use it: fabricbios (.*) < FILE", said)
    assert "--binding quic" in hint
    assert call(*hint.split(), stdin=b"hello").code == 0
    owner.run("free", said.split()[0])


def test_an_ambiguous_id_names_those_it_may_be(owner):
    made: list[str] = []
    while len({digits[2] for digits in made}) == len(made):  # until two begin alike: 17 at most
        made.append(owner.json("lease", "mem", "--size", "4k", "--ttl", "5m")["lease_id"])
    alike = made[-1][2]
    said = owner.fails(2, "free", alike)
    assert "ambiguous" in said
    assert made[-1] in said
    for lease_id in made:
        owner.run("free", lease_id)


def test_a_lease_that_is_over_says_so(owner):
    made = owner.json("lease", "mem", "--size", "4k", "--ttl", "1s")["lease_id"]
    time.sleep(1.6)
    assert "LEASE_EXPIRED" in owner.fails(3, "renew", made, "--ttl", "1m")
    assert "that lease is over" in owner.fails(3, "read", made, "--length", "1")


def test_a_stranger_is_refused_and_told_what_to_do(node, owner, tmp_path):
    stranger = Cli(tmp_path / "stranger", node.port)
    assert "fabricbios trust pin" in stranger.fails(3, "lease", "mem", "--size", "4k", "--ttl", "1m")


@pytest.mark.parametrize(
    ("whom", "code", "said"),
    [
        (("-H", "127.0.0.1:1"), 4, "is fabricbiosd running there?"),
        (("-H", "nosuch.invalid"), 4, "nosuch.invalid"),
        (("-H", "127.0.0.1:port"), 2, "HOST:PORT"),
        (("-H", "127.0.0.1:99999"), 2, "HOST:PORT"),
        (("-H", "127.0.0.1:" + "1" * 5000), 2, "HOST:PORT"),
        (("-H", "127.0.0.1:\N{ARABIC-INDIC DIGIT THREE}"), 2, "HOST:PORT"),
        (("-H", "[::1"), 2, "HOST:PORT"),
        (("-H", "a..b"), 2, "HOST:PORT"),
        (("-H", "a" * 70 + ".example"), 2, "HOST:PORT"),
        (("-H", "\udcff"), 2, "HOST:PORT"),
        (("-H", ""), 2, "HOST:PORT"),
    ],
)
def test_a_node_that_is_not_there(owner, whom, code, said):
    assert said in owner.fails(code, *whom, "status")


def test_an_identity_that_cannot_be_kept(node, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    for command in "status", "identity":
        assert "--identity" in Cli(tmp_path / "file" / "me", node.port).fails(2, command)


def test_an_identity_that_others_may_read(node, tmp_path):
    cli = Cli(tmp_path / "me", node.port)
    cli.json("identity")
    (tmp_path / "me" / "node.key").chmod(0o644)
    assert "chmod 600" in cli.fails(2, "status")


def test_a_node_with_another_key_wants_the_command_that_is_named(owner, node, tmp_path):
    """The remedy is a command: run as it stands, it helps."""
    cli = Cli(tmp_path / "me", node.port)
    cli.json("status")
    known = tmp_path / "me" / "known_nodes"
    known.write_text(f"127.0.0.1:{node.port} {Identity.generate().public_key.hex()}\n")
    said = cli.fails(1, "status")
    remedy = re.search(r"`fabricbios (trust forget \S+)`", said)
    assert remedy, said
    assert cli.run(*remedy[1].split()).code == 0
    cli.json("status")


def closed(fd: int) -> list[str]:
    return ["sh", "-c", f'exec "$@" {fd}{"<" if fd == 0 else ">"}&-', "sh"]


@pytest.mark.parametrize(("fd", "words"), [(0, "write"), (1, "read")])
def test_streams_that_were_closed(owner, lease, fd, words):
    done = subprocess.run(
        [*closed(fd), *COMMAND, *owner.whom, words, lease], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2
    assert "is closed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_output_is_no_reason_to_fail(owner):
    done = subprocess.run([*closed(1), *COMMAND, *owner.whom, "status"], capture_output=True, env=environment())
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_has_had_enough(owner, lease, tmp_path):
    pipeline = f'{{ "$@"; echo $? >{tmp_path}/code; }} | head -c 10'
    command = ["sh", "-c", pipeline, "sh", *COMMAND, *owner.whom, "read", lease]
    done = subprocess.run(command, capture_output=True, env=environment())
    assert (len(done.stdout), done.stderr) == (10, b"")
    assert (tmp_path / "code").read_text() in ("0\n", "1\n"), "head may leave before or after the last byte"


def test_an_output_that_is_full(owner):
    with open("/dev/full", "wb") as full:
        done = owner.start("status", stdout=full)
    assert done.wait(60) == 1
    assert done.stderr.read() == b"fabricbios: No space left on device\n"


def test_an_ascii_locale_and_odd_bytes_are_no_failure(owner, tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff"
    words = [*COMMAND, *owner.whom, "--identity", odd, "identity"]
    named = {**environment(), "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([*words, "--json"], capture_output=True, env=named)
    assert fits(json.loads(done.stdout))["directory"] == os.fsdecode(odd)
    assert subprocess.run(words, capture_output=True, env=named).returncode == 0


def test_an_interrupt_while_the_command_starts_is_one_line(tmp_path):
    """Whenever it comes, once it is our code that runs: here in the middle of the first import."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run([*COMMAND, "status"], capture_output=True, env={**environment(), "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (130, b"fabricbios: interrupted\n")


def test_options_stand_where_people_put_them(node, owner, tmp_path):
    whom = ["-H", f"127.0.0.1:{node.port}", "--identity", str(owner.identity)]

    def document(*words: str) -> dict:
        return fits(json.loads(call(*words).out))

    before, after = document(*whom, "--json", "status"), document("status", *whom, "--json")
    assert before["node_id"] == after["node_id"] == node.ready["node_id"]
    assert document("token", *whom, "--json", "request")["schema"] == "fabricbios.token/1"
    assert document("token", "request", *whom, "--json")["schema"] == "fabricbios.token/1"


def test_the_environment_names_node_and_identity(node, owner):
    named = {"FABRICBIOS_NODE": f"127.0.0.1:{node.port}", "FABRICBIOS_IDENTITY": str(owner.identity)}
    assert fits(json.loads(call("status", "--json", **named).out))["trusted"] is True


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    assert b"_FABRICBIOS_COMPLETE" in call("completion", shell).out
    told = fits(json.loads(call("completion", shell, "--json").out))
    assert told["shell"] == shell
    assert "_FABRICBIOS_COMPLETE" in told["script"]


def test_completion_completes():
    asked = {"COMP_WORDS": "fabricbios le", "COMP_CWORD": "1", "_FABRICBIOS_COMPLETE": "bash_complete"}
    assert call(**asked).out.split() == [b"plain,lease", b"plain,leases"]


# -- the node's own machine


@pytest.fixture
def top(node, owner):
    """Run top against the node's admin socket."""
    here = ("top", "--runtime-dir", str(node.directory / "run"), "--interval", "0.5")
    return lambda *words: owner.start(*here, *words)


def test_top_shows_rates_by_lease_and_path(owner, lease, top):
    looking = top("--json")
    first = fits(json.loads(looking.stdout.readline()))
    assert [(p["plane"], p["path"], p["serves"]) for p in first["planes"]] == [
        ("fbmu", "user", True),
        ("fbmu", "quic", True),
    ]
    owner.run("write", lease, stdin=os.urandom(MIB))
    rates: list[tuple[float, float]] = []
    for _ in range(60):  # looks; one may fall into the middle of the writing
        seen = fits(json.loads(looking.stdout.readline()))
        (mine,) = [item for item in seen["leases"] if item["lease_id"] == lease]
        rates.append((mine["bytes_per_sec"], seen["planes"][0]["written_per_sec"]))
        if mine["totals"]["bytes"] >= MIB:
            break
    assert mine["totals"]["bytes"] >= MIB, "what was sent again counts again"
    assert all(max(each) > 0 for each in zip(*rates, strict=True))
    looking.send_signal(signal.SIGINT)
    assert looking.wait(60) == 130


def test_top_for_people(owner, lease, node):
    seen = owner.run("top", "--once", "--interval", "0.1", "--runtime-dir", str(node.directory / "run"))
    assert lease[:14] in seen.out.decode()
    assert node.ready["node_id"] in seen.out.decode()


def test_top_where_no_node_is(owner, tmp_path):
    assert "--runtime-dir" in owner.fails(4, "top", "--once", "--runtime-dir", str(tmp_path))
    assert "ssh far.example" in owner.fails(2, "-H", "far.example", "top", "--once")


def test_the_admin_socket_goes_with_the_node_and_a_stale_one_is_replaced(tmp_path):
    process = NodeProcess(tmp_path, "--drivers", "simulated")
    socket = tmp_path / "run" / "admin.sock"
    process.start()
    process.end(signal.SIGKILL)
    assert socket.is_socket()
    process.start()
    try:
        assert socket.stat().st_mode & 0o777 == 0o600
        assert Cli(tmp_path / "me", process.port).json("top", "--once", "--runtime-dir", str(tmp_path / "run"))
    finally:
        assert process.end() == 0
    assert not socket.exists()


def test_enrolment_from_asking_to_a_certificate(tmp_path):
    process = NodeProcess(tmp_path, "--drivers", "simulated")
    Cli(tmp_path / "admin", 1).json("trust", "init-ca", "--dir", str(tmp_path / "state" / "controller"))
    process.start()
    here = ("--runtime-dir", str(tmp_path / "run"))
    try:
        client = Cli(tmp_path / "me", process.port)
        me = client.json("identity")
        assert "an admin must approve" in client.fails(3, "trust", "enroll")
        admin = Cli(tmp_path / "admin", process.port)
        assert [who["node_id"] for who in admin.json("trust", "pending", *here)["pending"]] == [me["node_id"]]
        assert "trust pending" in admin.fails(
            2, "trust", "approve", "0x" + "0" * 32, *here, "--trust-dir", str(tmp_path / "t")
        )
        approve = ("trust", "approve", me["node_id"][:8], *here, "--trust-dir", str(tmp_path / "trust"))
        assert admin.json(*approve)["node_id"] == me["node_id"]
        assert trustdir.load(tmp_path / "trust").approved
        client.json("trust", "enroll")
        assert client.json("identity")["certificate"]["in_its_dates"]
        assert not trustdir.load(tmp_path / "trust").approved
        assert "an admin must approve" in client.fails(3, "trust", "enroll")  # one approval, one certificate
    finally:
        process.close()


def test_every_schema_is_json_that_is_a_schema_and_names_itself():
    import jsonschema

    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$id"] == f"urn:fabricbios:{path.stem}:1"
