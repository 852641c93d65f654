"""`fabricbios trust`: whom a node on this machine trusts, and the controller that vouches for many.

Works on the trust directory, whose changes a running daemon takes over on SIGHUP.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fabricbios.cli.enrolment import approve, enroll, pending
from fabricbios.cli.identity import identity_directory
from fabricbios.cli.output import document, group_options, node_options, print_json, print_table
from fabricbios.cli.trust_change import RELOAD, print_change, save_key, trust_dir_option
from fabricbios.client import known_nodes
from fabricbios.daemon.settings import BY_KEY, parse_endpoint
from fabricbios.errors import ConfigError
from fabricbios.model import hex128, id_of_key
from fabricbios.ports import TrustedKeys
from fabricbios.transport import trustdir
from fabricbios.transport.files import replace
from fabricbios.transport.identity import CERTIFICATE_FILE, Identity
from fabricbios.wire.enrolment import issue as issue_certificate

FORGET = f"{RELOAD} Its connections are closed and its leases revoked then."
CONTROLLER = "controller"  # directory of the controller's key, beside the client's
_DAY = 86_400
_ID = re.compile(r"(?:0x)?([0-9a-fA-F]{1,32})")

state_dir_option = click.option(
    "--state-dir", type=click.Path(path_type=Path), default=BY_KEY["state_dir"].default, show_default=True,
    help="The node's, for what it learned.",
)  # fmt: skip
ca_option = click.option(
    "--dir", "ca_dir", type=click.Path(path_type=Path), help="The controller's key; beside the client's by default."
)


@click.group()
@group_options
def trust() -> None:
    """Pin keys, forget them, and certify many with a controller's key."""


for _command in (pending, approve, enroll):
    trust.add_command(_command)


@trust.command()
@trust_dir_option
@state_dir_option
@node_options
def show(trust_dir: Path, state_dir: Path, as_json: bool) -> None:
    """Show whom the trust directories trust, and which of their files are broken."""
    keys = _trusted(trust_dir, state_dir)
    kinds = {"pinned": keys.peers, "learned": keys.learned, "controller": keys.controllers, "approved": keys.approved}
    if as_json:
        listed = {kind: _listed(found) for kind, found in kinds.items()}
        print_json(document("trust", trust_dir=str(trust_dir), **listed, broken=list(keys.broken)))
        return
    rows = [(kind, hex128(i), key.hex()) for kind, found in kinds.items() for i, key in found.items()]
    print_table(("kind", "id", "key"), rows, empty=f"{trust_dir} trusts nobody yet")
    for complaint in keys.broken:
        click.echo(f"broken: {complaint}: trusts nobody until it is mended or removed", err=True)


@trust.command()
@click.argument("key")
@click.option("--controller", is_flag=True, help="Trust everybody whom this key certifies.")
@trust_dir_option
@node_options
def pin(key: str, controller: bool, trust_dir: Path, as_json: bool) -> None:
    """Trust a key: a PEM file, or 64 hex digits as `fabricbios identity` shows them."""
    kind = trustdir.CONTROLLERS if controller else trustdir.PEERS
    save_key(trust_dir, kind, "pin", trustdir.read_key(key), as_json)


@trust.command()
@click.argument("who", metavar="ID|HOST:PORT")
@trust_dir_option
@state_dir_option
@node_options
@click.pass_context
def forget(ctx: click.Context, who: str, trust_dir: Path, state_dir: Path, as_json: bool) -> None:
    """Trust an id no more (it may be shortened), or forget the key that a node showed at HOST:PORT."""
    if ":" in who:
        _forget_node(identity_directory(ctx), who, as_json)
        return
    learned = state_dir / trustdir.LEARNED
    node_id = _one_id(who, _trusted(trust_dir, state_dir))
    places = [(trust_dir, kind) for kind in (trustdir.PEERS, trustdir.CONTROLLERS, trustdir.APPROVED)]
    gone = [path for place in [*places, (learned, trustdir.PEERS)] for path in trustdir.forget(*place, node_id)]
    print_change("forget", as_json, FORGET, node_id=hex128(node_id), paths=[str(path) for path in gone])


@trust.command("init-ca")
@ca_option
@node_options
@click.pass_context
def init_ca(ctx: click.Context, ca_dir: Path | None, as_json: bool) -> None:
    """Make a controller's key, or show the one that is there. Guard it: it vouches for everybody."""
    directory = ca_dir or identity_directory(ctx) / CONTROLLER
    controller = Identity.load_or_create(directory)
    public = directory / "controller.pem"
    replace(public, controller.public_pem())
    hint = f"On each node: fabricbios trust pin --controller {controller.public_key.hex()}"
    print_change("init-ca", as_json, hint, node_id=hex128(controller.node_id), paths=[str(public)])


@trust.command()
@click.argument("key", default="")
@click.option("--days", type=click.IntRange(1, 36_500), default=365, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it; for our own key, beside it.")
@ca_option
@trust_dir_option
@node_options
@click.pass_context
def issue(
    ctx: click.Context, key: str, days: int, out: Path | None, ca_dir: Path | None, trust_dir: Path, as_json: bool
) -> None:
    """Certify a key: our own by default, else a PEM file, 64 hex digits, or the id of a pinned or approved key."""
    directory = identity_directory(ctx)
    controller = _controller(ca_dir or directory / CONTROLLER)
    own = Identity.load_or_create(directory)
    public_key = _key_of(key, trust_dir) if key else own.public_key
    now = int(time.time())
    certificate = issue_certificate(controller.private_key, public_key, now, now + days * _DAY)
    is_own = public_key == own.public_key
    path = out or (directory / CERTIFICATE_FILE if is_own else Path(f"{hex128(certificate.subject)}.cert"))
    replace(path, certificate.pack())
    hint = "" if is_own else f"Put it beside that key, as {CERTIFICATE_FILE}."
    print_change("issue", as_json, hint, node_id=hex128(certificate.subject), paths=[str(path)])


def _trusted(trust_dir: Path, state_dir: Path) -> TrustedKeys:
    """Return what the node trusts: its own user, whose state directory it is, may own the files."""
    user = state_dir.stat().st_uid if state_dir.exists() else None
    return trustdir.load(trust_dir, state_dir / trustdir.LEARNED, user)


def _listed(keys: Mapping[int, bytes]) -> list[dict[str, Any]]:
    return [{"node_id": hex128(node_id), "public_key": key.hex()} for node_id, key in sorted(keys.items())]


def _one_id(text: str, keys: TrustedKeys) -> int:
    """Return the id that `text`, shortened perhaps, means among those in the directories."""
    match = _ID.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is no id: `fabricbios trust show` lists them")
    known = {*keys.peers, *keys.learned, *keys.controllers, *keys.approved}
    found = [i for i in known if f"{i:032x}".startswith(match[1].lower())]
    if len(found) != 1:
        which = "no key here has" if not found else "more than one key has"
        raise ConfigError(f"{which} an id that begins with {text}: `fabricbios trust show` lists them")
    return found[0]


def _key_of(text: str, trust_dir: Path) -> bytes:
    """Return the key that `text` is, or the key of the id it is."""
    if not _ID.fullmatch(text) or Path(text).exists():
        return trustdir.read_key(text)
    keys = trustdir.load(trust_dir)
    node_id = _one_id(text, keys)
    return {**keys.controllers, **keys.approved, **keys.peers}[node_id]


def _controller(directory: Path) -> Identity:
    try:
        return Identity.load(directory)
    except FileNotFoundError:
        raise ConfigError(f"{directory} has no controller's key: make one with `fabricbios trust init-ca`") from None


def _forget_node(directory: Path, address: str, as_json: bool) -> None:
    path = directory / known_nodes.FILE
    try:
        host, port = parse_endpoint(address)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    nodes = known_nodes.KnownNodes(path)
    key = nodes.get(host, port)
    if key is None or not nodes.forget(host, port):
        raise ConfigError(f"no key is known for {address}: {path} lists those that are")
    print_change("forget", as_json, node_id=hex128(id_of_key(key)), paths=[str(path)])
