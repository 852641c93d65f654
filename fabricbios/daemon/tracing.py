"""`fabricbios trace` as the daemon sees it: stopwatches on the data paths as long as somebody looks at them.

Who looks says {"do": "trace"}, then {"ask": "trace"} again and again, and {"do": "untrace"} at the end. Who falls
silent, because he was killed or hangs, is not waited for: after KEEP_SECONDS the stopwatches come off. The same moment
stands in what the paths read, so that they stop recording even if it is the daemon who is killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fabricbios.daemon.admin import BadQuestion
from fabricbios.dataplane.trace import ANY_LEASE, BUCKETS, Series, Traced, lowest_of
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import NS, hex128

KEEP_SECONDS = 5
REQUESTS = '{"do": "trace", "lease_id": "0x..." or null}, {"ask": "trace"} and {"do": "untrace"}'
log = logging.getLogger("fabricbios.trace")


class TracedPath(NamedTuple):
    """One way in which a plane is served; `path` is its label."""

    plane: str
    path: str
    traced: Traced


class Tracing:
    """One trace at a time. `paths` is asked when one begins."""

    def __init__(self, node_id: int, paths: Callable[[], Sequence[TracedPath]]) -> None:
        self._node_id, self._all = node_id, paths
        self._lease_id = ANY_LEASE
        self._paths: list[TracedPath] = []
        self._why: list[dict[str, Any]] = []
        self._turn = asyncio.Lock()  # what a path gave is taken back by one at a time
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one of REQUESTS. BadQuestion for others, and where nothing or something else is traced already.

        Who asks may go away in the middle; what was begun is finished all the same, so that close() finds it whole.
        """
        return await asyncio.shield(self._answered(request))

    async def _answered(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._turn:
            if request.keys() == {"do", "lease_id"} and request["do"] == "trace":
                return await self._begin(_lease_id(request["lease_id"]))
            if request not in ({"ask": "trace"}, {"do": "untrace"}):
                raise BadQuestion(f"of traces there are {REQUESTS}")
            if not self._paths:
                raise BadQuestion("nothing is traced: it has ended, or was not begun")
            self._keep()
            shown = self._document(await asyncio.to_thread(self._read))
            if "do" in request:
                await self._end()
            return shown

    async def close(self) -> None:
        """Take every stopwatch off."""
        async with self._turn:
            await self._end()

    async def _begin(self, lease_id: bytes) -> dict[str, Any]:
        if self._paths:
            raise BadQuestion("somebody traces already")
        self._lease_id, self._why = lease_id, []
        for path in self._all():
            why = await asyncio.to_thread(_started, path.traced, lease_id)
            self._why.append({"plane": path.plane, "path": path.path, "traced": not why, "why": why})
            if not why:
                self._paths.append(path)
        if self._paths:
            log.info("tracing begins")
            self._keep()
        return self._document([])

    def _keep(self) -> None:
        """Go on for KEEP_SECONDS from now."""
        for path in self._paths:
            path.traced.extend(_end_of_keep())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._forsaken)

    def _forsaken(self) -> None:
        log.warning("nobody looks at the trace any more")
        self._ending = asyncio.ensure_future(self.close())

    def _read(self) -> list[dict[str, Any]]:
        return [_series(path, series) for path in self._paths for series in path.traced.read()]

    async def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for path in self._paths:
            try:
                await asyncio.to_thread(path.traced.stop)
            except OSError as e:
                log.error("the stopwatch of %s (%s) does not come off: %s", path.plane, path.path, e)
        self._paths = []

    def _document(self, series: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "schema": "fabricbios.admin-trace/1",
            "node_id": hex128(self._node_id),
            "at_ns": time.monotonic_ns(),
            "lease_id": None if self._lease_id == ANY_LEASE else "0x" + self._lease_id.hex(),
            "paths": self._why,
            "series": series,
        }


def _started(traced: Traced, lease_id: bytes) -> str:
    """Put a stopwatch on; return "" or why it cannot be."""
    try:
        traced.load()
        traced.start(lease_id, _end_of_keep())
    except OSError as e:
        return (e.strerror or str(e)).splitlines()[0]
    return ""


def _end_of_keep() -> int:
    return boottime_ns() + KEEP_SECONDS * NS


def _lease_id(text: Any) -> bytes:
    if text is None:
        return ANY_LEASE
    try:
        number = int(text, 16)
        if 0 < number < 1 << 128:
            return number.to_bytes(16, "big")
    except (TypeError, ValueError):
        pass
    raise BadQuestion(f"{text!r} is not a lease id: 0x and 32 digits, or null for all")


def _series(path: TracedPath, series: Series) -> dict[str, Any]:
    """A bucket is [from, to, count]; the last one has no end that would mean anything, so it has its beginning's."""
    return {
        "plane": series.plane.name.lower(),
        "path": path.path,
        "op": series.op.name.lower(),
        "outcome": series.outcome.name.lower(),
        "count": sum(series.buckets),
        "sum_ns": series.sum_ns,
        "max_ns": series.max_ns,
        "buckets": [[lowest_of(b), lowest_of(min(b + 1, BUCKETS - 1)), n] for b, n in enumerate(series.buckets) if n],
    }
