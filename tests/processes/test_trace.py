"""`fabricbios trace` and `top` on a node whose planes are served in user space, memory and blocks alike."""

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
from contextlib import closing

import pytest
from cli_rig import COMMAND, call, environment, fits
from facilities import require
from node_rig import NodeProcess, gone

from fabricbios.daemon.admin_client import AdminClient
from fabricbios.model import BLOCK_SIZE
from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(120)
OWNER = Identity.generate()
MIB, TIMES = 1 << 20, 5


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("node")
    with closing(NodeProcess(directory, "--block", f"{directory}/disk:16M")) as process:
        process.start()
        yield process


async def use(lease) -> None:
    """Write once, read TIMES times and once more: a datagram each. A server notes an answer when it has left, so that
    the very last may not be in the histogram yet when somebody looks."""
    await lease.write(0, bytes(BLOCK_SIZE))
    for _ in range(TIMES + 1):
        await lease.read(0, BLOCK_SIZE)


def trace_while(node, work, lease_id=None) -> dict:
    """Return what is traced while `work(memory lease, block lease)` goes on."""

    async def session(client):
        async with client.lease_memory(MIB, ttl=30) as memory, client.lease_block(MIB, ttl=30) as block:
            with AdminClient(node.directory / "run") as admin:
                begun = fits(admin.ask(do="trace", lease_id=f"0x{memory.lease_id:032x}" if lease_id else None))
                assert [(p["plane"], p["path"], p["traced"]) for p in begun["paths"]] == [
                    ("fbmu", "user", True), ("fbbu", "user", True),
                ]  # fmt: skip
                await work(memory, block)
                return fits(admin.ask(do="untrace"))

    return node.run(session, OWNER)


def counts(document: dict) -> dict[tuple[str, str, str], int]:
    return {(s["plane"], s["op"], s["outcome"]): s["count"] for s in document["series"]}


def test_every_datagram_of_both_planes_is_in_a_histogram(node):
    async def work(memory, block):
        await use(memory)
        await use(block)

    told = trace_while(node, work)
    least = {
        ("fbmu", "read", "answered"): TIMES, ("fbmu", "write", "answered"): 1,
        ("fbbu", "read", "answered"): TIMES, ("fbbu", "write", "answered"): 1,
    }  # fmt: skip
    found = counts(told)
    assert found.keys() == least.keys()
    assert all(found[one] >= times for one, times in least.items())  # a client asks again where the server is slow
    for series in told["series"]:
        assert 0 < series["sum_ns"] <= series["max_ns"] * series["count"]


def test_one_lease_alone(node):
    async def work(memory, block):
        await use(memory)
        await use(block)

    assert {plane for plane, _, _ in counts(trace_while(node, work, lease_id="memory's"))} == {"fbmu"}


def test_a_server_that_dies_meanwhile_is_traced_on(node):
    async def work(memory, block):
        await use(memory)
        for pid in node.servers():
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.to_thread(gone, pid)
        await use(memory)

    # Killed between an answer and noting it, a server takes that one with it.
    assert counts(trace_while(node, work))["fbmu", "read", "answered"] >= 2 * TIMES - 1


def test_the_command_is_one_document(node):
    done = call("trace", "--runtime-dir", str(node.directory / "run"), "--duration", "0.1", "--json")
    assert done.code == 0
    assert [path["traced"] for path in fits(json.loads(done.out))["paths"]] == [True, True]


def test_on_a_terminal_it_draws_while_it_looks(node):
    ours, theirs = pty.openpty()
    command = [*COMMAND, "trace", "--runtime-dir", str(node.directory / "run"), "--duration", "4"]
    process = subprocess.Popen(command, env=environment() | {"TERM": "xterm"}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while more := os.read(ours, 4096):
            drawn += more
    os.close(ours)
    assert process.wait(60) == 0
    entered, left = drawn.index(b"\x1b[?1049h"), drawn.rindex(b"\x1b[?1049l")  # the terminal's other screen
    assert drawn[entered:left].count(b"nothing was asked") >= 2
    assert b"nothing was asked" in drawn[left:]


def test_who_is_neither_root_nor_the_daemon_is_told_what_to_do(node):
    require("root", os.geteuid() == 0 and shutil.which("setpriv") is not None, "this wants to become another user")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*nobody, *COMMAND, "trace", "--runtime-dir", str(node.directory / "run")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "is for root and the daemon's user alone: become one of them" in done.stderr
    assert done.stderr.count("\n") == 1


def test_top_shows_live_rates_by_lease_of_memory_and_of_blocks(node):
    async def session(client):
        async with client.lease_memory(MIB, ttl=30) as memory, client.lease_block(MIB, ttl=30) as block:
            looking = await asyncio.create_subprocess_exec(
                *COMMAND, "top", "--runtime-dir", str(node.directory / "run"), "--interval", "1", "--once", "--json",
                env=environment(), stdout=subprocess.PIPE,
            )  # fmt: skip
            while looking.returncode is None:
                await use(memory)
                await use(block)
            return fits(json.loads(await looking.stdout.read()))

    told = node.run(session, OWNER)
    assert {lease["kind"] for lease in told["leases"]} == {"mem", "block"}
    for lease in told["leases"]:
        assert lease["reads_per_sec"] > lease["writes_per_sec"] > 0
        assert lease["bytes_per_sec"] > 0
        assert lease["totals"]["reads"] > 0
    moving = {plane["plane"]: plane["requests_per_sec"] for plane in told["planes"] if plane["path"] == "user"}
    assert moving["fbmu"] > 0
    assert moving["fbbu"] > 0
