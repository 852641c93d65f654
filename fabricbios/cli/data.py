"""`fabricbios read` and `write`: leased bytes to and from files, with a progress bar where somebody looks.

Each takes the lease up again with a key of its own (LEASE_ATTACH), so two of them on one lease at the
same time take it from each other; a program that shares a lease uses the library.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import click

from fabricbios.cli.output import CLOSED, document, node_options, print_json, size
from fabricbios.cli.session import Size, find_lease, kinds_by_resource, with_node
from fabricbios.client import Node
from fabricbios.client.leases import DataLease
from fabricbios.errors import ConfigError, Disconnected, Unsupported
from fabricbios.model import Binding, ResourceType

CHUNK = 4 << 20
SHOW_FROM = 1 << 20  # bytes: shorter transfers are over before one could look
Progress = Callable[[int], None]


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Progress]:
    """Yield a function that is told how many more bytes are done; a bar on a terminal's standard error."""
    if not sys.stderr.isatty() or (total is not None and total < SHOW_FROM):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn(what), BarColumn(), DownloadColumn(True), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextlib.asynccontextmanager
async def _attached(node: Node, text: str, binding: str | None) -> Any:
    found = await find_lease(node, text)
    kind = (await kinds_by_resource(node)).get(found.resource_id)
    attach = {ResourceType.MEM: node.attach_memory, ResourceType.BLOCK: node.attach_block}.get(kind or ResourceType.CPU)
    if attach is None:
        raise Unsupported(f"reading a {kind.name.lower() if kind else 'foreign'} lease", "it holds no bytes to copy")
    # a renewal to 1 s never shortens: it changes nothing
    lease = attach(found.lease_id, 1, Binding[binding.upper()] if binding else None)
    await lease.open()
    try:
        yield lease
    finally:
        await lease.detach()


def _options(command: Any) -> Any:
    help_ = "Insist on it; the lease's own by default."
    command = click.option("--binding", type=click.Choice(["udp", "quic"]), help=help_)(command)
    command = click.option("--offset", type=Size(), default="0", show_default=True, metavar="SIZE")(command)
    return node_options(command)


@click.command()
@click.argument("lease_id", metavar="ID")
@click.option("--length", type=Size(), metavar="SIZE", help="To the lease's end by default.")
@_options
@click.pass_context
def read(
    ctx: click.Context, lease_id: str, length: int | None, offset: int, binding: str | None, as_json: bool
) -> None:
    """Copy bytes of a lease to standard output."""
    if "stdout" in CLOSED:
        raise ConfigError("standard output is closed: redirect it to a file, or pipe it")
    out = sys.stdout.buffer
    if out.isatty():
        raise ConfigError("standard output is a terminal: redirect it to a file, or pipe it")

    async def work(node: Node) -> int:
        async with _attached(node, lease_id, binding) as lease:
            total = max(0, lease.size - offset) if length is None else length
            _within(lease, offset, total)
            with _bar("reading", total) as progress:
                for at in range(offset, offset + total, CHUNK):
                    data = await _bytes_of(lease, at, min(CHUNK, offset + total - at))
                    out.write(data)
                    progress(len(data))
            out.flush()
            return int(total)

    _report("read", with_node(ctx, work), as_json, err=True)


@click.command()
@click.argument("lease_id", metavar="ID")
@_options
@click.pass_context
def write(ctx: click.Context, lease_id: str, offset: int, binding: str | None, as_json: bool) -> None:
    """Copy standard input into a lease. A file that does not fit is refused; a pipe's first byte too many ends it.

    A block lease is written in whole blocks of 512 bytes: --offset is a multiple, and a last odd piece is
    filled up with zeros.
    """
    if "stdin" in CLOSED:
        raise ConfigError("standard input is closed: redirect it from a file, or pipe something into it")
    source = sys.stdin.buffer

    async def work(node: Node) -> int:
        async with _attached(node, lease_id, binding) as lease:
            total = _left_in(source)
            _at_a_block(lease, offset)
            _within(lease, offset, -(-(total or 0) // lease.unit) * lease.unit)
            at = offset
            with _bar("writing", total) as progress, _said_how_far(lambda: at - offset):
                while data := _chunk(source, lease.unit):
                    _within(lease, at, len(data))
                    await lease.write(at, data)
                    at += len(data)
                    progress(len(data))
            return at - offset

    _report("written", with_node(ctx, work), as_json)


def _left_in(source: BinaryIO) -> int | None:
    """Return how many bytes a file has from where it stands; None for a pipe or a terminal, which nobody knows."""
    try:
        found = os.fstat(source.fileno())
        return max(0, found.st_size - source.tell()) if stat.S_ISREG(found.st_mode) else None
    except OSError:
        return None


@contextlib.contextmanager
def _said_how_far(done: Callable[[], int]) -> Iterator[None]:
    """Add to a failure that leaves the lease there how much went well before it."""
    try:
        yield
    except (Disconnected, ConfigError) as error:
        if done():
            error.add_note(f"the first {size(done())} are written")
        raise


def _chunk(source: BinaryIO, unit: int) -> bytes:
    """Return the next bytes of the input; a last odd piece is filled up with zeros to whole blocks."""
    data = source.read(CHUNK)
    return data + bytes(-len(data) % unit)


async def _bytes_of(lease: DataLease, offset: int, length: int) -> memoryview:
    """Return any bytes of a lease, cut out of the whole blocks that hold them."""
    before = offset % lease.unit
    data = await lease.read(offset - before, -(-(before + length) // lease.unit) * lease.unit)
    return memoryview(data)[before : before + length]


def _within(lease: DataLease, offset: int, length: int) -> None:
    if offset + length > lease.size:
        raise ConfigError(f"bytes {offset} to {offset + length} are beyond the lease's {lease.size}")


def _at_a_block(lease: DataLease, offset: int) -> None:
    if offset % lease.unit:
        raise ConfigError(f"a block lease is written from a multiple of {lease.unit} bytes on; --offset is {offset}")


def _report(what: str, count: int, as_json: bool, *, err: bool = False) -> None:
    """Say how much. A reader's document goes to standard error: standard output is the data's."""
    if as_json:
        print_json(document("transfer", direction=what, bytes=count), err=err)
    elif sys.stderr.isatty():
        click.echo(f"{count} bytes {what}", err=True)
