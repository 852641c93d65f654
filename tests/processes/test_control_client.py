"""`fabricbiosd control-client`: each answer is one document, and its exit code says whether the node agreed."""

import json
import socket
import subprocess
import sys
from contextlib import closing

import pytest
from cli_rig import environment, fits
from node_rig import NodeProcess

from fabricbios.daemon import control_client
from fabricbios.model import Op
from fabricbios.transport import Identity
from fabricbios.wire import Response

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with closing(NodeProcess(tmp_path_factory.mktemp("node"))) as process:
        process.start()
        process.run(lambda client: client.cap_request(), Identity.load_or_create(process.directory / "me"))  # the claim
        yield process


def answer(node: NodeProcess, code: int, *words: str) -> dict:
    """Return the document that is printed; all come from one identity, which claimed the node."""
    where = ["-H", f"127.0.0.1:{node.port}", "--identity", str(node.directory / "me")]
    command = [sys.executable, "-m", "fabricbios.daemon", "control-client", words[0], *where, *words[1:]]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done
    assert done.stdout.count("\n") == 1
    return fits(json.loads(done.stdout))


def test_answers_are_documents(node):
    assert answer(node, 0, "ping") | {"result": 0} == {
        "schema": "fabricbios.control-answer/1", "op": "PING", "status": "OK", "result": 0,
    }  # fmt: skip
    made = answer(node, 0, "lease-alloc", "--type", "mem", "--size", "4k", "--ttl", "30s")
    lease_id = made["result"]["lease_id"]
    assert answer(node, 0, "lease-query", "--lease-id", lease_id)["op"] == "LEASE_QUERY"
    assert answer(node, 0, "lease-free", "--lease-id", lease_id)["status"] == "OK"


def test_a_refusal_is_a_document_too(node):
    refused = answer(node, 3, "lease-free", "--lease-id", "0x77")
    assert refused["status"] == "RESOURCE_NOT_FOUND"
    assert "unreadable" not in refused["result"]


def test_nobody_there_is_one_line_and_a_code_of_its_own():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [sys.executable, "-m", "fabricbios.daemon", "control-client", "ping"]
    done = subprocess.run(
        command, env=environment() | {"FABRICBIOS_NODE": where}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert where.rpartition(":")[2] in done.stderr


def test_what_cannot_be_read_is_shown_as_it_came():
    shown = control_client._shown(Op.PING, Response(op=Op.PING, status=0, result=b"\xff"))
    assert shown["unreadable"] == "ff"
    fits({"schema": "fabricbios.control-answer/1", "op": "PING", "status": "OK", "result": shown})
