"""Messages of the `zoo` command, on stderr."""

import os
import sys

import click

from zoo.errors import printable


def say(message: str) -> None:
    """Print a message as one line. If the reader of stderr has closed it, further messages go to /dev/null."""
    try:
        click.echo(printable(message), err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
