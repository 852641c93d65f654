"""`fabricbios status`: one node at a glance."""

from __future__ import annotations

from typing import Any

import click

from fabricbios.cli.output import document, duration, node_options, print_json, print_table, size
from fabricbios.cli.session import with_node
from fabricbios.client import Node
from fabricbios.errors import InsufficientPermission
from fabricbios.model import ResourceFlags, ResourceType, hex128
from fabricbios.wire import ResourceSummary, Tlv

_IN_BYTES = (ResourceType.MEM, ResourceType.BLOCK, ResourceType.GPU)


@click.command()
@node_options
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show a node's identity, data paths, capacity and leases."""
    doc = with_node(ctx, _ask)
    if as_json:
        print_json(doc)
    else:
        _show(doc)


async def _ask(node: Node) -> dict[str, Any]:
    uptime = await node.ping()
    doc = document("status", node_id=hex128(node.node_id), address=f"{node.host}:{node.port}", uptime_secs=uptime)
    try:
        build = await node.build_info()
    except InsufficientPermission:
        return {**doc, "trusted": False}
    leases = await node.list_active()
    return {
        **doc,
        "trusted": True,
        "build": {key: value for key, value in build.items() if not key.startswith(("path.", "store."))},
        "paths": {key.removeprefix("path."): value for key, value in build.items() if key.startswith("path.")},
        "stores": {key.removeprefix("store."): value for key, value in build.items() if key.startswith("store.")},
        "resources": [_resource(r) for r in await node.inventory()],
        "leases": {"all": len(leases), "yours": sum(1 for lease in leases if lease.lease_id)},
        "thermal": {tlv.NAME: tlv[0] for tlv in await node.thermal() if isinstance(tlv, Tlv)},
    }


def _resource(r: ResourceSummary) -> dict[str, Any]:
    known = r.resource_type in set(ResourceType)
    return {
        "resource_id": hex128(r.resource_id),
        "kind": ResourceType(r.resource_type).name.lower() if known else f"0x{r.resource_type:04x}",
        "capacity": r.capacity,
        "available": r.available,
        "flags": [flag.name.lower() for flag in ResourceFlags if r.flags & flag and flag.name],
    }


def _show(doc: dict[str, Any]) -> None:
    click.echo(f"node      {doc['node_id']} at {doc['address']}, up {duration(doc['uptime_secs'])}")
    if not doc["trusted"]:
        click.echo(
            "trust     it does not trust this client: on the node, fabricbios trust pin KEY (see fabricbios identity)"
        )
        return
    click.echo("software  " + ", ".join(f"{key} {value}" for key, value in doc["build"].items()))
    for plane, how in doc["paths"].items():
        click.echo(f"{plane:9} {how}")
    for how in doc["stores"].values():
        click.echo(f"store     {how}")
    for name, value in doc["thermal"].items():
        if name.endswith("temp_milli_c"):
            click.echo(f"{name.split('_')[0]:9} {value / 1000:.1f} °C")
    click.echo(f"leases    {doc['leases']['all']}, of them yours {doc['leases']['yours']}")
    rows = [
        (r["resource_id"], r["kind"], _amount(r, "available"), _amount(r, "capacity"), " ".join(r["flags"]))
        for r in doc["resources"]
    ]
    print_table(
        ("=resource", "kind", ">free", ">of", ""), rows, empty="it leases nothing: fabricbiosd node --mem-capacity"
    )


def _amount(resource: dict[str, Any], which: str) -> str:
    in_bytes = resource["kind"] in {kind.name.lower() for kind in _IN_BYTES}
    return size(resource[which]) if in_bytes else str(resource[which])
