"""`fabricbios nodes`: who is there, with what, and whether the node itself said so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from fabricbios.cli.output import document, duration, node_options, print_json, print_table, size
from fabricbios.cli.session import is_host, node_address
from fabricbios.daemon.solicit import KINDS, Endpoint, Interface, ask
from fabricbios.model import DISCOVERY_PORT, ResourceType, hex128
from fabricbios.transport.node_entry import NodeEntry
from fabricbios.wire.inventory import ResourceSummary

_SHORT_ID = 14


@click.command()
@node_options
@click.option(
    "--relay", "relays", type=Endpoint(), multiple=True, envvar="FABRICBIOS_RELAY", help="Relay to ask; repeatable."
)
@click.option("--iface", "ifaces", type=Interface(), multiple=True, help="Ask by multicast on this link; repeatable.")
@click.option("--type", "kinds", type=click.Choice(KINDS), multiple=True, help="Only nodes with this; repeatable.")
@click.option("--discovery-port", "port", type=click.IntRange(1, 65535), default=DISCOVERY_PORT, show_default=True)
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, help="Seconds to wait.")
@click.option("--full", is_flag=True, help="Show ids in full.")
@click.pass_context
def nodes(
    ctx: click.Context,
    relays: tuple[tuple[str, int], ...],
    ifaces: tuple[str, ...],
    kinds: tuple[str, ...],
    port: int,
    timeout: float,
    full: bool,
    as_json: bool,
) -> None:
    """List nodes that a relay has heard, that answer on a link, or (without either) the node of -H itself."""
    for host, _ in relays:
        if not is_host(host):
            raise click.UsageError(f"--relay {host!r} is not HOST or HOST:PORT")
    if not relays and not ifaces:
        host, _ = node_address(ctx.find_root().obj["host"])
        relays = ((host, port),)
    entries = ask(relays, ifaces, port, kinds, timeout)
    if as_json:
        print_json(document("nodes", nodes=[entry.to_json() for entry in entries]))
        return
    columns = ("node", "address", "resources", "health", ">age", "verified")
    print_table(columns, [_row(entry, full) for entry in entries], empty="no nodes")


def _row(entry: NodeEntry, full: bool) -> Sequence[str]:
    node = hex128(entry.node_id)
    return (
        node if full else node[:_SHORT_ID] + "…",
        entry.endpoint,
        ", ".join(_resource(r) for r in entry.resources) or "none",
        " ".join(entry.to_json()["health"]) or "ok",
        duration(entry.age_secs),
        "yes" if entry.verified else f"NO: {entry.flaw}",
    )


def _resource(summary: ResourceSummary) -> str:
    have, all_of = summary.available, summary.capacity
    kind = summary.resource_type
    flags = "!" if summary.flags else ""
    if kind == ResourceType.SCHEDULER:
        return f"scheduler on port {all_of}"
    unit = _UNIT.get(kind, str)
    name = ResourceType(kind).name.lower() if kind in set(ResourceType) else f"0x{kind:04x}"
    return f"{name}{flags} {unit(have)} of {unit(all_of)}"


def _rate(bits: int) -> str:
    return f"{bits / 1e9:g} Gbit/s" if bits >= 10**9 else f"{bits / 1e6:g} Mbit/s"


_UNIT: dict[int, Callable[[int], str]] = {
    ResourceType.MEM: size,
    ResourceType.BLOCK: size,
    ResourceType.GPU: size,
    ResourceType.NET: _rate,
}
