"""`fabricbios unfence`: have a node try again what it could not take down, and lease the resource again."""

from __future__ import annotations

import click

from fabricbios.cli.output import document, node_options, print_json
from fabricbios.cli.session import with_node
from fabricbios.client import Node
from fabricbios.errors import ConfigError, NotFound
from fabricbios.model import ResourceFlags, Status, hex128


@click.command()
@click.argument("resource_id", metavar="RESOURCE")
@node_options
@click.pass_context
def unfence(ctx: click.Context, resource_id: str, as_json: bool) -> None:
    """Clear the fence of a resource whose teardown had failed; takes the right ADMIN.

    Mend first what broke it (a disk that is gone, a file that was cut short): the node tries the failed step again,
    and the fence stays if it fails again. Ids stand in `fabricbios status`, and may be shortened.
    """

    async def work(node: Node) -> int:
        which = await _fenced_resource(node, resource_id)
        await node.fence_clear(which)
        return which

    which = with_node(ctx, work)
    if as_json:
        print_json(document("unfenced", resource_id=hex128(which)))
    else:
        click.echo(f"{hex128(which)} is leased again")


async def _fenced_resource(node: Node, text: str) -> int:
    """Return the one fenced resource whose id begins with what was typed. NotFound, ConfigError if several do."""
    digits = text.lower().removeprefix("0x")
    fenced = [r.resource_id for r in await node.inventory() if r.flags & ResourceFlags.FENCED]
    found = [resource for resource in fenced if digits and f"{resource:032x}".startswith(digits)]
    if not found:
        raise NotFound(Status.RESOURCE_NOT_FOUND, f"no fenced resource there begins with {text}")
    if len(found) > 1:
        raise ConfigError(f"{text} is ambiguous: {', '.join(map(hex128, found))}")
    return found[0]
