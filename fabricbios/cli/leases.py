"""Leases that are there: list, renew, free, revoke, follow."""

from __future__ import annotations

import time
from typing import Any

import click

from fabricbios.cli.output import document, duration, node_options, print_json, print_table, size
from fabricbios.cli.session import Time, find_lease_id, kinds_by_resource, with_node
from fabricbios.client import Node
from fabricbios.errors import NotFound
from fabricbios.model import LeaseEventKind, ResourceType, RevokeOutcome, Status, hex128
from fabricbios.wire import Generation

_COUNTED_IN_BYTES = (ResourceType.MEM, ResourceType.BLOCK, ResourceType.GPU)


@click.command()
@click.option("--admin", is_flag=True, help="Show whose the others are; wants ADMIN.")
@node_options
@click.pass_context
def leases(ctx: click.Context, admin: bool, as_json: bool) -> None:
    """List the node's live leases; ids of others are hidden without --admin."""

    async def work(node: Node) -> list[dict[str, Any]]:
        kinds = await kinds_by_resource(node)
        return [
            {
                "lease_id": hex128(lease.lease_id) if lease.lease_id else None,
                "resource_id": hex128(lease.resource_id),
                "kind": kinds[lease.resource_id].name.lower() if lease.resource_id in kinds else None,
                "holder": hex128(lease.holder) if lease.holder else None,
                "size": lease.alloc_bytes,
                "expires_at": lease.expires_at,
            }
            for lease in await node.list_active(admin=admin)
        ]

    listed = with_node(ctx, work)
    if as_json:
        print_json(document("leases", leases=listed))
        return
    rows = [
        (
            item["lease_id"] or "another's",
            item["kind"] or "?",
            _amount(item["kind"], item["size"]),
            duration(max(0, item["expires_at"] - time.time())),
            item["holder"] or "",
        )
        for item in listed
    ]
    print_table(("=lease", "kind", ">size", ">ends in", "holder"), rows, empty="no live leases")


def _amount(kind: str | None, count: int) -> str:
    return size(count) if kind and ResourceType[kind.upper()] in _COUNTED_IN_BYTES else str(count)


@click.command()
@click.argument("lease_id", metavar="ID")
@click.option("--ttl", type=Time(least=1), required=True, metavar="TIME", help="From now; never shortens.")
@node_options
@click.pass_context
def renew(ctx: click.Context, lease_id: str, ttl: int, as_json: bool) -> None:
    """Make a lease last until TIME from now."""

    async def work(node: Node) -> dict[str, Any]:
        which = await find_lease_id(node, lease_id)
        result = await node.renew(which, ttl)
        generation = next((t.generation for t in result.bindings if isinstance(t, Generation)), 0)
        return document("renewal", lease_id=hex128(which), expires_at=result.expires_at, generation=generation)

    done = with_node(ctx, work)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{done['lease_id']} ends in {duration(max(0, done['expires_at'] - time.time()))}")


@click.command()
@click.argument("lease_id", metavar="ID")
@node_options
@click.pass_context
def free(ctx: click.Context, lease_id: str, as_json: bool) -> None:
    """Give a lease back; its data is gone."""

    async def work(node: Node) -> int:
        which = await find_lease_id(node, lease_id)
        await node.free(which)
        return which

    which = with_node(ctx, work)
    if as_json:
        print_json(document("freed", lease_id=hex128(which)))
    else:
        click.echo(f"{hex128(which)} freed")


_TOLD = {
    RevokeOutcome.TORN_DOWN: "torn down",
    RevokeOutcome.SCHEDULED: "its holder is warned; it ends with the grace",
    RevokeOutcome.FENCED: "could not be torn down: its resource is fenced",
}


@click.command()
@click.argument("lease_id", metavar="ID")
@click.option("--grace", type=Time(), default="0", metavar="TIME", help="Warn the holder and wait this long.")
@node_options
@click.pass_context
def revoke(ctx: click.Context, lease_id: str, grace: int, as_json: bool) -> int:
    """Take a lease away from its holder."""

    async def work(node: Node) -> tuple[int, RevokeOutcome]:
        which = await find_lease_id(node, lease_id)
        outcome = await node.revoke(which, grace)
        if outcome == RevokeOutcome.NOT_FOUND:
            raise NotFound(Status.RESOURCE_NOT_FOUND, "no such lease")
        return which, outcome

    which, outcome = with_node(ctx, work)
    if as_json:
        print_json(document("revocation", lease_id=hex128(which), outcome=outcome.name.lower()))
    else:
        click.echo(f"{hex128(which)}: {_TOLD[outcome]}")
    return 0 if outcome in (RevokeOutcome.TORN_DOWN, RevokeOutcome.SCHEDULED) else 1


@click.command()
@node_options
@click.pass_context
def watch(ctx: click.Context, as_json: bool) -> None:
    """Follow what happens to your leases, until interrupted; with --json one object a line."""

    async def work(node: Node) -> None:
        async for event in node.events():
            name = LeaseEventKind(event.event).name.lower()
            if as_json:
                print_json(document("event", lease_id=hex128(event.lease_id), event=name, at=event.at))
            else:
                at = time.strftime("%H:%M:%S", time.localtime(event.at))
                click.echo(f"{at}  {hex128(event.lease_id)}  {name.replace('_', ' ')}")

    with_node(ctx, work)
