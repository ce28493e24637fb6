"""Messages for the person at the command, on stderr."""

import os
import sys

import click

from zoo.errors import printable


def say(sentence: str) -> None:
    """Print it as one line. Whoever read stderr may have left, `head` for one, and that ends nothing."""
    try:
        click.echo(printable(sentence), err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
