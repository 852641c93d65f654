"""`fabricbiosd solicit`: ask relays or the link which nodes there are, for scripts and for who debugs."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import click

from fabricbios.daemon.settings import parse_endpoint
from fabricbios.errors import TimedOut
from fabricbios.model import DISCOVERY_PORT, ResourceType, hex128
from fabricbios.transport.node_entry import NodeEntry
from fabricbios.transport.solicit import solicit
from fabricbios.wire.discovery import Filter, FilterField, FilterOp


class Endpoint(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click
    """HOST, HOST:PORT or [V6]:PORT; the discovery port if none is named."""

    name = "HOST[:PORT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        is_v6 = value.count(":") > 1 and not value.startswith("[")
        bare = is_v6 or ":" not in value or value.endswith("]")
        try:
            return (value.strip("[]"), DISCOVERY_PORT) if bare else parse_endpoint(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Interface(click.ParamType):  # type: ignore[type-arg]  # as above
    """The name of an interface of this machine."""

    name = "IFACE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in (name for _, name in socket.if_nameindex()):
            self.fail(f"{value!r}: no such interface; `ip link` shows what there is", param, ctx)
        return str(value)


def type_filters(kinds: tuple[str, ...]) -> tuple[Filter, ...]:
    """Return the filter for one resource type. Filters are ANDed (D5), so several types are chosen among here."""
    if len(kinds) != 1:
        return ()
    value = ResourceType[kinds[0].upper()].to_bytes(2, "big").ljust(32, b"\0")
    return (Filter(FilterField.RESOURCE_TYPE, FilterOp.EQ, value),)


def has_any(entry: NodeEntry, kinds: tuple[str, ...]) -> bool:
    """Whether a node has a resource of one of these types; of any, if none is named."""
    wanted = {ResourceType[kind.upper()] for kind in kinds}
    return not wanted or any(r.resource_type in wanted for r in entry.resources)


def ask(
    relays: tuple[tuple[str, int], ...], ifaces: tuple[str, ...], port: int, kinds: tuple[str, ...], timeout: float
) -> list[NodeEntry]:
    """Put the question and wait for the answers; see `transport.solicit`."""
    question = solicit(relays, ifaces=ifaces, port=port, filters=type_filters(kinds), timeout=timeout)
    return [entry for entry in asyncio.run(question) if has_any(entry, kinds)]


KINDS = tuple(kind.name.lower() for kind in ResourceType)


@click.command("solicit")
@click.option("--relay", "relays", type=Endpoint(), multiple=True, help="Relay or node to ask; repeatable.")
@click.option(
    "--discovery-iface", "ifaces", type=Interface(), multiple=True, help="Ask by multicast on this interface."
)
@click.option("--discovery-port", "port", type=click.IntRange(1, 65535), default=DISCOVERY_PORT, show_default=True)
@click.option("--type", "kinds", type=click.Choice(KINDS), multiple=True, help="Only nodes with this; repeatable.")
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one document.")
def solicit_command(
    relays: tuple[tuple[str, int], ...],
    ifaces: tuple[str, ...],
    port: int,
    kinds: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> int:
    """Print the nodes that answer, one a line: id, address, health, resources, verified or why not."""
    if not relays and not ifaces:
        raise click.UsageError("whom to ask? --relay HOST[:PORT] or --discovery-iface IFACE")
    try:
        entries = ask(relays, ifaces, port, kinds, timeout)
    except TimedOut as error:
        click.echo(f"fabricbiosd: {error}: is a relay running there?", err=True)
        return 4
    if as_json:
        nodes = [entry.to_json() for entry in entries]
        click.echo(json.dumps({"schema": "fabricbios.nodes/1", "nodes": nodes}, separators=(",", ":")))
    else:
        for entry in entries:
            click.echo(_line(entry))
    return 0


def _line(entry: NodeEntry) -> str:
    resources = " ".join(f"{r['type']}={r['available']}/{r['capacity']}" for r in entry.to_json()["resources"])
    health = "|".join(entry.to_json()["health"]) or "ok"
    return f"{hex128(entry.node_id)} {entry.endpoint} {health} {resources or '-'} {entry.flaw or 'verified'}"
