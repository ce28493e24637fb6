"""Rows → text: a table for people, jsonl and csv for programs. Each writer prints a row as soon as it is there."""

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

import click

from zoo.predictor import Row

CSV_COLUMNS = ("input", "model", "label", "probability", "unsure", "top_k", "corrections", "error")
NAME_WIDTH = 48


def write_jsonl(rows: Iterable[Row], names: list[str], out: TextIO) -> None:
    """One JSON object a line, with the fields of `Row`."""
    for row in rows:
        out.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
        out.flush()


def write_csv(rows: Iterable[Row], names: list[str], out: TextIO) -> None:
    """A header and one line a row; `top_k` is JSON, corrections are joined by semicolons."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        told = row.to_dict() | {"corrections": "; ".join(row.corrections), "top_k": json.dumps(row.to_dict()["top_k"])}
        writer.writerow([_cell(told[column]) for column in CSV_COLUMNS])
        out.flush()


def _cell(value: object) -> object:
    """Empty for None, and true or false as in JSON."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def write_table(rows: Iterable[Row], names: list[str], out: TextIO) -> None:
    """Aligned columns; `names` are all inputs, so that the first row already knows the width."""
    width = min(max((len(_printable(name)) for name in names), default=5), NAME_WIDTH)
    click.secho(
        f"{'image':<{width}}  {'label':<10}  {'probability':>11}  {'next best':<18}  what was corrected",
        file=out,
        bold=True,
    )
    for row in rows:
        click.echo(f"{_shortened(row.input, width):<{width}}  {_answer(row)}", file=out)


def _answer(row: Row) -> str:
    if row.error is not None or row.probability is None:
        return click.style((row.error or "no answer").removeprefix(f"{row.input} "), fg="red")  # the name stands before
    label = click.style(f"{row.label:<10}", fg="yellow" if row.unsure else "green", bold=True)
    runners_up = ", ".join(f"{guess.label} {_percent(guess.probability, 1)}" for guess in row.top_k[1:])
    said = ("unsure", *row.corrections) if row.unsure else row.corrections
    return f"{label}  {_percent(row.probability, 2):>11}  {runners_up:<18}  {'; '.join(said)}".rstrip()


def _percent(share: float, digits: int) -> str:
    """A share in percent, never rounded to certainty."""
    said = f"{share:.{digits}%}"
    if float(said[:-1]) >= 100:
        return f">{100 - 10**-digits:.{digits}f}%"
    return f"<{10**-digits:.{digits}f}%" if float(said[:-1]) == 0 else said


def _shortened(name: str, width: int) -> str:
    """The end of a name."""
    name = _printable(name)
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _printable(name: str) -> str:
    """A name without what would move the cursor or colour the terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


FORMATS: dict[str, Callable[[Iterable[Row], list[str], TextIO], None]] = {
    "table": write_table,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


def print_table(headers: list[str], rows: list[list[str]], right: frozenset[int] = frozenset()) -> None:
    """An aligned table on stdout. `right`: columns of numbers. On a terminal too narrow, the last column is cut."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    signs = [">" if index in right else "<" for index in range(len(headers))]
    room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(widths[:-1])
    cut = room if sys.stdout.isatty() and len(headers) - 1 not in right and 8 <= room < widths[-1] else None
    for number, line in enumerate([headers, *rows]):
        last = line[-1] if cut is None or len(line[-1]) <= cut else f"{line[-1][: cut - 1]}…"
        cells = (f"{cell:{sign}{width}}" for cell, sign, width in zip([*line[:-1], last], signs, widths, strict=True))
        text = "  ".join(cells).rstrip()
        click.echo(text if number else click.style(text, bold=True))
