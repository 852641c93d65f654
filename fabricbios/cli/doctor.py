"""`fabricbios doctor`: what this machine can do, and what to do about the rest."""

from __future__ import annotations

import click

from fabricbios.cli.output import EXIT_LACKING, document, json_option, print_json, print_table
from fabricbios.daemon.doctor import diagnose, facilities


def _known(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    unknown = set(value) - set(facilities())
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(facilities())}")
    return frozenset(value)


@click.command()
@click.option("--need", multiple=True, metavar="NAME", callback=_known, help="Count this one as required. Repeatable.")
@json_option
def doctor(need: frozenset[str], as_json: bool) -> int:
    """Try everything a node can make use of; exit with 5 if something required is missing."""
    probes = diagnose(needed=need)
    missing = [p["name"] for p in probes if p["required"] and not p["ok"]]
    if as_json:
        print_json(document("doctor", ok=not missing, missing=missing, probes=probes))
    else:
        rows = [(p["name"], _verdict(p["ok"], p["required"]), p["found"], p["serves"], p["remedy"]) for p in probes]
        print_table(("facility", "", "found", "serves", "remedy"), rows)
        click.echo(f"\nmissing: {', '.join(missing)}" if missing else "\na node can run here")
    return EXIT_LACKING if missing else 0


def _verdict(ok: bool, required: bool) -> str:
    if ok:
        return "yes"
    return "MISSING" if required else "no"
