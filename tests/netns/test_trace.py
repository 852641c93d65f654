"""`fabricbios trace` on a daemon that serves by XDP, with real questions; and that nothing of it stays behind."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_rig import COMMAND, call, environment, fits
from netns_rig import VethPair
from xdp_daemon_rig import MIB, XdpNode, kept
from xdp_veth_rig import xdp_pair

from fabricbios.daemon.admin_client import AdminClient

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
READS = 20


@contextmanager
def served(directory: Path) -> Iterator[tuple[XdpNode, VethPair]]:
    with xdp_pair("4") as pair:
        node = XdpNode(directory, pair)
        try:
            node.start()
            yield node, pair
        finally:
            node.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """A node that no test ends."""
    with served(tmp_path_factory.mktemp("node")) as both:
        yield both


@pytest.fixture
def brief(tmp_path):
    with served(tmp_path) as both:
        yield both


async def read_often(lease) -> None:
    for at in range(READS):
        await lease.read(at, 64)


def program(pair: VethPair) -> int:
    """Return the id of the program on the node's interface."""
    shown = ["ip", "-n", pair.there, "-d", "-j", "link", "show", pair.iface]
    (link,) = json.loads(subprocess.run(shown, capture_output=True, check=True).stdout)
    return link["xdp"]["prog"]["id"]


def becomes(pair: VethPair, number: int, seconds: float = 60) -> bool:
    """Wait until the program with this id is on the interface."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if program(pair) == number:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def tracing(node: XdpNode, pair: VethPair, *words: str) -> Iterator[subprocess.Popen]:
    """Run the command, from the moment when its stopwatch is on the interface."""
    before = program(pair)
    command = [*COMMAND, "trace", "--runtime-dir", str(node.directory / "run"), *words]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while program(pair) == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def counts(document: dict) -> dict[tuple[str, str, str], int]:
    return {(s["plane"], s["op"], s["outcome"]): s["count"] for s in document["series"] if s["plane"] != "other"}


def test_questions_are_counted_by_op_and_outcome_and_the_program_is_given_back(lasting):
    node, pair = lasting

    async def work(client):
        lease = await kept(client)
        plain = program(pair)
        with AdminClient(node.directory / "run") as admin:
            begun = fits(admin.ask(do="trace", lease_id=None))
            assert [(path["path"], path["traced"]) for path in begun["paths"]] == [("xdp_generic", True)]
            assert program(pair) != plain
            await lease.write(0, b"x" * 64)
            await read_often(lease)
            told = fits(admin.ask(do="untrace"))
        assert program(pair) == plain
        await lease.read(0, 64)  # no longer counted, still answered
        return told

    told = node.run(work)
    assert counts(told) == {("fbmu", "read", "answered"): READS, ("fbmu", "write", "answered"): 1}
    assert {series["path"] for series in told["series"]} == {"xdp_generic"}
    for series in told["series"]:
        assert 0 < series["sum_ns"] <= series["max_ns"] * series["count"]
        assert sum(count for *_, count in series["buckets"]) == series["count"]


def test_the_command_shows_percentiles(lasting):
    node, pair = lasting

    async def work(client):
        lease = await kept(client)
        plain = program(pair)
        with tracing(node, pair, "--duration", "3600", "--json") as traced:
            await read_often(lease)
            traced.send_signal(signal.SIGINT)
            out, _ = traced.communicate(timeout=60)
        assert traced.returncode == 130
        assert program(pair) == plain
        return fits(json.loads(out))

    told = node.run(work)
    assert counts(told) == {("fbmu", "read", "answered"): READS}
    (series,) = (s for s in told["series"] if s["plane"] == "fbmu")
    assert 0 < series["p50_ns"] <= series["p90_ns"] <= series["p99_ns"] <= series["max_ns"]


def test_one_lease_for_people(lasting):
    node, pair = lasting

    async def work(client):
        one, other = await kept(client), await kept(client)
        with tracing(node, pair, "--duration", "3600", "--lease", f"{one.lease_id:032x}"[:20]) as traced:
            await one.write(0, b"x")
            await other.read(0, 8)
            traced.send_signal(signal.SIGINT)
            return traced.communicate(timeout=60)[0]

    said = node.run(work)
    assert "fbmu write answered (xdp_generic): 1; p50 " in said
    assert "read" not in said
    assert "other traffic" not in said
    assert "█" in said


def test_top_shows_live_rates_of_a_lease_in_the_kernel(lasting):
    node, _ = lasting
    run_dir = str(node.directory / "run")

    async def work(client):
        lease = await kept(client)
        looking = await asyncio.create_subprocess_exec(
            *COMMAND, "top", "--runtime-dir", run_dir, "--interval", "1", "--once", "--json",
            env=environment(), stdout=subprocess.PIPE,
        )  # fmt: skip
        while looking.returncode is None:
            await lease.write(0, b"x" * 64)
            await read_often(lease)
        return lease.lease_id, fits(json.loads(await looking.stdout.read()))

    lease_id, told = node.run(work)
    (lease,) = (lease for lease in told["leases"] if int(lease["lease_id"], 16) == lease_id)
    assert lease["reads_per_sec"] > lease["writes_per_sec"] > 0
    assert lease["bytes_per_sec"] > 0
    moving = {plane["path"]: plane["requests_per_sec"] for plane in told["planes"] if plane["plane"] == "fbmu"}
    assert moving["xdp_generic"] > 0
    assert moving["xdp_native"] == moving["user"] == 0


def test_nothing_stays_when_the_command_is_killed(lasting):
    node, pair = lasting
    plain = program(pair)
    with tracing(node, pair, "--duration", "3600") as traced:
        traced.kill()
        traced.wait()
    assert becomes(pair, plain)
    assert "nobody looks at the trace any more" in node.said()


def test_a_daemon_that_is_killed_meanwhile_is_replaced_whole(brief):
    node, pair = brief

    async def before(client):
        return await kept(client)

    lease = node.run(before)
    with tracing(node, pair, "--duration", "3600") as traced:
        on = program(pair)
        node.end(signal.SIGKILL)
        assert traced.wait(60) == 4
        assert program(pair) == on
        node.inside.do(lease.read(0, 64))  # it serves on
    node.start()
    assert program(pair) != on

    async def after(client):
        again = client.attach_memory(lease.lease_id, 60)
        await again.open()
        await again.read(0, 64)

    node.run(after)
    with AdminClient(node.directory / "run") as admin:
        admin.ask(do="trace", lease_id=None)
        assert counts(admin.ask(do="untrace")) == {}


def test_a_daemon_that_ends_meanwhile_leaves_nothing(brief):
    node, pair = brief
    node.run(lambda client: kept(client, size=MIB))
    with tracing(node, pair, "--duration", "3600"):
        assert node.end() == 0
    assert node.pins() == []
    shown = subprocess.run(["ip", "-n", pair.there, "-d", "link", "show", pair.iface], capture_output=True, text=True)
    assert "xdp" not in shown.stdout


def test_what_the_kernel_refuses_is_told_and_can_be_tried_again(lasting):
    """Here it has no descriptor left for one."""
    node, pair = lasting
    plain = program(pair)
    with AdminClient(node.directory / "run") as admin:
        admin.ask(ask="paths")
        resource = ["prlimit", f"--pid={node.process.pid}", "--nofile=3:"]
        subprocess.run(resource, check=True)
        (path,) = admin.ask(do="trace", lease_id=None)["paths"]
        assert (path["traced"], path["why"]) == (False, "bpf(MAP_CREATE): Too many open files")
        assert program(pair) == plain
        subprocess.run(["prlimit", f"--pid={node.process.pid}", "--nofile=1024:"], check=True)
        assert admin.ask(do="trace", lease_id=None)["paths"][0]["traced"]
        admin.ask(do="untrace")
    assert program(pair) == plain


def test_nobody_there_is_told():
    done = call("trace", "--runtime-dir", "/nonexistent")
    assert done.code == 4
    assert "--runtime-dir names another" in done.err
