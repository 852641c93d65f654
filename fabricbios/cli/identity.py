"""`fabricbios identity`: this client's key, made on first use, and what to give to a node's admin."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from fabricbios.cli.output import document, node_options, print_json
from fabricbios.errors import ConfigError, WireError
from fabricbios.model import hex128
from fabricbios.transport.identity import KEY_FILE, Identity
from fabricbios.wire.certificate import Certificate


def identity_directory(ctx: click.Context) -> Path:
    """Return where the client's key is: --identity, FABRICBIOS_IDENTITY, or $XDG_CONFIG_HOME/fabricbios."""
    named = ctx.find_root().ensure_object(dict).get("identity")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "fabricbios"


def usable(directory: Path) -> Path:
    """Return the identity's directory, with a key in it. ConfigError where none can be read or made."""
    try:
        Identity.load_or_create(directory)
    except OSError as e:
        raise ConfigError(f"identity {directory}: {e.strerror}: name a directory of yours with --identity") from None
    return directory


@click.group(invoke_without_command=True)
@node_options
@click.pass_context
def identity(ctx: click.Context, as_json: bool) -> None:
    """Show this client's key and id; the key is made on first use."""
    ctx.obj["as_json"] = as_json
    if ctx.invoked_subcommand is None:
        _show(identity_directory(ctx), as_json)


@identity.command()
@node_options
@click.pass_context
def show(ctx: click.Context, as_json: bool) -> None:
    """Show the key and id."""
    _show(identity_directory(ctx), as_json or ctx.obj["as_json"])


@identity.command()
@click.option("--force", is_flag=True, help="Put a new key in the place of the old one, which is kept as node.key.old.")
@node_options
@click.pass_context
def new(ctx: click.Context, force: bool, as_json: bool) -> None:
    """Make a key. Nodes that trust the old one do not know the new one."""
    directory = identity_directory(ctx)
    path = directory / KEY_FILE
    if path.exists():
        if not force:
            raise ConfigError(f"{path} is there already: --force puts a new key in its place")
        path.rename(path.with_name(f"{KEY_FILE}.old"))
    _show(directory, as_json or ctx.obj["as_json"])


def _show(directory: Path, as_json: bool) -> None:
    who = Identity.load_or_create(usable(directory))
    if as_json:
        pem = who.public_pem().decode()
        certificate = _certificate(who)
        print_json(
            document(
                "identity",
                node_id=hex128(who.node_id),
                public_key=who.public_key.hex(),
                pem=pem,
                directory=str(directory),
                certificate=certificate,
            )
        )
        return
    click.echo(f"id          {hex128(who.node_id)}\nkey         {who.public_key.hex()}\ndirectory   {directory}")
    certificate = _certificate(who)
    if certificate:
        state = "holds until" if certificate["in_its_dates"] else "was or will be good: ends"
        click.echo(f"certificate {state} {_date(certificate['expires_at'])}, by {certificate['issuer']}")
    click.echo(f"\nTo be trusted, on the node: fabricbios trust pin {who.public_key.hex()}")


def _certificate(who: Identity) -> dict[str, Any] | None:
    """Return the fabricBIOS Certificate beside the key, None if there is none; ConfigError if it is none."""
    if not who.certificate:
        return None
    try:
        found = Certificate.unpack(who.certificate)
    except WireError as error:
        raise ConfigError(f"the certificate beside the key cannot be read: {error}: issue a new one") from None
    return {
        "subject": hex128(found.subject),
        "issuer": hex128(found.issuer),
        "issued_at": found.issued_at,
        "expires_at": found.expires_at,
        "in_its_dates": found.in_its_dates(int(time.time())),
    }


def _date(unix: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))
