"""`fabricbios completion SHELL`: the script that a shell's start-up file sources."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script: `source <(fabricbios completion bash)`."""
    cls = get_completion_class(shell)
    if cls is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(cls(ctx.find_root().command, {}, "fabricbios", "_FABRICBIOS_COMPLETE").source())
