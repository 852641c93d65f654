"""From -H and --identity to a connected node, and from what people type to ids."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from fabricbios.cli.identity import identity_directory, usable
from fabricbios.client import Node, connect
from fabricbios.errors import ConfigError, LeaseExpired, NotFound, Revoked
from fabricbios.model import CONTROL_PORT, LeaseStatus, ResourceType, Status, hex128
from fabricbios.wire import ActiveLease

T = TypeVar("T")
DEFAULT_NODE = f"127.0.0.1:{CONTROL_PORT}"
MAX_U32, MAX_U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_HEX = frozenset("0123456789abcdef")
_LONGEST_NUMBER = 40  # characters


def node_address(text: str) -> tuple[str, int]:
    """Return (host, port) from HOST, HOST:PORT, V6 or [V6]:PORT. ConfigError else."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        port = "?" if not bracket or port[:1] not in ("", ":") else port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "?"  # HOST: names no port
    if not is_host(host) or (port and not is_port(port)):
        raise ConfigError(f"-H {text!r} is not HOST or HOST:PORT")
    return host, int(port) if port else CONTROL_PORT


def is_host(text: str) -> bool:
    """False for what no resolver can be asked: nothing, labels that are empty or too long, bytes that are no text."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def is_port(text: str) -> bool:
    """True for a number from 1 to 65535."""
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def with_node(ctx: click.Context, work: Callable[[Node], Awaitable[T]]) -> T:
    """Connect to the node of -H, do `work` with it, say goodbye; return what it returned."""
    host, port = node_address(ctx.find_root().obj["host"])

    directory = usable(identity_directory(ctx))

    async def session() -> T:
        async with connect(host, port, identity=directory) as node:
            return await work(node)

    return asyncio.run(session())


async def find_lease(node: Node, text: str) -> ActiveLease:
    """Return the one lease whose id begins with what was typed. NotFound, ConfigError if several do."""
    digits = text.lower().removeprefix("0x").rstrip("…")  # as a narrow table shows it
    if not digits or len(digits) > 32 or set(digits) - _HEX:
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
    if len(digits) == 32 and not set(digits) - _HEX:
        return int(digits, 16)
    return (await find_lease(node, text)).lease_id


def resource_id(text: str) -> int:
    """Return the id of --resource, zero to let the node choose. UsageError where it is none."""
    digits = text.lower().removeprefix("0x")
    if not digits or len(digits) > 32 or set(digits) - _HEX:
        raise click.UsageError(f"--resource {text[:60]!r} is not a resource id; `fabricbios status` shows them")
    return int(digits, 16)


async def kinds_by_resource(node: Node) -> dict[int, ResourceType]:
    """Return which kind each of the node's resources is."""
    known = set(ResourceType)
    return {r.resource_id: ResourceType(r.resource_type) for r in await node.inventory() if r.resource_type in known}


class Size(click.ParamType[int]):
    """64M, 1GiB, 4096."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from fabricbios.daemon.settings import parse_size

        return _parsed(self, parse_size, range(MAX_U64 + 1), value, param, ctx)


class Time(click.ParamType[int]):
    """30s, 5m, 1h; whole seconds, `least` of them or more."""

    name = "time"

    def __init__(self, least: int = 0) -> None:
        self._bounds = range(least, MAX_U32 + 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from fabricbios.daemon.settings import parse_duration

        return _parsed(self, parse_duration, self._bounds, value, param, ctx)


def _parsed(
    kind: click.ParamType[int], parse: Callable[[Any], int], bounds: range, value: Any, param: Any, ctx: Any
) -> int:
    """Return the number, which the wire has room for; else say so as click does."""
    if len(str(value)) > _LONGEST_NUMBER:
        kind.fail(f"{str(value)[:_LONGEST_NUMBER]}... is too long", param, ctx)
    try:
        number = parse(value)
    except ValueError as e:
        kind.fail(str(e), param, ctx)
    if number not in bounds:
        kind.fail(f"{value} is too {'much' if number >= bounds.stop else 'little'}", param, ctx)
    return number
