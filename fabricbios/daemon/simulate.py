"""`fabricbiosd simulate`: a whole fleet in this process, without hardware or network, that one seed replays."""

from __future__ import annotations

import json

import click

_PART = click.FloatRange(0, 1)
MAX_NODES, MAX_SECONDS = 1000, 86_400


@click.command()
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, MAX_SECONDS), default=60.0, show_default=True, help="Simulated.")
@click.option("--seed", type=int, default=0, show_default=True, help="One seed gives one course of events.")
@click.option("--loss", type=_PART, default=0.05, show_default=True, help="Part of the datagrams that are lost.")
@click.option("--failures", type=_PART, default=0.05, show_default=True,
              help="Part of the drivers' steps that fail; with 0 nothing crashes either.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one document.")
def simulate(nodes: int, seconds: float, seed: int, loss: float, failures: float, as_json: bool) -> int:
    """Run real node cores under one simulated clock; check what must hold all the while; say what happened.

    Exits with 1, and says how to see it again, when something that must hold does not.
    """
    from fabricbios.simulation import Broken, Fleet, Settings, to_json

    settings = Settings(nodes, seconds, seed, loss, failures)
    try:
        summary = Fleet(settings).run()
    except Broken as e:
        again = f"--nodes {nodes} --seconds {seconds:g} --seed {seed} --loss {loss:g} --failures {failures:g}"
        click.echo(f"fabricbiosd: {e}: replay it with simulate {again}", err=True)
        return 1
    if as_json:
        click.echo(json.dumps(to_json(summary), separators=(",", ":")))
        return 0
    for part in ("leases", "crashes", "wire", "discovery"):
        told = ", ".join(f"{name.replace('_', ' ')} {n:g}" for name, n in getattr(summary, part).items())
        click.echo(f"{part:10} {told}")
    click.echo(f"effects    failed {summary.effects_failed}\nevents     {summary.events}\ndigest     {summary.digest}")
    return 0
