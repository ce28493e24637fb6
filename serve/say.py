"""Sentences for the person at the command, on stderr, and what text may do to a terminal."""

import os
import sys

import click


def printable(text: str) -> str:
    """Text without what would move the cursor, colour the terminal, or turn the direction of writing.

    Every sign that Python does not call printable is spelled as in a Python string, `\\x1b` for one: names of files
    and of members of archives can hold any. All that is printed goes through this, but what is for programs to read.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def say(sentence: str) -> None:
    """Print it as one line. Whoever read stderr may have left, `head` for one, and that ends nothing."""
    try:
        click.echo(printable(sentence), err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
