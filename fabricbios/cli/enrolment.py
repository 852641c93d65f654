"""`fabricbios trust enroll`, `pending` and `approve`: how a key gets its certificate from who holds a controller's key.

Who waits is asked of the daemon of this machine, through its admin socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from fabricbios.cli.identity import identity_directory
from fabricbios.cli.output import document, node_options, print_json, print_table
from fabricbios.cli.session import with_node
from fabricbios.cli.top import runtime_dir_option
from fabricbios.cli.trust_change import RELOAD, print_change, trust_dir_option
from fabricbios.client import Node
from fabricbios.daemon.admin_client import AdminClient
from fabricbios.errors import ConfigError, Disconnected
from fabricbios.model import hex128, id_of_key
from fabricbios.transport import trustdir
from fabricbios.transport.files import replace
from fabricbios.transport.identity import CERTIFICATE_FILE
from fabricbios.wire import Certificate

_ID = re.compile(r"(?:0x)?([0-9a-fA-F]{1,32})")


@click.command()
@node_options
@click.pass_context
def enroll(ctx: click.Context, as_json: bool) -> None:
    """Ask the node of -H, which must hold a controller's key, to certify this client's key.

    It refuses until its admin approves (fabricbios trust approve); then ask again.
    """

    async def work(node: Node) -> Certificate:
        return await node.enroll()

    certificate = with_node(ctx, work)
    path = identity_directory(ctx) / CERTIFICATE_FILE
    replace(path, certificate.pack())
    print_change("enroll", as_json, node_id=hex128(certificate.subject), paths=[str(path)])


@click.command()
@runtime_dir_option
@node_options
def pending(runtime_dir: Path, as_json: bool) -> None:
    """List who asked this machine's node, which holds a controller's key, to be certified, and waits."""
    with AdminClient(runtime_dir) as node:
        waiting = node.ask(ask="pending")["pending"]
    if as_json:
        print_json(document("pending", pending=waiting))
        return
    rows = [(item["node_id"], item["public_key"]) for item in waiting]
    print_table(("id", "key"), rows, empty="nobody waits for a certificate")


@click.command()
@click.argument("key", metavar="KEY|ID")
@runtime_dir_option
@trust_dir_option
@node_options
def approve(key: str, runtime_dir: Path, trust_dir: Path, as_json: bool) -> None:
    """Let a node that holds a controller's key certify this key when it asks (ENROLL_REQUEST).

    An id is one of those that `fabricbios trust pending` lists; it may be shortened. A node that runs is told at once.
    """
    waiting = _waiting(runtime_dir, required=_is_id(key))
    public_key = _pending_key(key, waiting) if _is_id(key) else trustdir.read_key(key)
    path = trustdir.save(trust_dir, trustdir.APPROVED, public_key)
    node_id = hex128(id_of_key(public_key))
    if node_id in waiting:
        with AdminClient(runtime_dir) as node:
            node.ask(do="approve", node_id=node_id)
    hint = "The node will certify it when it asks again." if node_id in waiting else RELOAD
    print_change("approve", as_json, hint, node_id=node_id, paths=[str(path)])


def _is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text)) and not Path(text).exists()


def _waiting(runtime_dir: Path, required: bool) -> dict[str, str]:
    """Return id -> key of who waits; nobody where no node runs here, unless one is `required`."""
    try:
        with AdminClient(runtime_dir) as node:
            return {item["node_id"]: item["public_key"] for item in node.ask(ask="pending")["pending"]}
    except (Disconnected, PermissionError):
        if required:
            raise
        return {}


def _pending_key(text: str, waiting: Mapping[str, str]) -> bytes:
    digits = text.lower().removeprefix("0x")
    found = [key for node_id, key in waiting.items() if node_id.startswith(f"0x{digits}")]
    if len(found) != 1:
        which = "nobody waits who has" if not found else "more than one waits who has"
        raise ConfigError(f"{which} an id that begins with {text}: `fabricbios trust pending` lists them")
    return bytes.fromhex(found[0])
