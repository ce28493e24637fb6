"""Rows → bytes, in worker processes, so that the main process only writes them.

A file is a header followed by blocks. The blocks of a parquet file are Arrow streams, which `serve/batch/resume.py`
merges.
"""

import csv
import json
from collections.abc import Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Literal

import click
import numpy as np

from zoo.columns import Columns
from zoo.errors import WrongUsage, printable
from zoo.rows import Row, as_utf8

Encoding = Literal["table", "jsonl", "csv", "parquet"]

CSV_COLUMNS = ("input", "model", "label", "probability", "unsure", "known", "top_k", "digits", "corrections", "error")
NAME_WIDTH = 48


def check_available(encoding: Encoding) -> None:
    """Raise WrongUsage if a required package is missing."""
    if encoding == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise WrongUsage("Writing parquet needs pyarrow: pip install 'pocketzoo[data]'.") from None


def encode(columns: Columns, encoding: Encoding, width: int = NAME_WIDTH) -> bytes:
    """Format results; `width` is that of a table's name column."""
    if encoding == "parquet":
        from zoo.arrow import to_stream

        return to_stream(columns)
    if encoding == "table":
        text = _to_table(columns.rows(), width)
    else:
        text = _to_jsonl(columns) if encoding == "jsonl" else _to_csv(columns)
    return text.encode(errors="backslashreplace")  # a model's labels may contain lone surrogates


def header(encoding: Encoding, width: int = NAME_WIDTH) -> bytes:
    """The bytes before the first block."""
    if encoding == "table":
        columns = f"{'image':<{width}}  {'label':<10}  {'probability':>11}  {'next best':<18}  corrections"
        return click.style(columns, bold=True).encode() + b"\n"
    return (",".join(CSV_COLUMNS) + "\n").encode() if encoding == "csv" else b""


def _to_jsonl(columns: Columns) -> str:
    """One JSON object per line, with the fields of `Row`: what `json` makes of `Row.to_dict()`."""
    to_json = json.JSONEncoder(ensure_ascii=False).encode
    labels = [to_json(label) for label in columns.labels]
    start, model = '{"input": ', f', "model": {to_json(columns.model)}, "label": '
    lines = []
    results = _results(columns, labels)
    for position, name in enumerate(columns.names):
        corrections, error = columns.corrections[position], columns.errors[position]
        name_json = to_json(as_utf8(name))
        if error is None:
            label, probability, unsure, known, top_k = next(results)
            lines.append(
                f'{start}{name_json}{model}{label}, "probability": {probability}, "unsure": {unsure}, '
                f'"known": {known or "null"}, "top_k": [{top_k}], "digits": {_digits(columns, position)}, '
                f'"corrections": {to_json(corrections) if corrections else "[]"}, "error": null}}\n'
            )
        else:
            lines.append(
                f'{start}{name_json}{model}null, "probability": null, "unsure": null, "known": null, "top_k": [], '
                f'"digits": [], '
                f'"corrections": [], "error": {to_json(as_utf8(error))}}}\n'
            )
    return "".join(lines)


def _to_csv(columns: Columns) -> str:
    """One line per result; `top_k` and `digits` are JSON, corrections are joined by semicolons."""
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))  # its lines end in \r\n, so that it quotes both characters
    results = _results(columns, [json.dumps(label) for label in columns.labels])
    top = iter(columns.top[:, 0].tolist() if columns.top.size else ())
    for position, name in enumerate(columns.names):
        corrections, error = columns.corrections[position], columns.errors[position]
        if error is None:
            _, probability, unsure, known, top_k = next(results)
            label = columns.labels[next(top)]
            cells = (
                label,
                _csv_number(probability),
                unsure,
                known,
                f"[{top_k}]",
                _digits(columns, position),
                "; ".join(corrections),
                "",
            )
        else:
            cells = ("", "", "", "", "[]", "[]", "", as_utf8(error))
        writer.writerow((as_utf8(name), columns.model, *cells))
    return "".join(f"{line[:-2]}\n" for line in lines)


def _results(columns: Columns, labels: list[str]) -> Iterator[tuple[str, str, str, str, str]]:
    """For each result without an error, as JSON: label, probability, unsure, known, and the elements of `top_k`.

    `known` is empty for a model without this output.
    """
    starts = [f'{{"label": {label}, "probability": ' for label in labels]
    number = repr if np.isfinite(columns.probabilities).all() else json.dumps  # JSON writes floats as Python does
    words = ("false", "true")
    known = repeat("") if columns.known is None else [words[value] for value in columns.known.tolist()]
    for top, values, unsure, known_word in zip(
        columns.top.tolist(), columns.probabilities.tolist(), columns.unsure.tolist(), known, strict=False
    ):
        numbers = [number(value) for value in values]
        guesses = ", ".join([f"{starts[index]}{text}}}" for index, text in zip(top, numbers, strict=True)])
        yield labels[top[0]], numbers[0], words[unsure], known_word, guesses


def _digits(columns: Columns, position: int) -> str:
    """The digits of a number as JSON."""
    digits = columns.digits.get(position)
    return json.dumps([digit.to_dict() for digit in digits]) if digits else "[]"


def _csv_number(text: str) -> str:
    return text if text not in ("NaN", "Infinity", "-Infinity") else repr(float(text))


def _to_table(rows: list[Row], width: int) -> str:
    """Aligned columns with terminal colours."""
    return "".join(f"{_shorten(row.input, width):<{width}}  {_result_columns(row)}\n" for row in rows)


def table_width(names: list[str]) -> int:
    """Width of the name column for these names."""
    return min(max((len(printable(name)) for name in names), default=5), NAME_WIDTH)


def _result_columns(row: Row) -> str:
    if row.error is not None or row.probability is None:
        message = (row.error or "no result").removeprefix(f"{row.input} ")  # the name is in the first column
        return click.style(printable(message), fg="red")
    if row.known is False:
        nearest = f"nearest: {printable(row.label or '')}, {_percent(row.probability, 1)}"
        text = f"none of the classes ({nearest})"
        return f"{click.style(text, fg='yellow', bold=True)}  {printable('; '.join(row.corrections))}".rstrip()
    label = click.style(f"{printable(row.label or ''):<10}", fg="yellow" if row.unsure else "green", bold=True)
    runners_up = printable(", ".join(f"{guess.label} {_percent(guess.probability, 1)}" for guess in row.top_k[1:]))
    if row.digits:
        runners_up = " ".join(f"{digit.label}:{_percent(digit.probability, 0)}" for digit in row.digits)
    corrections = printable("; ".join(("unsure", *row.corrections) if row.unsure else row.corrections))
    return f"{label}  {_percent(row.probability, 2):>11}  {runners_up:<18}  {corrections}".rstrip()


def _percent(share: float, digits: int) -> str:
    """A share in percent, never rounded to 0 % or 100 %."""
    text = f"{share:.{digits}%}"
    if float(text[:-1]) >= 100:
        return f">{100 - 10**-digits:.{digits}f}%"
    return f"<{10**-digits:.{digits}f}%" if float(text[:-1]) == 0 else text


def _shorten(name: str, width: int) -> str:
    """A printable name of at most `width` characters; keeps its end."""
    name = printable(name)
    return name if len(name) <= width else f"…{name[1 - width :]}"
