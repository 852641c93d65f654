"""`fabricbiosd control-client OP`: send one control op and print the answer as it is, for people who debug."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fabricbios.daemon.settings import parse_duration, parse_endpoint, parse_size
from fabricbios.errors import ConfigError, Disconnected, WireError
from fabricbios.model import ALL_PERMS, CONTROL_PORT, Op, Perm, ResourceType, Status
from fabricbios.transport import Identity, dial
from fabricbios.wire import CapRequestParams, ErrorResult, Frame, MsgType, Request, Response, registry
from fabricbios.wire.fields import REQUIRED
from fabricbios.wire.json_form import to_json

OPS = {op.name.lower().replace("_", "-"): op for op in Op}
TIMEOUT = 10.0


def _number(text: str) -> int:
    return int(text, 0)


# parameter of an op -> how its option is read
_READ: dict[str, Callable[[str], Any]] = {
    "duration_secs": parse_duration,
    "grace_secs": parse_duration,
    "ttl_secs": parse_duration,
    "requested_bytes": parse_size,
    "resource_type": lambda text: ResourceType[text.upper()],
    "perms": lambda text: functools.reduce(operator.or_, (Perm[word.upper()] for word in text.split(","))),
}
_ALIASES = {
    "ttl": ("duration_secs", "ttl_secs"),
    "grace": ("grace_secs",),
    "type": ("resource_type",),
    "size": ("requested_bytes",),
}
_DEFAULTS = {"duration_secs": 60, "ttl_secs": 60, "grace_secs": 0, "perms": ALL_PERMS, "audience": 0}
_WANTS = {Op.LEASE_ALLOC: Perm.ALLOC | Perm.READ | Perm.WRITE, Op.LEASE_RENEW: Perm.RENEW, Op.LEASE_REVOKE: Perm.REVOKE,
          Op.CAP_REVOKE: Perm.REVOKE, Op.SCHEDULER_FENCE_SET: Perm.ADMIN, Op.FENCE_CLEAR: Perm.ADMIN}  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("op", type=click.Choice(sorted(OPS)))
@click.argument("parameters", nargs=-1, type=click.UNPROCESSED)
@click.option("-H", "--host", envvar="FABRICBIOS_NODE", default="127.0.0.1", metavar="HOST[:PORT]")
@click.option(
    "--identity",
    envvar="FABRICBIOS_IDENTITY",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory of the key; that of `fabricbios` by default.",
)
@click.option("--token", default="", metavar="HEX", help="Token to send; one is asked for where the op wants one.")
@click.option("--resource", default="0", metavar="ID", help="The request's resource_id.")
def control_client(
    op: str, parameters: tuple[str, ...], host: str, identity: Path | None, token: str, resource: str
) -> int:
    """Send OP and print status and result, one JSON document. Parameters: --lease-id 0x... --ttl 30s --type mem ..."""
    try:
        where = parse_endpoint(host) if ":" in host else (host, CONTROL_PORT)
        raw_token, resource_id = bytes.fromhex(token), _number(resource)
    except ValueError as e:
        raise ConfigError(f"{op}: {e}") from None
    asked = OPS[op]
    params = _params(asked, _options(parameters))
    who = Identity.load_or_create(identity or _default_identity())
    status, result = asyncio.run(_ask(where, who, asked, params, raw_token, resource_id))
    answer = {"schema": "fabricbios.control-answer/1", "op": asked.name, "status": status.name, "result": result}
    click.echo(json.dumps(answer))
    return 0 if status is Status.OK else 3


def _default_identity() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "fabricbios"


def _options(words: tuple[str, ...]) -> dict[str, str]:
    """Return {"lease_id": "0x..."} from ("--lease-id", "0x..."). ConfigError for anything else."""
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ConfigError("parameters are pairs such as --lease-id 0x1f --ttl 30s")
    return {word[2:].replace("-", "_"): value for word, value in zip(words[::2], words[1::2], strict=True)}


def _params(op: Op, given: dict[str, str]) -> bytes:
    kind = registry.params_of(op)
    names = tuple(kind.FIELDS)
    for alias, targets in _ALIASES.items():
        if alias in given and alias not in names:
            given |= {target: given[alias] for target in targets if target in names}
            del given[alias]
    unknown = set(given) - set(names)
    if unknown:
        raise ConfigError(f"{op.name} takes {', '.join(names)}, not {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {name: _DEFAULTS[name] for name in names if name in _DEFAULTS}
    missing = [name for name, f in kind.FIELDS.items() if f.default is REQUIRED and name not in values | given]
    if missing:
        raise ConfigError(f"{op.name} wants {', '.join('--' + name.replace('_', '-') for name in missing)}")
    try:
        values |= {name: _READ.get(name, _number)(text) for name, text in given.items()}
        packed: bytes = kind(**values).pack()
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{op.name}: {e}") from None
    return packed


async def _ask(
    where: tuple[str, int], who: Identity, op: Op, params: bytes, token: bytes, resource_id: int
) -> tuple[Status, Any]:
    link = await dial(*where, who, lambda key: None)
    try:
        if not token and op in _WANTS:
            ask = CapRequestParams(perms=_WANTS[op], ttl_secs=60, audience=who.node_id).pack()
            granted = await _exchange(link, who, 1, Op.CAP_REQUEST, ask, b"", resource_id)
            if granted.status:
                return Status(granted.status), _shown(Op.CAP_REQUEST, granted)
            token = granted.result
        answer = await _exchange(link, who, 2, op, params, token, resource_id)
        return Status(answer.status), _shown(op, answer)
    finally:
        link.close()


async def _exchange(
    link: Any, who: Identity, request_id: int, op: Op, params: bytes, token: bytes, resource_id: int
) -> Response:
    request = Request(op=op, resource_id=resource_id, token=token, params=params).pack("quic")
    frame = Frame(MsgType.REQUEST, 0, request_id, request_id, who.node_id, request)
    answer = Frame.unpack(await link.request(frame.pack("quic"), TIMEOUT), "quic")
    if answer.request_id != request_id:
        raise Disconnected("the node answered another question")
    return Response.unpack(answer.payload, "quic")


def _shown(op: Op, answer: Response) -> Any:
    kind = registry.result_of(op) if answer.status == Status.OK else ErrorResult
    try:
        return to_json(kind.unpack(answer.result))
    except WireError as e:
        return {"unreadable": answer.result.hex(), "why": str(e)}
