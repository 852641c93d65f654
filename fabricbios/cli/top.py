"""`fabricbios top`: what a node's data planes do just now, by lease and by path."""

from __future__ import annotations

import ipaddress
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fabricbios.cli.output import duration, node_options, print_json, size
from fabricbios.cli.rates import Look, rates
from fabricbios.cli.session import node_address
from fabricbios.daemon.admin_client import AdminClient
from fabricbios.daemon.settings import BY_KEY
from fabricbios.errors import ConfigError

SHOWN = 40  # leases on one screen
WIDE = 100  # columns from which on a lease's whole row has room
_RATES = (">size", ">reads/s", ">writes/s", ">bytes/s", ">rejects/s", ">ends in")


class Seconds(click.FloatRange):
    """A number of seconds within bounds. NaN is in none, though it is neither above nor below."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return number


runtime_dir_option = click.option(
    "--runtime-dir", type=click.Path(path_type=Path), default=BY_KEY["runtime_dir"].default, show_default=True,
    help="The node's, where its admin socket is.",
)  # fmt: skip


@click.command()
@runtime_dir_option
@click.option("--interval", type=Seconds(0.1, 60), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Look for one interval, print, and end.")
@node_options
@click.pass_context
def top(ctx: click.Context, runtime_dir: Path, interval: float, once: bool, as_json: bool) -> None:
    """Show live rates by path and by lease of the node on this machine, until interrupted.

    With --json one document a line. Where standard output is no terminal it looks once.
    """
    must_be_here(ctx)
    with AdminClient(runtime_dir) as node:
        seen = _looks(node, interval)
        if as_json:
            for doc in seen:
                print_json(doc)
                if once:
                    return
        elif once or not sys.stdout.isatty():
            console = _console()
            console.print(_screen(next(seen), console.width))
        else:
            _follow(seen)


def must_be_here(ctx: click.Context) -> None:
    """Counters by lease are for who may be root there: they never leave the machine. ConfigError for another's -H."""
    host = node_address(ctx.find_root().obj["host"])[0]
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not here:
        name = ctx.info_name
        raise ConfigError(f"{name} looks at the node of its own machine: run it there (ssh {host} fabricbios {name})")


def _looks(node: AdminClient, interval: float) -> Iterator[dict[str, Any]]:
    before = _look(node)
    while True:
        time.sleep(interval)
        after = _look(node)
        yield rates(before, after)
        before = after


def _look(node: AdminClient) -> Look:
    return Look(node.ask(ask="leases"), node.ask(ask="paths"))


def _follow(seen: Iterator[dict[str, Any]]) -> None:
    from rich.live import Live

    console = _console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for doc in seen:
            live.update(_screen(doc, console.width), refresh=True)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _screen(doc: dict[str, Any], width: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    more = len(doc["leases"]) - SHOWN + doc["left_out"]
    rest = [Text(f"and {more} leases more")] if more > 0 else []
    leases = _leases(doc) if width >= WIDE else _leases_slim(doc)
    return Group(Text(f"node {doc['node_id']}"), _planes(doc), Text(), leases, *rest)


def _planes(doc: dict[str, Any]) -> Any:
    table = _table("plane", "path", ">requests/s", ">read/s", ">written/s", ">drops/s", "why")
    for p in doc["planes"]:
        table.add_row(
            p["plane"], p["path"] if p["serves"] else f"({p['path']})", _count(p["requests_per_sec"]),
            _bytes(p["read_per_sec"]), _bytes(p["written_per_sec"]), _count(p["drops_per_sec"]), p["why"],
        )  # fmt: skip
    return table


def _leases(doc: dict[str, Any]) -> Any:
    table = _table("lease", "kind", "over", "state", *_RATES)
    for item in doc["leases"][:SHOWN]:
        table.add_row(item["lease_id"][:14], item["kind"], item["binding"], item["state"], *_moving(item))
    return table


def _leases_slim(doc: dict[str, Any]) -> Any:
    """The same for 80 columns: an id as short as commands take it, and no binding."""
    table = _table("lease", "kind", "state", *_RATES)
    table.collapse_padding = True
    for item in doc["leases"][:SHOWN]:
        table.add_row(item["lease_id"][:8], item["kind"], item["state"], *_moving(item))
    return table


def _moving(item: dict[str, Any]) -> list[str]:
    """Return the cells under _RATES; blank ones where the node does not count, as it is not on the path."""
    cells = [""] * 4
    if item["totals"]:
        moved = _bytes(item["bytes_per_sec"])
        cells = [_count(item["reads_per_sec"]), _count(item["writes_per_sec"]), moved, _count(item["rejects_per_sec"])]
    return [size(item["size"]), *cells, duration(max(0, item["expires_at"] - time.time()))]


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def _count(rate: float) -> str:
    return f"{rate:,.0f}" if rate else "-"


def _bytes(rate: float) -> str:
    return size(round(rate)) if rate else "-"
