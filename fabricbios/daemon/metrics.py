"""Prometheus metrics under the names that interfaces.md fixes.

Numbers that the daemon counts anyway are pulled when somebody scrapes, in the event loop's own thread;
only the two histograms are fed as things happen. Off unless --metrics says where.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabricbios import __version__
from fabricbios.daemon.scrapes import SCRAPE_SECONDS, ScrapeServer
from fabricbios.daemon.statedir import AlreadyRunning

GAP_SECONDS = 0.05  # between two looks at the loop's numbers, however many ask: it has other work
_OP_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)

Labelled = Mapping[Any, float]  # label values, a tuple of str, to the number


class Family(NamedTuple):
    """One metric: its name, help, label names, and where its current values come from."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[], Labelled]


class Metrics:
    """`op_seconds` and `teardown_seconds` are observed by the daemon; families are added by who has the numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.op_seconds = Histogram(
            "fabricbios_lease_op_seconds", "Time from a control request to its answer", ["op"],
            buckets=_OP_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.teardown_seconds = Histogram(
            "fabricbios_teardown_seconds", "Time from the start of a lease's teardown to its end", ["kind"],
            buckets=_OP_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._families: list[Family] = []
        self._server: ScrapeServer | None = None
        self.add("fabricbios_build_info", "Version", ("version",), lambda: {(__version__,): 1})

    def add(self, name: str, help_: str, labels: tuple[str, ...], values: Callable[[], Labelled]) -> None:
        """Add a family; one whose name ends in _total is a counter, else a gauge."""
        self._families.append(Family(name, help_, labels, values))

    def serve(self, address: tuple[str, int], loop: asyncio.AbstractEventLoop) -> tuple[str, int]:
        """Answer scrapes in a thread of their own; return the address with the port that was picked.

        AlreadyRunning where it cannot be bound.
        """
        self.registry.register(_Pulled(self.collect, loop))
        try:
            self._server = ScrapeServer(address, self.registry)
        except OSError as e:
            raise AlreadyRunning(f"metrics {address[0]} port {address[1]}: {e.strerror}") from None
        self._server.start()
        return address[0], self._server.server_port

    def collect(self) -> list[Metric]:
        return [_metric(family) for family in self._families]

    def close(self) -> None:
        if self._server:
            self._server.close()


class _Pulled(Collector):
    def __init__(self, collect: Callable[[], list[Metric]], loop: asyncio.AbstractEventLoop) -> None:
        self._collect, self._loop = collect, loop
        self._turn = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        """Run in the scrape's thread: have the loop's thread read its own numbers, so nothing changes meanwhile."""
        answer: Future[list[Metric]] = Future()
        with self._turn:
            self._loop.call_soon_threadsafe(lambda: _answer(answer, self._collect))
            time.sleep(GAP_SECONDS)
        yield from answer.result(SCRAPE_SECONDS)


def _answer(future: Future[list[Metric]], collect: Callable[[], list[Metric]]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(collect())
        except (OSError, ValueError, LookupError) as e:
            future.set_exception(e)


def _metric(family: Family) -> Any:
    counter = family.name.endswith("_total")
    made = (CounterMetricFamily if counter else GaugeMetricFamily)(family.name, family.help, labels=family.labels)
    for labels, value in family.values().items():
        made.add_metric(labels, value)
    return made
