"""`fabricbios attach` and `detach`: a leased disk of another machine as a block device of this one."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import click

from fabricbios.cli.output import document, json_option, node_options, print_json
from fabricbios.cli.session import Time, find_lease, with_node
from fabricbios.client import Lease, Node, Wish
from fabricbios.daemon import attach as kernel
from fabricbios.errors import ConfigError, Disconnected
from fabricbios.model import Binding, ResourceType, hex128

_LOOK = 0.5  # seconds between two looks at whether the lease still lives


@click.command()
@click.argument("lease_id", metavar="ID")
@click.option("--hold", is_flag=True, help="Keep renewing until interrupted, then detach.")
@click.option(
    "--ttl", type=Time(), default="5m", show_default=True, metavar="TIME", help="Of each renewal with --hold."
)
@click.option(
    "--loss-timeout",
    type=Time(),
    default=f"{kernel.LOSS_TIMEOUT}s",
    show_default=True,
    metavar="TIME",
    help="How long I/O waits for a node that has gone silent before it fails.",
)
@node_options
@click.pass_context
def attach(ctx: click.Context, lease_id: str, hold: bool, ttl: int, loss_timeout: int, as_json: bool) -> None:
    """Connect an NVMe-oF lease and print its block device; twice is as once.

    When the lease ends, or the node stays silent, I/O fails and the kernel takes the device away by itself half a
    minute later. A filesystem on it is yours to unmount before.
    """

    async def work(node: Node) -> None:
        found = await find_lease(node, lease_id)
        wish = Wish(ResourceType.BLOCK, 0, ttl, binding=Binding.NVMEOF, lease_id=found.lease_id)
        if hold:
            await _held(node, wish, loss_timeout, as_json)
        else:
            # Taking it up again would change the key, and with it end the connection there is.
            device = kernel.attached().get(found.lease_id) or await _attached_now(node, found.lease_id, loss_timeout)
            _show(found.lease_id, device, as_json)

    with_node(ctx, work)


async def _attached_now(node: Node, lease_id: int, loss_timeout: int) -> str:
    answer = await node.attach(lease_id)
    return await asyncio.to_thread(kernel.attach, answer.bindings, node.host, loss_timeout)


async def _held(node: Node, wish: Wish, loss_timeout: int, as_json: bool) -> None:
    """Renew until a signal says enough, or lease or disk are gone; then detach, and leave the lease to its end."""
    if wish.lease_id in kernel.attached():
        raise ConfigError("that lease is attached already: fabricbios detach first")
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    lease = await Lease(node, wish).open()
    try:
        _show(lease.lease_id, await asyncio.to_thread(kernel.attach, lease.bindings, node.host, loss_timeout), as_json)
        await _until_over(lease, enough)
    finally:
        try:
            await asyncio.to_thread(kernel.detach, wish.lease_id)
        finally:
            await lease.detach()  # last: what the kernel still had to write is written under a live lease
    if lease.over is not None:
        raise lease.over


async def _until_over(lease: Lease, enough: asyncio.Event) -> None:
    """Return when somebody has had enough or the lease is over; Disconnected where this kernel has lost the disk."""
    while not enough.is_set() and lease.over is None:
        if lease.lease_id not in kernel.attached():
            raise Disconnected("the disk is gone: its node was silent for too long, or somebody detached it")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), _LOOK)


def _show(lease_id: int, device: str, as_json: bool) -> None:
    if as_json:
        print_json(document("attachment", lease_id=hex128(lease_id), device=device, attached=True))
    else:
        click.echo(device)


@click.command()
@click.argument("lease_id", metavar="ID")
@json_option
def detach(lease_id: str, as_json: bool) -> None:
    """Disconnect a lease from this machine's kernel. The node is not asked: it may be gone."""
    which = _attached_lease(lease_id)
    kernel.detach(which)
    if as_json:
        print_json(document("attachment", lease_id=hex128(which), device=None, attached=False))
    else:
        click.echo(f"{hex128(which)} detached")


def _attached_lease(text: str) -> int:
    """Return the attached lease whose id begins with what was typed."""
    digits = text.lower().removeprefix("0x")
    found = [lease for lease in kernel.attached() if digits and f"{lease:032x}".startswith(digits)]
    if not found:
        raise ConfigError(f"no lease that begins with {text} is attached here")
    if len(found) > 1:
        raise ConfigError(f"{text} is ambiguous: {', '.join(map(hex128, found))}")
    return found[0]
