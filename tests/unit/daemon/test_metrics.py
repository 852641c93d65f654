"""The metrics' HTTP server: whoever can reach it may ask, and cost little."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Callable

import pytest

from fabricbios.daemon import metrics, scrapes
from fabricbios.daemon.metrics import Metrics
from fabricbios.daemon.scrapes import MAX_SCRAPES
from fabricbios.daemon.statedir import AlreadyRunning


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def served(test: Callable[[int], None]) -> list[float]:
    """Run `test(port)` beside an event loop that serves; return when its numbers were looked at."""

    async def body() -> None:
        served = Metrics()
        served.add("fabricbios_looks", "", (), lambda: {(): looks.append(time.monotonic()) or len(looks)})
        _, port = served.serve(("127.0.0.1", 0), asyncio.get_running_loop())
        try:
            await asyncio.to_thread(test, port)
        finally:
            served.close()

    looks: list[float] = []
    asyncio.run(body())
    return looks


def test_an_address_that_is_taken_is_named() -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(AlreadyRunning, match=f"metrics 127.0.0.1 port {port}: Address already in use"):
                Metrics().serve(("127.0.0.1", port), asyncio.get_running_loop())

    asyncio.run(body())


def test_a_scrape_is_of_now() -> None:
    def test(port: int) -> None:
        assert "fabricbios_looks 1.0" in scraped(port)
        assert "fabricbios_looks 2.0" in scraped(port)

    looks = served(test)
    assert looks[1] - looks[0] >= metrics.GAP_SECONDS


def test_silent_connections_get_few_threads_and_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes._Handler, "timeout", 0.5)

    def test(port: int) -> None:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5 * MAX_SCRAPES)]
        time.sleep(0.3)
        assert threading.active_count() - before <= MAX_SCRAPES
        while True:  # until the time of those who have threads is up
            with contextlib.suppress(OSError):
                assert "fabricbios_build_info" in scraped(port)
                break
        for sock in silent:
            sock.close()

    served(test)
