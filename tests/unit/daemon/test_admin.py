"""The admin socket: whom it answers, what it answers to junk, and that nothing about it grows without bound."""

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from fabricbios.daemon import admin
from fabricbios.daemon.admin import MAX_CONNECTIONS, MAX_REQUEST, NAME, AdminSocket, BadQuestion, short_path
from fabricbios.daemon.admin_answers import AdminAnswers
from fabricbios.dataplane.slots import SlotCounters
from fabricbios.testing import FakeNode

pytestmark = pytest.mark.timeout(30)


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    if "bad" in request:
        raise BadQuestion("nobody asks that")
    return {"heard": request}


def with_socket(directory: Path, work: Any) -> Any:
    async def run() -> Any:
        listening = AdminSocket(directory, echo)
        await listening.start()
        try:
            return await work(directory)
        finally:
            await listening.stop()

    return asyncio.run(run())


async def connect(directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with short_path(directory, NAME) as path:
        return await asyncio.open_unix_connection(path)


def said(directory: Path, data: bytes) -> list[dict[str, Any]]:
    """Return what is answered to these bytes until the other end closes, or all of ours are answered."""

    async def work(directory: Path) -> list[dict[str, Any]]:
        reader, writer = await connect(directory)
        writer.write(data)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return [json.loads(line) for line in answer.splitlines()]

    return with_socket(directory, work)


def test_requests_are_answered_line_by_line(tmp_path):
    assert said(tmp_path, b'{"a":1}\n{"b":2}\n{"half":') == [{"heard": {"a": 1}}, {"heard": {"b": 2}}]


@pytest.mark.parametrize("junk", [b"\n", b"[]\n", b"7\n", b"\xff\xfe\n", b"{\n", b"[" * 60_000 + b"\n", b'{"bad":1}\n'])
def test_junk_is_answered_and_does_no_harm(tmp_path, junk):
    first, second = said(tmp_path, junk + b'{"a":1}\n')
    assert list(first) == ["error"]
    assert second == {"heard": {"a": 1}}


def test_a_request_without_end_is_cut_off(tmp_path):
    (answer,) = said(tmp_path, b"x" * (2 * MAX_REQUEST))
    assert str(MAX_REQUEST) in answer["error"]


def test_who_is_silent_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(admin, "IDLE_SECONDS", 0.05)

    async def work(directory: Path) -> bytes:
        reader, writer = await connect(directory)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    assert with_socket(tmp_path, work) == b""


def test_one_connection_too_many_is_told(tmp_path):
    async def work(directory: Path) -> bytes:
        held = [await connect(directory) for _ in range(MAX_CONNECTIONS)]
        for reader, writer in held:
            writer.write(b"{}\n")
            await reader.readline()
        reader, late = await connect(directory)
        answer = await reader.read()
        for _, writer in [*held, (reader, late)]:
            writer.close()
        return answer

    assert f"{MAX_CONNECTIONS} are connected" in with_socket(tmp_path, work).decode()


def test_only_root_and_the_daemon_may_ask(tmp_path, monkeypatch):
    somebody = os.geteuid() + 1
    monkeypatch.setattr(
        admin, "UCRED", type("Somebody", (), {"size": 12, "unpack": staticmethod(lambda raw: (1, somebody, 1))})
    )
    (answer,) = said(tmp_path, b"{}\n")
    assert str(somebody) in answer["error"]


def test_the_socket_is_private_and_goes_with_us(tmp_path):
    async def work(directory: Path) -> int:
        return (directory / NAME).stat().st_mode & 0o777

    assert with_socket(tmp_path / "new" / "directory", work) == 0o600
    assert list((tmp_path / "new" / "directory").iterdir()) == []


def test_a_long_directory_is_no_obstacle(tmp_path):
    assert said(tmp_path / ("long" * 60), b"{}\n") == [{"heard": {}}]


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    stale = socket.socket(socket.AF_UNIX)
    with short_path(tmp_path, NAME) as path:
        stale.bind(path)
    stale.close()

    async def work(directory: Path) -> None:
        with pytest.raises(OSError, match="another daemon listens"):
            await AdminSocket(directory, echo).start()
        reader, writer = await connect(directory)
        writer.write(b"{}\n")
        assert await reader.readline()
        writer.close()

    with_socket(tmp_path, work)


# -- answers


class FakePaths:
    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        return SlotCounters(1, 2, lease_id & 0xFF, 4)

    def labels(self) -> dict[str, str]:
        return {"fbmu": "user"}

    def reasons(self) -> dict[str, str]:
        return {"fbmu": "user: it was asked for"}

    def checks(self) -> dict[str, str]:
        return {"fbmu": "xdp_native"}

    def counters(self) -> dict[str, Any]:
        return {"fbmu": {"user": {"requests": {"read": 1}, "drops": {}, "bytes": {"read": 2, "written": 3}}}}


def ask(node: FakeNode, **request: Any) -> dict[str, Any]:
    answers = AdminAnswers(1, node.node, FakePaths(), {b"FBMU": {"requests": {"read": 5}}}, echo)
    return asyncio.run(answers(request))


def test_leases_come_with_their_counters_the_busiest_first(monkeypatch):
    node = FakeNode()
    ids = [node.alloc(1, size=4096).lease_id for _ in range(5)]
    listed = ask(node, ask="leases")
    assert [item["counters"]["bytes"] for item in listed["leases"]] == sorted((i & 0xFF for i in ids), reverse=True)
    monkeypatch.setattr("fabricbios.daemon.admin_answers.MAX_LEASES", 2)
    assert (len(ask(node, ask="leases")["leases"]), ask(node, ask="leases")["left_out"]) == (2, 3)


def test_paths_say_why_and_count_streams_apart():
    (plane,) = ask(FakeNode(), ask="paths")["planes"]
    assert (plane["path"], plane["checked_by"], plane["why"]) == ("user", "xdp_native", "it was asked for")
    assert plane["counters"]["quic"] == {"requests": {"read": 5}}


@pytest.mark.parametrize("request_", [{"ask": "trace"}, {"do": "trace", "lease_id": None}, {"do": "untrace"}])
def test_traces_are_somebody_elses(request_):
    assert ask(FakeNode(), **request_) == {"heard": request_}


@pytest.mark.parametrize(
    "request_",
    [
        {}, {"ask": "secrets"}, {"ask": ["leases"]}, {"ask": "leases", "more": 1}, {"do": "approve"},
        {"do": "approve", "node_id": 5}, {"do": "approve", "node_id": "x"}, {"do": "approve", "node_id": "0x5"},
        {"do": "destroy", "node_id": "0x5"},
    ],
)  # fmt: skip
def test_what_nobody_asks_is_refused(request_):
    with pytest.raises(BadQuestion):
        ask(FakeNode(), **request_)


def test_no_socket_is_made_where_others_could_put_theirs(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match=r"written by others \(mode 0777\): chmod go-w"):
        said(tmp_path, b"")
