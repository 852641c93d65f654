"""`fabricbios wire`: the protocol's bytes for people and tests. Types and fields: tests/vectors/data/README.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from fabricbios.cli.output import document, json_option, print_json
from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import sequence
from fabricbios.wire.circumstances import Given, seal, unseal
from fabricbios.wire.json_form import octets, to_json
from fabricbios.wire.registry import TYPES

Json = Any


def decode_one(type_name: str, data: bytes, given: Given) -> dict[str, Json]:
    """Return a message's fields. Raise WireError if it is refused, LocalMisuse for an unknown type."""
    if type_name == sequence.TYPE:
        return sequence.decode(data, given)
    return to_json(unseal(_class(type_name), data, given))


def encode_one(type_name: str, fields: Json, given: Given) -> bytes:
    """Return a message's bytes. Raise LocalMisuse for fields that cannot be sent."""
    if type_name == sequence.TYPE:
        return sequence.encode(fields, given)
    return seal(_class(type_name), fields, given)


def _class(type_name: str) -> Any:
    if type_name not in TYPES:
        raise LocalMisuse(f"unknown type {type_name!r}; fabricbios wire --types lists them")
    return TYPES[type_name]


def _list_types(as_json: bool) -> None:
    names = sorted([*TYPES, sequence.TYPE])
    if as_json:
        print_json(document("wire-types", types=names))
    else:
        click.echo("\n".join(names))


_types_option = click.option("--types", is_flag=True, help="List the types.")


@click.group(invoke_without_command=True, no_args_is_help=True)
@_types_option
@json_option
@click.pass_context
def wire(ctx: click.Context, types: bool, as_json: bool) -> None:
    """Decode and encode the protocol's bytes."""
    if types:
        _list_types(as_json)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        raise click.UsageError("Missing command.")


@wire.command()
@click.argument("type_name", metavar="[TYPE]", required=False)
@click.option("--hex", "hex_digits", metavar="HEX", help="The message; standard input if absent.")
@click.option("--given", default="{}", metavar="JSON", help="Transport, keys, clock, question (vectors' `given`).")
@click.option("--batch", is_flag=True, help="JSON lines {type, hex, given} in, {ok, fields} out.")
@_types_option
@json_option
def decode(type_name: str | None, hex_digits: str | None, given: str, batch: bool, types: bool, as_json: bool) -> None:
    """Print a message's fields as JSON."""
    if types:
        _list_types(as_json)
        return
    if batch:
        _batch(lambda line: {"fields": _decode_line(line, type_name)})
        return
    text = hex_digits if hex_digits is not None else sys.stdin.read()
    line = {"type": _named(type_name), "hex": "".join(text.split()), "given": _json(given)}
    fields = _decode_line(line, None)
    if as_json:
        print_json(document("wire", type=type_name, fields=fields))
    else:
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))


@wire.command()
@click.argument("type_name", metavar="[TYPE]", required=False)
@click.option("--given", default="{}", metavar="JSON", help="Transport, keys, parent, question (vectors' `given`).")
@click.option("--batch", is_flag=True, help="JSON lines {type, fields, given} in, {ok, hex} out.")
@_types_option
@json_option
def encode(type_name: str | None, given: str, batch: bool, types: bool, as_json: bool) -> None:
    """Print the hex of a message whose fields come as JSON on standard input."""
    if types:
        _list_types(as_json)
        return
    if batch:
        _batch(lambda line: {"hex": _encode_line(line, type_name)})
        return
    line = {"type": _named(type_name), "fields": _json(sys.stdin.read()), "given": _json(given)}
    digits = _encode_line(line, None)
    if as_json:
        print_json(document("wire", type=type_name, hex=digits))
    else:
        click.echo(digits)


def _named(type_name: str | None) -> str:
    if type_name is None:
        raise click.UsageError("TYPE is missing; fabricbios wire --types lists them")
    if type_name not in TYPES and type_name != sequence.TYPE:
        raise click.UsageError(f"unknown type {type_name!r}; fabricbios wire --types lists them")
    return type_name


def _decode_line(line: Json, type_name: str | None) -> dict[str, Json]:
    return decode_one(_type_of(line, type_name), octets(line.get("hex"), "hex"), _given_of(line))


def _encode_line(line: Json, type_name: str | None) -> str:
    return encode_one(_type_of(line, type_name), line.get("fields"), _given_of(line)).hex()


def _type_of(line: Json, type_name: str | None) -> str:
    if not isinstance(line, dict):
        raise LocalMisuse("a line is one JSON object")
    name = line.get("type", type_name)
    if not isinstance(name, str):
        raise LocalMisuse("type is missing")
    return name


def _given_of(line: dict[str, Json]) -> Given:
    return Given.of(line.get("given") or {})


def _json(text: str | bytes) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise LocalMisuse(f"not JSON: {e}") from None


def _batch(work: Callable[[Json], dict[str, Json]]) -> None:
    """Answer every line that is not empty with one line; a bad one is told and passed by."""
    for text in sys.stdin.buffer:
        if text.strip():
            click.echo(json.dumps(_answer(work, text), separators=(",", ":")))


def _answer(work: Callable[[Json], dict[str, Json]], text: bytes) -> dict[str, Json]:
    try:
        return {"ok": True, **work(_json(text))}
    except WireError as e:
        return {"ok": False, "error": e.reason, "offset": e.offset}
    except LocalMisuse as e:
        return {"ok": False, "error": str(e), "offset": 0}
