"""From -H and --identity to a connected node, and from what people type to ids."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fabricbios.cli.identity import identity_directory
from fabricbios.client import Identity, Node, connect
from fabricbios.errors import ConfigError, LeaseExpired, NotFound, Revoked
from fabricbios.model import CONTROL_PORT, LeaseStatus, ResourceType, Status, hex128
from fabricbios.wire import ActiveLease

T = TypeVar("T")


def node_address(text: str) -> tuple[str, int]:
    """Return (host, port) from HOST, HOST:PORT, V6 or [V6]:PORT. ConfigError else."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "?"  # HOST: names no port
    if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise ConfigError(f"-H {text!r} is not HOST or HOST:PORT")
    return host, int(port) if port else CONTROL_PORT


def with_node(ctx: click.Context, work: Callable[[Node], Awaitable[T]]) -> T:
    """Connect to the node of -H, do `work` with it, say goodbye; return what it returned."""
    host, port = node_address(ctx.find_root().obj["host"])

    directory = _usable(identity_directory(ctx))

    async def session() -> T:
        async with connect(host, port, identity=directory) as node:
            return await work(node)

    return asyncio.run(session())


def _usable(directory: Path) -> Path:
    """Return the identity's directory, with a key in it. ConfigError where none can be read or made."""
    try:
        Identity.load_or_create(directory)
    except OSError as e:
        raise ConfigError(f"identity {directory}: {e.strerror}: name a directory of yours with --identity") from None
    return directory


async def find_lease(node: Node, text: str) -> ActiveLease:
    """Return the one lease whose id begins with what was typed. NotFound, ConfigError if several do."""
    digits = text.lower().removeprefix("0x")
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        raise ConfigError(f"{text!r} is not a lease id, nor the beginning of one")
    found = [
        lease for lease in await node.list_active() if lease.lease_id and f"{lease.lease_id:032x}".startswith(digits)
    ]
    if not found:
        if len(digits) == 32:
            await _say_how_it_ended(node, int(digits, 16))
        raise NotFound(Status.RESOURCE_NOT_FOUND, f"no live lease of yours begins with {text}")
    if len(found) > 1:
        raise ConfigError(f"{text} is ambiguous: {', '.join(hex128(lease.lease_id) for lease in found)}")
    return found[0]


async def _say_how_it_ended(node: Node, lease_id: int) -> None:
    """Raise LeaseExpired or Revoked for a lease that the node still remembers, NotFound else."""
    past = await node.query(lease_id)
    if past.lease_status == LeaseStatus.REVOKED:
        raise Revoked(Status.LEASE_EXPIRED, "that lease was freed, or taken back by the node")
    if past.lease_status == LeaseStatus.EXPIRED:
        raise LeaseExpired(Status.LEASE_EXPIRED, "that lease is over")


async def find_lease_id(node: Node, text: str) -> int:
    """Return a lease id: a whole one as it is, so that others' leases can be named; else as find_lease."""
    digits = text.lower().removeprefix("0x")
    if len(digits) == 32 and not set(digits) - set("0123456789abcdef"):
        return int(digits, 16)
    return (await find_lease(node, text)).lease_id


async def kinds_by_resource(node: Node) -> dict[int, ResourceType]:
    """Return which kind each of the node's resources is."""
    known = set(ResourceType)
    return {r.resource_id: ResourceType(r.resource_type) for r in await node.inventory() if r.resource_type in known}


class Size(click.ParamType[int]):
    """64M, 1GiB, 4096."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from fabricbios.daemon.settings import parse_size

        return _parsed(self, parse_size, value, param, ctx)


class Time(click.ParamType[int]):
    """30s, 5m, 1h; whole seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from fabricbios.daemon.settings import parse_duration

        return _parsed(self, parse_duration, value, param, ctx)


def _parsed(
    kind: click.ParamType[int], parse: Callable[[Any], int], value: Any, param: Any, ctx: click.Context | None
) -> int:
    try:
        number = parse(value)
    except ValueError as e:
        kind.fail(str(e), param, ctx)
    return number
