"""`zoo completion`: the scripts that make shells complete the command's words."""

import sys

import click

COMPLETION_VARIABLE = "_ZOO_COMPLETE"  # set by the shell's completion function, as click's protocol defines


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script for shell completion.

    \b
    bash: add  eval "$(zoo completion bash)"  to ~/.bashrc
    zsh:  add  eval "$(zoo completion zsh)"   to ~/.zshrc
    fish: save the output as ~/.config/fish/completions/zoo.fish
    """
    sys.exit(run_shell_completion(f"{shell}_source"))


def run_shell_completion(instruction: str) -> int:
    from click.shell_completion import shell_complete

    from serve.cli.main import cli

    return shell_complete(cli, {}, "zoo", COMPLETION_VARIABLE, instruction)
