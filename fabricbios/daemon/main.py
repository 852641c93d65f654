"""`fabricbiosd`: the daemon's roles. Each is loaded when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fabricbios import __version__
from fabricbios.daemon.settings import SETTINGS
from fabricbios.errors import ConfigError, Disconnected, FabricError

# role -> module under fabricbios.daemon that holds its click command under the attribute named here
ROLES = {
    "relay": ("relay", "relay"),
    "solicit": ("solicit", "solicit_command"),
    "control-server": ("control_server", "control_server"),
    "control-client": ("control_client", "control_client"),
    "simulate": ("simulate", "simulate"),
}


class _Roles(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["node", *ROLES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in ROLES:
            return super().get_command(ctx, name)
        module, attribute = ROLES[name]
        command: click.Command = getattr(importlib.import_module(f"fabricbios.daemon.{module}"), attribute)
        return command


@click.group(cls=_Roles, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fabricbiosd")
def cli() -> None:
    """Export this machine's hardware over the network, lease by lease."""


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option a setting; values arrive as typed, unparsed strings."""
    for s in reversed(SETTINGS):
        default = "" if s.default in (None, (), 0) else f" Default {_shown(s.default)}."
        command = click.option(
            f"--{s.name}", multiple=s.many, metavar=s.metavar, help=f"{s.help[0].upper()}{s.help[1:]}.{default}"
        )(command)
    return command


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(getattr(d, "label", str(d)) for d in default)
    return str(default)


@cli.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; its conf.d/*.toml are read too.")
@setting_options
def node(config: Path | None, **flags: Any) -> None:
    """Serve this machine's hardware. Prints one line `ready {json}` once it does."""
    from fabricbios.daemon import config as configuration
    from fabricbios.daemon.node import run

    settings = configuration.load(config, flags)
    sys.exit(run(settings, lambda: configuration.load(config, flags)))


def main() -> None:
    """Entry point: a failure is one line; a bad configuration exits 2, a node out of reach 4, all else 1."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except ConfigError as e:
        click.echo(f"fabricbiosd: {e}", err=True)
        sys.exit(2)
    except Disconnected as e:
        click.echo(f"fabricbiosd: {e}: is fabricbiosd running there?", err=True)
        sys.exit(4)
    except (FabricError, OSError) as e:
        click.echo(f"fabricbiosd: {e}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
