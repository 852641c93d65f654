"""A trace lives as long as somebody looks: one at a time, off when it ends, off when nobody asks any more."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cli_rig import fits

from fabricbios.daemon import tracing
from fabricbios.daemon.admin import BadQuestion
from fabricbios.daemon.tracing import TracedPath, Tracing
from fabricbios.dataplane.trace import ANY_LEASE, BUCKETS, Outcome, Series, TracedOp, TracedPlane, bucket_of
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import NS

pytestmark = pytest.mark.timeout(30)
BEGIN = {"do": "trace", "lease_id": None}
SERIES = Series(
    TracedPlane.FBMU, TracedOp.READ, Outcome.ANSWERED, 3000, 2000,
    tuple(1 if b in (bucket_of(1000), BUCKETS - 1) else 0 for b in range(BUCKETS)),
)  # fmt: skip


class FakeTraced:
    """A path that says what is done to it; `refusal` is what its load() raises."""

    def __init__(self, refusal: OSError | None = None) -> None:
        self.refusal, self.done, self.until = refusal, [], 0
        self.stopped, self.let_go = asyncio.Event(), threading.Event()
        self.let_go.set()
        self._loop = asyncio.get_running_loop()

    def load(self) -> None:
        self.let_go.wait()
        if self.refusal:
            raise self.refusal
        self.done.append("load")

    def start(self, lease_id: bytes, until_ns: int) -> None:
        self.done.append(("start", lease_id))
        self.until = until_ns

    def extend(self, until_ns: int) -> None:
        self.until = until_ns

    def read(self) -> list[Series]:
        return [SERIES]

    def stop(self) -> None:
        self.done.append("stop")
        self._loop.call_soon_threadsafe(self.stopped.set)


def with_paths(count: int, work: Callable[..., Awaitable[Any]], *refusals: OSError) -> Any:
    """Run work(tracing, *paths) on `count` paths that can be traced and one for each refusal."""

    async def run() -> Any:
        paths = [FakeTraced() for _ in range(count)] + [FakeTraced(refusal) for refusal in refusals]
        subject = Tracing(1, lambda: [TracedPath("fbmu", f"path{i}", path) for i, path in enumerate(paths)])
        try:
            return await work(subject, *paths)
        finally:
            await subject.close()

    return asyncio.run(run())


def test_from_begin_to_end():
    async def work(subject: Tracing, path: FakeTraced) -> None:
        begun = fits(await subject(BEGIN))
        assert begun["paths"] == [{"plane": "fbmu", "path": "path0", "traced": True, "why": ""}]
        assert begun["series"] == []
        (series,) = fits(await subject({"ask": "trace"}))["series"]
        assert (series["plane"], series["op"], series["outcome"], series["count"]) == ("fbmu", "read", "answered", 2)
        low, high, count = series["buckets"][0]
        assert low <= 1000 < high
        assert count == 1
        assert series["buckets"][1][0] == series["buckets"][1][1]  # no end
        assert fits(await subject({"do": "untrace"}))["series"]
        assert path.done == ["load", ("start", ANY_LEASE), "stop"]

    with_paths(1, work)


def test_one_lease_is_passed_on():
    async def work(subject: Tracing, path: FakeTraced) -> None:
        begun = fits(await subject({"do": "trace", "lease_id": "0x" + "0" * 31 + "7"}))
        assert begun["lease_id"] == "0x" + "0" * 31 + "7"
        assert path.done[1] == ("start", (7).to_bytes(16, "big"))

    with_paths(1, work)


def test_each_look_prolongs_it_for_a_while():
    async def work(subject: Tracing, path: FakeTraced) -> None:
        await subject(BEGIN)
        path.until = 0
        before = boottime_ns()
        await subject({"ask": "trace"})
        assert before < path.until <= boottime_ns() + tracing.KEEP_SECONDS * NS

    with_paths(1, work)


def test_it_ends_when_nobody_looks(monkeypatch):
    monkeypatch.setattr(tracing, "KEEP_SECONDS", 0)

    async def work(subject: Tracing, path: FakeTraced) -> None:
        await subject(BEGIN)
        await path.stopped.wait()
        with pytest.raises(BadQuestion, match="nothing is traced"):
            await subject({"ask": "trace"})
        await subject(BEGIN)

    with_paths(1, work)


def test_there_is_one_at_a_time():
    async def work(subject: Tracing, path: FakeTraced) -> None:
        await subject(BEGIN)
        with pytest.raises(BadQuestion, match="somebody traces already"):
            await subject(BEGIN)
        assert path.done.count("load") == 1

    with_paths(1, work)


def test_a_path_that_refuses_does_not_keep_the_others():
    async def work(subject: Tracing, good: FakeTraced, bad: FakeTraced) -> None:
        begun = fits(await subject(BEGIN))
        assert [path["traced"] for path in begun["paths"]] == [True, False]
        assert begun["paths"][1]["why"] == "not permitted"
        assert [series["path"] for series in (await subject({"do": "untrace"}))["series"]] == ["path0"]
        assert bad.done == []

    with_paths(1, work, PermissionError(1, "not permitted\nand a verifier's log"))


def test_where_nothing_can_be_traced_nothing_is_begun():
    async def work(subject: Tracing, bad: FakeTraced) -> None:
        assert not any(path["traced"] for path in (await subject(BEGIN))["paths"])
        with pytest.raises(BadQuestion, match="nothing is traced"):
            await subject({"do": "untrace"})

    with_paths(0, work, OSError(1, "no"))


def test_who_goes_away_in_the_middle_leaves_nothing_on():
    async def work(subject: Tracing, path: FakeTraced) -> None:
        path.let_go.clear()
        asking = asyncio.ensure_future(subject(BEGIN))
        await asyncio.sleep(0.01)
        asking.cancel()
        closing = asyncio.ensure_future(subject.close())
        path.let_go.set()
        await closing
        assert path.done == ["load", ("start", ANY_LEASE), "stop"]

    with_paths(1, work)


def test_a_stopwatch_that_does_not_come_off_is_told(caplog):
    async def work(subject: Tracing, path: FakeTraced) -> None:
        await subject(BEGIN)
        path.stop = lambda: (_ for _ in ()).throw(OSError(16, "busy"))
        await subject.close()

    with_paths(1, work)
    assert "does not come off: [Errno 16] busy" in caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "trace"}, {"do": "trace", "lease_id": 5}, {"do": "trace", "lease_id": "0x0"}, {"ask": "trace", "x": 1},
        {"do": "trace", "lease_id": "0x" + "1" * 33}, {"do": "untrace", "lease_id": None}, {"do": "untrace"},
        {"ask": "trace"},
    ],
)  # fmt: skip
def test_what_nobody_asks_is_refused(request_):
    async def work(subject: Tracing, path: FakeTraced) -> None:
        with pytest.raises(BadQuestion):
            await subject(request_)
        assert path.done == []

    with_paths(1, work)
