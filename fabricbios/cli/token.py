"""`fabricbios token`: ask a node for a capability token, look into one, narrow one for somebody else (D7)."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Any

import click

from fabricbios.cli.output import document, duration, group_options, node_options, print_json
from fabricbios.cli.session import Size, Time, find_lease_id, with_node
from fabricbios.client import Node
from fabricbios.errors import ConfigError, LocalMisuse, WireError
from fabricbios.model import Perm, hex128
from fabricbios.wire import Audience, Depth, Range, RateLimit, SourceIp, TimeBound, Token
from fabricbios.wire.token import attenuate as narrowed


@click.group()
@group_options
def token() -> None:
    """Capability tokens: who may do what, for how long."""


def _perms(_ctx: click.Context, _param: click.Parameter, text: str) -> Perm:
    try:
        return Perm(sum(Perm[word.strip().upper()] for word in text.split(",")))
    except KeyError as e:
        raise click.BadParameter(f"{e.args[0].lower()} is none of {', '.join(_names(Perm(255)))}") from None


@token.command()
@click.option("--perms", callback=_perms, default="read,write,alloc,renew", show_default=True, metavar="LIST")
@click.option("--ttl", type=Time(least=1), default="5m", show_default=True, metavar="TIME")
@click.option("--resource", default="0x0", metavar="ID", help="Only for this resource.")
@click.option("--lease", "lease_text", metavar="ID", help="Only for this lease, until it is renewed.")
@node_options
@click.pass_context
def request(ctx: click.Context, perms: Perm, ttl: int, resource: str, lease_text: str | None, as_json: bool) -> None:
    """Ask the node for a token; it grants what of it the policy allows."""
    resource_id = _id(resource)

    async def work(node: Node) -> Token:
        lease_id = await find_lease_id(node, lease_text) if lease_text else None
        return await node.cap_request(perms, ttl, resource_id, lease_id)

    _show(with_node(ctx, work), as_json)


@token.command()
@click.argument("hex_token", metavar="TOKEN")
@node_options
def show(hex_token: str, as_json: bool) -> None:
    """Show what a token says. Only the node that issued it can tell whether it holds."""
    _show(_parse(hex_token), as_json)


@token.command()
@click.argument("hex_token", metavar="TOKEN")
@click.option("--for", "ttl", type=Time(), metavar="TIME", help="Only from now for this long.")
@click.option("--source-ip", metavar="ADDR", help="Only from this address.")
@click.option("--range", "extent", type=(Size(), Size()), metavar="OFFSET LENGTH", help="Only this part.")
@click.option("--rate", type=click.IntRange(1, 0xFFFFFFFF), metavar="N", help="At most N uses a second.")
@click.option("--audience", metavar="ID", help="Only for this peer.")
@click.option("--depth", type=click.IntRange(0, 255), metavar="N", help="At most N further caveats.")
@node_options
def attenuate(hex_token: str, as_json: bool, **wishes: Any) -> None:
    """Narrow a token without asking the node. Nobody can take a caveat off again."""
    narrow = _parse(hex_token)
    caveats = [_CAVEATS[name](value) for name, value in wishes.items() if value is not None]
    if not caveats:
        raise click.UsageError("name at least one caveat")
    for caveat in caveats:
        try:
            narrow = narrowed(narrow, caveat)
        except LocalMisuse as e:
            raise ConfigError(f"{e}: ask for a token with --perms ...,delegate") from None
    _show(narrow, as_json)


def _source(text: str) -> SourceIp:
    try:
        return SourceIp(ipaddress.ip_address(text).packed)
    except ValueError as e:
        raise click.UsageError(str(e)) from None


def _time_bound(ttl: int) -> TimeBound:
    now = int(time.time())
    return TimeBound(now, now + ttl)


_CAVEATS: dict[str, Callable[[Any], Any]] = {  # in the order in which they are appended: the bound of depth last
    "ttl": _time_bound,
    "source_ip": _source,
    "extent": lambda pair: Range(*pair),
    "rate": RateLimit,
    "audience": lambda text: Audience(_id(text)),
    "depth": Depth,
}


def _id(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 128:
        raise click.UsageError(f"{text!r} is not an id: 0x and up to 32 digits")
    return number


def _parse(text: str) -> Token:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise ConfigError("this is no token: not pairs of hexadecimal digits") from None
    try:
        return Token.unpack(raw)
    except WireError as e:
        raise ConfigError(f"this is no token: {e}") from None


def _names(perms: Perm) -> list[str]:
    return [p.name.lower() for p in Perm if p in perms and p.name]


def _show(t: Token, as_json: bool) -> None:
    fields = {
        "token_id": hex128(t.token_id),
        "issuer": hex128(t.issuer),
        "audience": hex128(t.audience),
        "resource_id": hex128(t.resource_id),
        "lease_id": hex128(t.lease_id),
        "generation": t.generation,
        "perms": _names(Perm(t.perms)),
        "issued_at": t.issued_at,
        "expires_at": t.expires_at,
        "epoch": t.epoch,
        "caveats": [{"name": type(c).__name__, **_plain(c)} for c in t.caveats],
        "hex": t.pack().hex(),
    }
    if as_json:
        print_json(document("token", **fields))
        return
    click.echo(f"token     {fields['token_id']}, {duration(max(0, t.expires_at - time.time()))} left")
    click.echo(f"issuer    {fields['issuer']}\naudience  {fields['audience'] if t.audience else 'any trusted peer'}")
    click.echo(f"perms     {','.join(_names(Perm(t.perms)))}")
    for caveat in t.caveats:
        click.echo(f"caveat    {type(caveat).__name__} {' '.join(f'{k}={v}' for k, v in _plain(caveat).items())}")
    click.echo(fields["hex"])


def _plain(caveat: Any) -> dict[str, Any]:
    values = zip(type(caveat).FIELDS, caveat, strict=True)
    return {k: v.hex() if isinstance(v, bytes) else hex128(v) if k == "audience" else v for k, v in values}
