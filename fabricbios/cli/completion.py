"""`fabricbios completion SHELL`: the script that a shell's start-up file sources."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fabricbios.cli.output import document, json_option, print_json


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script: `source <(fabricbios completion bash)`."""
    cls = get_completion_class(shell)
    if cls is None:
        raise click.UsageError(f"no completion for {shell}")
    script = cls(ctx.find_root().command, {}, "fabricbios", "_FABRICBIOS_COMPLETE").source()
    if as_json:
        print_json(document("completion", shell=shell, script=script))
    else:
        click.echo(script)
