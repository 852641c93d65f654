"""`fabricbios trace` against an admin socket of our own: what it asks, what it prints, how it fails."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_rig import Done, call, fits

from fabricbios.cli import trace
from fabricbios.daemon.admin import AdminSocket, BadQuestion

pytestmark = pytest.mark.timeout(30)
LEASES = ["0x" + "ab" * 16, "0x" + "ac" * 16]
SERIES = [
    {"plane": "fbmu", "path": "xdp_native", "op": "read", "outcome": "answered", "count": 4, "sum_ns": 3000,
     "max_ns": 1010, "buckets": [[640, 704, 3], [960, 1024, 1]]},
    {"plane": "other", "path": "xdp_native", "op": "other", "outcome": "passed", "count": 1, "sum_ns": 60,
     "max_ns": 60, "buckets": [[60, 64, 1]]},
]  # fmt: skip


class FakeNode:
    """Answers as a node does; `asked` is what it was asked, `why` why it cannot trace."""

    def __init__(self, why: str = "", series: list[dict[str, Any]] = SERIES) -> None:
        self.asked: list[dict[str, Any]] = []
        self._why, self._series, self._at = why, series, 0
        self.looked = threading.Event()

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if request == {"ask": "leases"}:
            return {"leases": [{"lease_id": lease_id} for lease_id in LEASES]}
        if request == {"ask": "trace"}:
            self.looked.set()
        self._at += 1_500_000_000
        paths = [{"plane": "fbmu", "path": "xdp_native", "traced": not self._why, "why": self._why}]
        series = [] if "lease_id" in request else self._series
        return {"node_id": "0x" + "1" * 32, "at_ns": self._at, "lease_id": None, "paths": paths, "series": series}


@contextmanager
def listening(directory: Path, node: Any) -> Iterator[None]:
    """Serve `node` on the admin socket of a directory, from another thread that no signal reaches."""
    loop, up, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        admin = AdminSocket(directory, node)
        await admin.start()
        up.set()
        await over.wait()
        await admin.stop()

    def live() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=live)
    thread.start()
    up.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def traced(directory: Path, node: Any, *words: str) -> Done:
    with listening(directory, node):
        return call("trace", "--runtime-dir", str(directory), "--duration", "0.1", *words)


def test_for_scripts_it_is_one_document(tmp_path):
    node = FakeNode()
    done = traced(tmp_path, node, "--json")
    assert done.code == 0
    told = fits(json.loads(done.out))
    assert told["seconds"] == 3.0
    assert told["series"][0]["mean_ns"] == 750
    assert [told["series"][0][f"p{n}_ns"] for n in (50, 90, 99)] == [683, 1010, 1010]
    assert [request.get("do", "look") for request in node.asked] == ["trace", "look", "untrace"]
    assert node.asked[0] == {"do": "trace", "lease_id": None}


def test_for_people_it_is_histograms(tmp_path):
    said = traced(tmp_path, FakeNode()).out.decode().splitlines()
    assert said[0] == f"node 0x{'1' * 32}, 3.0 s"
    assert said[2] == "fbmu read answered (xdp_native): 4; p50 683 ns, p90 1.0 µs, p99 1.0 µs, max 1.0 µs"
    assert said[3] == "  512 ns -   1.0 µs             4  " + "█" * 40
    assert said[5].startswith("other traffic passed (xdp_native): 1; p50 60 ns")


def test_silence_is_said(tmp_path):
    assert traced(tmp_path, FakeNode(series=[])).out.decode().splitlines()[1] == "nothing was asked"


def test_one_lease_by_the_beginning_of_its_id(tmp_path):
    node = FakeNode()
    assert traced(tmp_path, node, "--lease", "abab").code == 0
    assert node.asked[1] == {"do": "trace", "lease_id": LEASES[0]}


@pytest.mark.parametrize(
    ("text", "code", "why"), [("a", 2, "ambiguous"), ("ff", 3, "no lease begins with ff"), ("xyz", 2, "not a lease id")]
)
def test_a_lease_that_is_not_one(tmp_path, text, code, why):
    node = FakeNode()
    done = traced(tmp_path, node, "--lease", text)
    assert done.code == code
    assert why in done.err
    assert all("do" not in request for request in node.asked)


def test_where_nothing_can_be_traced_it_names_the_remedy(tmp_path):
    node = FakeNode(why="bpf(PROG_LOAD): Operation not permitted")
    done = traced(tmp_path, node)
    assert done.code == 5
    assert "fbmu (xdp_native): bpf(PROG_LOAD): Operation not permitted" in done.err
    assert "--xdp off" in done.err
    assert done.err.count("\n") == 1
    assert len(node.asked) == 1


def test_who_traces_already_is_told(tmp_path):
    async def busy(request: dict[str, Any]) -> dict[str, Any]:
        raise BadQuestion("somebody traces already")

    done = traced(tmp_path, busy)
    assert done.code == 2
    assert "somebody traces already" in done.err


def test_an_interrupt_ends_it_on_the_node_and_prints_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "LOOK_SECONDS", 0.05)
    node = FakeNode()

    def interrupt() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        node.looked.wait()
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=interrupt)
    pressing.start()
    with listening(tmp_path, node):
        done = call("trace", "--runtime-dir", str(tmp_path), "--duration", "3600", "--json")
    pressing.join()
    assert done.code == 130
    assert fits(json.loads(done.out))["series"]
    assert node.asked[-1] == {"do": "untrace"}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_the_screen_shows_each_look(tmp_path, monkeypatch):
    shown: list[dict[str, Any]] = []

    @contextmanager
    def screen(live: bool) -> Iterator[Any]:
        yield type("Screen", (), {"show": staticmethod(shown.append)})

    monkeypatch.setattr(trace, "_screen", screen)
    monkeypatch.setattr(trace, "LOOK_SECONDS", 0.02)
    assert traced(tmp_path, FakeNode()).code == 0
    assert len(shown) > 1
    assert fits(shown[0])["series"][0]["count"] == 4


@pytest.mark.parametrize("duration", ["0", "3601", "soon", "-1", "nan"])
def test_the_duration_is_bounded(duration):
    assert call("trace", "--duration", duration).code == 2


def test_another_machine_is_refused():
    done = call("-H", "192.0.2.1", "trace")
    assert done.code == 2
    assert "ssh 192.0.2.1 fabricbios trace" in done.err
