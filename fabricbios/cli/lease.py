"""`fabricbios lease KIND`: ask for a lease, and say how to use it; with --hold, keep it until interrupted."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Callable
from typing import Any

import click

from fabricbios.cli.output import EXIT_INTERRUPTED, document, duration, group_options, node_options, print_json, size
from fabricbios.cli.session import DEFAULT_NODE, Size, Time, resource_id, with_node
from fabricbios.client import Lease, Node, Wish
from fabricbios.client.reach import read_bindings
from fabricbios.errors import Disconnected
from fabricbios.model import Binding, DpAuth, ResourceType, Transport, hex128
from fabricbios.wire import Limits

SHORTENED = 60  # seconds by which clocks may differ: a lease that ends earlier was cut short by the node's policy
_LOOK = 0.5  # seconds between two looks at whether the lease still lives
_ENDINGS = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: 0, signal.SIGHUP: EXIT_INTERRUPTED}  # a terminal that goes
_LATE = 5.0  # seconds that a node may be late with its answer


@click.group()
@group_options
def lease() -> None:
    """Lease memory or block storage of the node of -H."""


def _common(bindings: tuple[str, ...]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        command = click.option("--hold", is_flag=True, help="Keep renewing until interrupted, then free.")(command)
        command = click.option(
            "--resource", default="0", metavar="ID", help="Which of the node's; it chooses by default."
        )(command)
        command = click.option("--binding", type=click.Choice(bindings), default=bindings[0], show_default=True)(
            command
        )
        command = click.option(
            "--dp-auth", type=click.Choice([a.label for a in DpAuth]), default=DpAuth.BLAKE2S_FULL.label,
            show_default=True, help="How datagrams are authenticated.",
        )(command)  # fmt: skip
        command = click.option(
            "--grace", type=Time(), default="0", metavar="TIME", help="Time to renew in after the end."
        )(command)
        command = click.option(
            "--ttl", type=Time(least=1), required=True, metavar="TIME", help="How long: 30s, 5m, 1h."
        )(command)
        return node_options(command)

    return decorate


@lease.command()
@click.option("--size", "wanted", type=Size(), required=True, metavar="SIZE", help="How much: 64M, 1GiB.")
@_common(("udp", "quic"))
@click.pass_context
def mem(ctx: click.Context, /, wanted: int, **options: Any) -> int:
    """Lease memory."""
    return _lease(ctx, ResourceType.MEM, wanted, **options)


@lease.command()
@click.option("--size", "wanted", type=Size(), required=True, metavar="SIZE", help="How much: 1G.")
@_common(("udp", "quic", "nvmeof"))
@click.pass_context
def block(ctx: click.Context, /, wanted: int, **options: Any) -> int:
    """Lease block storage."""
    return _lease(ctx, ResourceType.BLOCK, wanted, **options)


def _lease(
    ctx: click.Context, kind: ResourceType, wanted: int, ttl: int, grace: int, dp_auth: str, binding: str,
    resource: str, hold: bool, as_json: bool,
) -> int:  # fmt: skip
    wish = Wish(kind, wanted, ttl, grace, DpAuth.of(dp_auth), Binding[binding.upper()], resource_id(resource))
    whom = _as_typed(ctx)
    return with_node(ctx, lambda node: _held(node, wish, whom, as_json) if hold else _once(node, wish, whom, as_json))


def _as_typed(ctx: click.Context) -> str:
    """Return the options that another command needs to mean the same node as the same client."""
    said = ctx.find_root().obj
    typed = [] if said["host"] in (os.environ.get("FABRICBIOS_NODE"), DEFAULT_NODE) else ["-H", said["host"]]
    if said["identity"] not in (os.environ.get("FABRICBIOS_IDENTITY"), None):
        typed += ["--identity", said["identity"]]
    return shlex.join(["fabricbios", *typed])


async def _once(node: Node, wish: Wish, whom: str, as_json: bool) -> int:
    answer = await node.allocate(wish)
    _show(described(node, wish, answer.lease_id, answer.expires_at, answer.bindings), wish, whom, as_json)
    return 0


async def _held(node: Node, wish: Wish, whom: str, as_json: bool) -> int:
    """Renew until a signal says enough; then the lease is freed. A lease that ends by itself is a failure.

    Return the exit code: as every command that somebody interrupts, 130; 0 where SIGTERM asked for the end.
    """
    enough, told = asyncio.Event(), [0]

    def end(code: int) -> None:
        told[0] = code
        enough.set()

    for number, code in _ENDINGS.items():
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) means it
            asyncio.get_running_loop().add_signal_handler(number, end, code)
    async with Lease(node, wish) as held:
        _show(described(node, wish, held.lease_id, held.expires_at, held.bindings), wish, whom, as_json)
        if not as_json:
            click.echo("holding it; Ctrl-C frees it", err=True)
        await _until(enough, held)
        if held.over is not None:
            raise held.over
    return told[0]


async def _until(enough: asyncio.Event, held: Lease) -> None:
    """Wait until somebody says enough, or the lease is over. Disconnected when it must be, and nobody can tell."""
    loop = asyncio.get_running_loop()
    patience = held.wish.ttl + held.wish.grace + _LATE
    ends, renewed = held.expires_at, loop.time()
    while not enough.is_set() and held.over is None:
        try:
            await asyncio.wait_for(enough.wait(), _LOOK)
        except TimeoutError:
            if held.expires_at != ends:
                ends, renewed = held.expires_at, loop.time()
            if loop.time() > renewed + patience:
                raise Disconnected("the node does not answer any more, and the lease is over by now") from None


def described(node: Node, wish: Wish, lease_id: int, expires_at: int, tlvs: tuple[Any, ...]) -> dict[str, Any]:
    """Return the document about a new lease, without its key: `read`, `write` and `attach` get one of their own."""
    found = read_bindings(tlvs, node.host)
    granted = next((tlv.len for tlv in tlvs if isinstance(tlv, Limits)), wish.size)
    return document(
        "lease",
        lease_id=hex128(lease_id),
        node_id=hex128(node.node_id),
        kind=wish.kind.name.lower(),
        size=granted,
        binding=wish.binding.name.lower() if wish.binding is not None else None,
        dp_auth=found.dp_auth.label if found.dp_key else None,
        generation=found.generation,
        expires_at=expires_at,
        endpoints=[_endpoint(reach) for reach in found.reaches],
    )


def _endpoint(reach: Any) -> dict[str, Any]:
    return {
        "transport": Transport(reach.transport).name.lower(),
        "addr": reach.host,
        "port": reach.port,
        "max_read": reach.max_read,
        "max_write": reach.max_write,
    }


def _show(doc: dict[str, Any], wish: Wish, whom: str, as_json: bool) -> None:
    if as_json:
        print_json(doc)
        return
    left = doc["expires_at"] - time.time()
    shortened = f" (not {duration(wish.ttl)}: the node grants no more)" if left < wish.ttl - SHORTENED else ""
    click.echo(f"{doc['lease_id']}  {doc['kind']}  {size(doc['size'])}  ends in {duration(max(0, left))}{shortened}")
    for e in doc["endpoints"]:
        auth = f", authenticated with {doc['dp_auth']}" if doc["dp_auth"] else ""
        click.echo(f"  {e['transport']} at {e['addr']} port {e['port']}{auth}")
    click.echo(f"  use it: {_how_to_use(wish, whom, doc['lease_id'][2:8])}")


def _how_to_use(wish: Wish, whom: str, short: str) -> str:
    if wish.binding == Binding.NVMEOF:
        return f"{whom} attach {short}"
    way = "" if wish.binding == Binding.UDP else " --binding quic"
    return f"{whom} write {short}{way} < FILE;  {whom} read {short}{way} --length SIZE > FILE"
