"""`fabricbios trace`: how long the answers of this machine's node take, by path, op and outcome."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from fabricbios.cli.histogram import nanoseconds, percentile, rows
from fabricbios.cli.output import EXIT_INTERRUPTED, document, node_options, print_json
from fabricbios.cli.top import Seconds, must_be_here, runtime_dir_option
from fabricbios.daemon.admin_client import AdminClient
from fabricbios.errors import ConfigError, NotFound, Unsupported
from fabricbios.model import Status

LOOK_SECONDS = 1.0  # between two looks: well below the time after which the daemon takes us for dead


@click.command()
@runtime_dir_option
@click.option("--duration", type=Seconds(0.1, 3600), default=10.0, show_default=True, help="Seconds.")
@click.option("--lease", metavar="ID", default="", help="This lease alone; all it asks, and nothing of others.")
@node_options
@click.pass_context
def trace(ctx: click.Context, runtime_dir: Path, duration: float, lease: str, as_json: bool) -> int:
    """Show histograms of how long the node on this machine takes to answer, until the time is up or interrupted.

    Needs what the node itself has, and nothing on top: no compiler, no kernel headers, no kprobes. While it runs each
    datagram costs a little more; afterwards, or when it is killed, nothing is left.
    """
    must_be_here(ctx)
    with AdminClient(runtime_dir) as node:
        whom = _lease(node, lease) if lease else None
        with _interrupts_held():
            begun = node.ask(do="trace", lease_id=whom)
            if not any(path["traced"] for path in begun["paths"]):
                raise _untraceable(begun)
            ended = _watch(node, begun, duration, live=sys.stdout.isatty() and not as_json)
            told = summary(begun, node.ask(do="untrace"))
    if as_json:
        print_json(told)
    else:
        click.echo("\n".join(_lines(told)))
    return 0 if ended else EXIT_INTERRUPTED


def _lease(node: AdminClient, text: str) -> str:
    """Return the whole id of the one lease whose id begins so. NotFound without one, ConfigError for several."""
    digits = text.lower().removeprefix("0x")
    if not digits or set(digits) - set("0123456789abcdef"):
        raise ConfigError(f"{text!r} is not a lease id, nor the beginning of one")
    ids = [lease["lease_id"] for lease in node.ask(ask="leases")["leases"]]
    found: list[str] = [lease_id for lease_id in ids if lease_id.startswith("0x" + digits)]
    if not found:
        raise NotFound(Status.RESOURCE_NOT_FOUND, f"no lease begins with {text}")
    if len(found) > 1:
        raise ConfigError(f"{text} is ambiguous: {', '.join(found)}")
    return found[0]


def _untraceable(begun: dict[str, Any]) -> Unsupported:
    reasons = "; ".join(f"{path['plane']} ({path['path']}): {path['why']}" for path in begun["paths"])
    return Unsupported("tracing", reasons or "the node has no data path", "a node with --xdp off can be traced")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until somebody asks for it: whenever it comes, what was begun on the node is ended there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(node: AdminClient, begun: dict[str, Any], duration: float, live: bool) -> bool:
    """Look until the time is up; return whether nobody interrupted."""
    until = time.monotonic() + duration
    with _screen(live) as screen:
        while (left := until - time.monotonic()) > 0:
            if signal.sigtimedwait({signal.SIGINT}, min(LOOK_SECONDS, left)) is not None:
                return False
            screen.show(summary(begun, node.ask(ask="trace")))
    return True


def summary(begun: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the document: what the node told, with means and percentiles."""
    return document(
        "trace",
        node_id=now["node_id"],
        seconds=round((now["at_ns"] - begun["at_ns"]) / 1e9, 3),
        lease_id=now["lease_id"],
        paths=now["paths"],
        series=[_with_percentiles(series) for series in now["series"]],
    )


def _with_percentiles(series: dict[str, Any]) -> dict[str, Any]:
    buckets, longest = series["buckets"], series["max_ns"]
    shares = {name: percentile(buckets, share, longest) for name, share in _SHARES.items()}
    kept = {key: series[key] for key in ("plane", "path", "op", "outcome", "count")}
    mean = round(series["sum_ns"] / series["count"])
    return {**kept, "mean_ns": mean, **shares, "max_ns": longest, "buckets": buckets}


_SHARES = {"p50_ns": 0.5, "p90_ns": 0.9, "p99_ns": 0.99}


class _Screen(Protocol):
    def show(self, told: dict[str, Any]) -> None: ...


class _NoScreen:
    """For who reads the end alone."""

    def show(self, told: dict[str, Any]) -> None:
        pass


class _LiveScreen:
    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, told: dict[str, Any]) -> None:
        from rich.text import Text

        self._live.update(Text("\n".join(_lines(told))), refresh=True)


@contextmanager
def _screen(live: bool) -> Iterator[_Screen]:
    if not live:
        yield _NoScreen()
        return
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as shown:
        yield _LiveScreen(shown)


def _lines(told: dict[str, Any]) -> Iterator[str]:
    whom = f", lease {told['lease_id'][:14]}" if told["lease_id"] else ""
    yield f"node {told['node_id']}, {told['seconds']:.1f} s{whom}"
    for path in told["paths"]:
        if not path["traced"]:
            yield f"{path['plane']} ({path['path']}) is not traced: {path['why']}"
    if not told["series"]:
        yield "nothing was asked"
    for series in told["series"]:
        yield ""
        yield _headline(series)
        yield from rows(series["buckets"])


def _headline(series: dict[str, Any]) -> str:
    what = f"{series['plane']} {series['op']} {series['outcome']} ({series['path']})"
    if series["plane"] == "other":
        what = f"other traffic {series['outcome']} ({series['path']})"
    shares = ", ".join(f"{name.removesuffix('_ns')} {nanoseconds(series[name])}" for name in (*_SHARES, "max_ns"))
    return f"{what}: {series['count']:,}; {shares}"
