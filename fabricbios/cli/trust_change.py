"""What every change of trust has in common: where it is written, and how it is told."""

from __future__ import annotations

from pathlib import Path

import click

from fabricbios.cli.output import document, print_json
from fabricbios.daemon.settings import BY_KEY
from fabricbios.model import hex128, id_of_key
from fabricbios.transport import trustdir

RELOAD = "A running daemon takes it over on SIGHUP (systemctl reload fabricbiosd)."

trust_dir_option = click.option(
    "--trust-dir", type=click.Path(path_type=Path), default=BY_KEY["trust_dir"].default, show_default=True
)


def save_key(trust_dir: Path, kind: str, action: str, public_key: bytes, as_json: bool) -> None:
    """Write a key into the trust directory and say so."""
    path = trustdir.save(trust_dir, kind, public_key)
    print_change(action, as_json, RELOAD, node_id=hex128(id_of_key(public_key)), paths=[str(path)])


def print_change(action: str, as_json: bool, hint: str = "", *, node_id: str, paths: list[str]) -> None:
    """Tell what was changed, whose key it is about, and which files were written or removed."""
    if as_json:
        print_json(document("trust-change", action=action, node_id=node_id, paths=paths))
        return
    for path in paths:
        click.echo(f"{action}: {node_id}  {path}")
    if hint:
        click.echo(hint)
