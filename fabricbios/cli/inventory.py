"""`fabricbios inventory`: this machine's hardware, as tables by kind or as one document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
from click.core import ParameterSource

from fabricbios.cli.output import json_option, print_json, print_table, size
from fabricbios.daemon.inventory import local_inventory

Row = tuple[str, ...]


@click.command()
@json_option
@click.pass_context
def inventory(ctx: click.Context, as_json: bool) -> None:
    """Show this machine's hardware. Nothing of it is leased unless the node's configuration names it.

    What another node offers for lease is shown by `fabricbios status -H HOST`.
    """
    root = ctx.find_root()
    if "host" in root.params and root.get_parameter_source("host") is ParameterSource.COMMANDLINE:
        raise click.UsageError("inventory looks at this machine; for a node's resources: fabricbios status -H HOST")
    found = local_inventory()
    if as_json:
        print_json(found)
        return
    for title, columns, rows in KINDS:
        listed = list(rows(found))
        if listed:
            print_table(columns, listed, title=f"\n{title}")
    for path, why in found["unreadable"].items():
        click.echo(f"not readable: {path}: {why}", err=True)


def _machine(found: dict[str, Any]) -> Iterator[Row]:
    m = found["machine"]
    for label, value in (
        ("name", m["hostname"]),
        ("hardware", f"{m['vendor']} {m['product']}".strip()),
        ("firmware", m["firmware"]),
        ("kernel", f"{m['kernel']} {m['architecture']}".strip()),
        ("virtual", " in ".join(filter(None, (m["container"], m["virtualization"])))),
        ("boot", m["boot_id"]),
    ):
        if value:
            yield label, value


def _cpu(found: dict[str, Any]) -> Iterator[Row]:
    c = found["cpu"]
    mhz = f"{c['max_khz'] // 1000}" if c["max_khz"] else ""
    yield c["model"], str(c["physical"] or "?"), str(c["logical"]), _yes(c["smt"]), str(c["nodes"]), mhz


def _memory(found: dict[str, Any]) -> Iterator[Row]:
    m = found["memory"]
    yield "total", _size(m["total"]), f"{_size(m['available'])} available"
    for node in m["nodes"]:
        yield f"NUMA node {node['node']}", _size(node["total"]), f"{_size(node['free'])} free"
    for pool in m["hugepages"]:
        total = pool["total"] * pool["page_bytes"]
        yield f"hugepages of {size(pool['page_bytes'])}", _size(total), f"{pool['free']} of {pool['total']} free"


def _block(found: dict[str, Any]) -> Iterator[Row]:
    for b in found["block"]:
        marks = b["signatures"]
        holds = "unknown" if marks is None else ", ".join(marks) or "blank"
        use = "; ".join(b["in_use"]) or "no"
        yield b["path"], _size(b["size"]), b["kind"], b["model"], str(b["physical_block"]), use, holds, b["name"]


def _nvme(found: dict[str, Any]) -> Iterator[Row]:
    for n in found["nvme"]:
        yield (
            n["kernel_name"],
            n["model"],
            n["firmware"],
            n["transport"],
            n["state"],
            " ".join(n["namespaces"]),
            n["name"],
        )


def _net(found: dict[str, Any]) -> Iterator[Row]:
    for n in found["net"]:
        speed = f"{n['bits_per_second'] // 1_000_000} Mbit/s" if n["bits_per_second"] else ""
        vfs = f"{n['sriov_active'] or 0}/{n['sriov_total']}" if n["sriov_total"] else ""
        yield (
            n["interface"],
            n["kind"],
            n["driver"],
            n["operstate"],
            speed,
            str(n["mtu"] or ""),
            n["mac"],
            vfs,
            n["name"],
        )


def _gpu(found: dict[str, Any]) -> Iterator[Row]:
    for g in found["gpu"]:
        vram = f"{size(g['vram'])} ({g['vram_source']})" if g["vram"] else ""
        device = f"{g['vendor_id']:04x}:{g['device_id']:04x}" if g["vendor_id"] is not None else ""
        yield g["name"], g["vendor"], g["model"] or device, g["driver"], vram, " ".join(g["render_nodes"])


def _pci(found: dict[str, Any]) -> Iterator[Row]:
    for p in found["pci"]:
        yield (
            p["name"],
            f"{p['pci_class']:06x}",
            f"{p['vendor_id']:04x}:{p['device_id']:04x}",
            p["driver"],
            p["iommu_group"],
        )


def _thermal(found: dict[str, Any]) -> Iterator[Row]:
    t = found["thermal"]
    for zone in t["zones"]:
        yield zone["name"], zone["kind"], _celsius(zone["temp_milli_c"])
    for sensor in t["sensors"]:
        yield (
            sensor["name"],
            " ".join(filter(None, (sensor["chip"], sensor["label"]))),
            _celsius(sensor["temp_milli_c"]),
        )
    if t["throttled"] is not None:
        yield "throttled", "", _yes(t["throttled"])


def _yes(value: bool | None) -> str:
    return "?" if value is None else "yes" if value else "no"


def _size(value: int | None) -> str:
    return "?" if value is None else size(value)


def _celsius(value: int | None) -> str:
    return "?" if value is None else f"{value / 1000:.1f} °C"


KINDS: tuple[tuple[str, Row, Callable[[dict[str, Any]], Iterator[Row]]], ...] = (
    ("Machine", ("", ""), _machine),
    ("CPU", ("model", ">cores", ">threads", "SMT", ">nodes", ">MHz"), _cpu),
    ("Memory", ("", ">size", ""), _memory),
    ("Block", ("device", ">size", "kind", "model", ">block", "in use", "holds", "hardware name"), _block),
    ("NVMe", ("controller", "model", "firmware", "transport", "state", "namespaces", "hardware name"), _nvme),
    ("Network", ("interface", "kind", "driver", "state", "speed", ">MTU", "MAC", "VFs", "hardware name"), _net),
    ("GPU", ("hardware name", "vendor", "model", "driver", "memory", "render nodes"), _gpu),
    ("PCI", ("address", "class", "device", "driver", "IOMMU group"), _pci),
    ("Thermal", ("sensor", "kind", ">temperature"), _thermal),
)
