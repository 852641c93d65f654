"""How every command answers: tables for people, one versioned document for scripts, one line for failures."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from fabricbios.errors import ConfigError, Disconnected, FabricError, Refused, Unsupported, Untrusted, WireError
from fabricbios.model import Status

EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_LACKING, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130

_REMEDY = {
    Status.INVALID_TOKEN: "ask for a new one: fabricbios token request",
    Status.INSUFFICIENT_PERM: "on the node: fabricbios trust pin KEY (see fabricbios identity), or raise its policy",
    Status.RESOURCE_NOT_FOUND: "fabricbios leases and fabricbios status show what there is",
    Status.CAPACITY_EXCEEDED: "ask for less, or see what is free: fabricbios status",
    Status.LEASE_EXPIRED: "lease again; --hold keeps a lease alive",
    Status.RATE_LIMITED: "wait a moment",
    Status.RESOURCE_FENCED: "once its teardown works, its admin clears that: fabricbios unfence",
}


def _either(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    """--json counts wherever it stands."""
    said = ctx.find_root().ensure_object(dict)
    said["as_json"] = value or bool(said.get("as_json"))
    return bool(said["as_json"])


def json_option(command: Any, **settings: Any) -> Any:
    """Give a command the --json flag every command has."""
    flag = click.option(
        "--json", "as_json", is_flag=True, callback=_either, help="Print one document for scripts.", **settings
    )
    return flag(command)


def _remember(key: str) -> Any:
    def callback(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.find_root().ensure_object(dict)[key] = value

    return callback


def _whom_options(command: Any) -> Any:
    for names, key, metavar in ((("-H", "--host"), "host", "HOST[:PORT]"), (("--identity",), "identity", "DIR")):
        command = click.option(
            *names, metavar=metavar, expose_value=False, callback=_remember(key), help=f"As `fabricbios {names[0]}`."
        )(command)
    return command


def node_options(command: Any) -> Any:
    """Let -H and --identity stand behind the command too, as people type them, and add --json."""
    return json_option(_whom_options(command))


def group_options(group: Any) -> Any:
    """The same between a group's name and its command's."""
    return json_option(_whom_options(group), expose_value=False)


def document(noun: str, **fields: Any) -> dict[str, Any]:
    """Return a document with its schema name (docs/schema/NOUN.json)."""
    return {"schema": f"fabricbios.{noun}/1", **fields}


def print_json(value: Any, *, err: bool = False) -> None:
    """One document, one line: also good for following events. ASCII, so that it is whole under any locale."""
    click.echo(json.dumps(value, separators=(",", ":")), err=err)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "", title: str = "") -> None:
    """A table for people; `empty` is said where there are no rows.

    A column's name may begin with ">" (numbers, to the right) or "=" (ids: a narrow terminal cuts others first).
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    listed = [tuple(row) for row in rows]
    if not listed and empty:
        click.echo(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.lstrip(">="), justify="right" if number else "left", no_wrap=number or column[:1] == "="
        )
    for row in listed:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(table)


def size(count: int) -> str:
    """Return bytes as people read them: 64 MiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time as people read it: 4m 30s."""
    left = int(seconds)
    if left < 60:
        return f"{left}s"
    minutes, secs = divmod(left, 60)
    if minutes < 60:
        return f"{minutes}m {secs:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 48 else f"{hours // 24}d {hours % 24}h"


def failure(error: BaseException) -> tuple[int, str, str]:
    """Return (exit code, what failed and why, what to do) for an exception; the table of interfaces.md."""
    if isinstance(error, Refused):
        return EXIT_REFUSED, f"the node refused: {error}", _REMEDY.get(error.status, "")
    if isinstance(error, Disconnected):
        remedy = getattr(error, "remedy", "is fabricbiosd running there? -H HOST:PORT names another node")
        return EXIT_UNREACHABLE, str(error), remedy
    if isinstance(error, Unsupported):
        what = f"{error.facility} is not available here: {error.probe}"
        return EXIT_LACKING, what, error.remedy or "fabricbios doctor shows what this machine can do"
    if isinstance(error, click.ClickException):
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fabricbios"
        return error.exit_code, " ".join(error.format_message().split()), f"{path} --help"
    if isinstance(error, Untrusted):
        return EXIT_FAILED, str(error), ""
    if isinstance(error, ConfigError):
        return EXIT_USAGE, str(error), ""
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return EXIT_FAILED, f"{error.strerror or error}{where}", ""
    if isinstance(error, (FabricError, WireError)):
        return EXIT_FAILED, str(error), ""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return EXIT_INTERRUPTED, "interrupted", ""
    return EXIT_FAILED, f"{type(error).__name__}: {error}", "this is a bug: please report it"


CLOSED: set[str] = set()


def open_closed_streams() -> None:
    """Give back what was closed at our start (`>&-`) as /dev/null: else the next file opened would take its number.

    What a stream's encoding has no sign for is escaped: neither an ASCII locale nor a path of odd bytes is a failure.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            CLOSED.add(name)
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for as long as we live
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def report(error: BaseException, as_json: bool) -> int:
    """Print one line (or one object) about a failure on standard error; return the exit code."""
    code, what, remedy = failure(error)
    what = "; ".join([what, *getattr(error, "__notes__", ())])
    if as_json:
        status = error.status.name if isinstance(error, Refused) else None
        fields = document("error", exit_code=code, error=what, status=status, remedy=remedy)
        click.echo(json.dumps(fields, separators=(",", ":")), err=True)
    else:
        click.echo(f"fabricbios: {what}" + (f" ({remedy})" if remedy else ""), err=True)
    return code
