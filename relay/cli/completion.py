"""``dub-relay completion``: what makes a shell complete commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from relay.cli.base import config_option

_SHELLS: Final = ("bash", "zsh", "fish")


@click.command(
    epilog="\b\n"
    'bash, in ~/.bashrc:  eval "$(dub-relay completion bash)"\n'
    'zsh, in ~/.zshrc:    eval "$(dub-relay completion zsh)"\n'
    "fish:  dub-relay completion fish > ~/.config/fish/completions/dub-relay.fish"
)
@click.argument("shell", type=click.Choice(_SHELLS))
@config_option
def completion(*, shell: str) -> None:
    """Print a script that makes the shell complete dub-relay's words."""
    make = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if make is None:
        raise click.UsageError(f"there is no completion for {shell}")
    # click looks for this variable to know that a shell asks.
    variable = "_DUB_RELAY_COMPLETE"
    name = root.info_name or "dub-relay"
    click.echo(make(root.command, {}, name, variable).source())
