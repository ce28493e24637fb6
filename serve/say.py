"""Sentences for the person at the command, on stderr."""

import os
import sys

import click


def say(sentence: str) -> None:
    """Print it. Whoever read stderr may have left, `head` for one, and that ends nothing."""
    try:
        click.echo(sentence, err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
