"""`fabricbios`: leases for people. Commands are loaded when they are asked for, so that each starts quickly."""

from __future__ import annotations

import importlib
import os
import sys

import click

from fabricbios import __version__
from fabricbios.cli.output import json_option, open_closed_streams, report

# command -> module under fabricbios.cli that holds it under the attribute named here
COMMANDS = {
    "doctor": ("doctor", "doctor", "What this machine can do, and what it lacks"),
    "status": ("status", "status", "A node's identity, paths, capacity and leases"),
    "nodes": ("nodes", "nodes", "Nodes that answer, or that a relay has heard"),
    "inventory": ("inventory", "inventory", "This machine's hardware"),
    "lease": ("lease", "lease", "Lease memory, block storage, ..."),
    "leases": ("leases", "leases", "List leases on a node"),
    "renew": ("leases", "renew", "Make a lease last longer"),
    "free": ("leases", "free", "Give a lease back"),
    "revoke": ("leases", "revoke", "Take a lease away from its holder"),
    "unfence": ("fence", "unfence", "Lease a fenced resource again, if its teardown works now"),
    "watch": ("leases", "watch", "Follow the events of your leases"),
    "read": ("data", "read", "Copy leased memory or blocks to standard output"),
    "write": ("data", "write", "Copy standard input to leased memory or blocks"),
    "attach": ("attach", "attach", "Connect a lease to this machine's kernel"),
    "detach": ("attach", "detach", "Disconnect a lease from this machine's kernel"),
    "identity": ("identity", "identity", "This client's key and id"),
    "trust": ("trust", "trust", "Whom a node trusts"),
    "token": ("token", "token", "Ask for, show and narrow capability tokens"),
    "wire": ("wire", "wire", "Decode and encode the protocol's bytes"),
    "top": ("top", "top", "Live rates of a node's data plane"),
    "trace": ("trace", "trace", "How long a node's answers take: latency histograms"),
    "completion": ("completion", "completion", "Print a shell's completion script"),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(f"fabricbios.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fabricbios")
@click.option(
    "-H", "--host", envvar="FABRICBIOS_NODE", default="127.0.0.1:5701", metavar="HOST[:PORT]", help="The node."
)
@click.option("--identity", envvar="FABRICBIOS_IDENTITY", default=None, metavar="DIR", help="This client's key.")
@json_option
@click.pass_context
def cli(ctx: click.Context, host: str, identity: str | None, as_json: bool) -> None:
    """Lease another machine's memory, disks and devices, and use them as your own.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the node, 4 cannot reach the node,
    5 this machine lacks a facility, 130 interrupted.
    """
    ctx.obj = {"host": host, "identity": identity, "as_json": as_json}


def main() -> None:
    """Entry point. The one place where anything at all is caught and told in one line."""
    open_closed_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        sys.exit(e.exit_code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)  # who reads us has had enough
    except (Exception, KeyboardInterrupt) as e:
        if os.environ.get("FABRICBIOS_DEBUG"):
            raise
        code = report(e, "--json" in sys.argv)
        _drop_output()
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    """Run the command that was typed. `cli.main` would keep a broken pipe and an interrupt to itself."""
    if "_FABRICBIOS_COMPLETE" in os.environ:
        cli.main(prog_name="fabricbios")
    try:
        with cli.make_context("fabricbios", sys.argv[1:]) as ctx:
            return cli.invoke(ctx)
    except click.exceptions.Exit as e:
        return e.exit_code


def _drop_output() -> None:
    """What standard output would not take is not tried again at our end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
