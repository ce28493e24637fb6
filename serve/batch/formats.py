"""Rows → bytes: what a worker makes of its rows, so that the process that writes them has nothing left to do but write.

A file is its header, then its blocks. Parquet's blocks are Arrow streams, which `serve/batch/resume.py` merges into one
file.
"""

import csv
import json
from types import SimpleNamespace
from typing import Any, Literal

import click

from zoo.errors import WrongUsage, printable
from zoo.model import Row

Encoding = Literal["table", "jsonl", "csv", "parquet"]

CSV_COLUMNS = ("input", "model", "label", "probability", "unsure", "top_k", "corrections", "error")
NAME_WIDTH = 48


def check(encoding: Encoding) -> None:
    """Raise WrongUsage where a package is missing that this needs."""
    if encoding == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise WrongUsage("Writing parquet needs pyarrow: pip install 'pocketzoo[data]'.") from None


def encode(rows: list[Row], encoding: Encoding, width: int = NAME_WIDTH) -> bytes:
    """The block of these rows; `width` is that of the table's column of names."""
    if encoding == "parquet":
        return _arrow(rows)
    text = {"table": _table, "jsonl": _jsonl, "csv": _csv}[encoding](rows, width)
    return text.encode(errors="backslashreplace")  # as a model's labels could be


def head(encoding: Encoding, width: int = NAME_WIDTH) -> bytes:
    """What stands before the first block."""
    if encoding == "table":
        columns = f"{'image':<{width}}  {'label':<10}  {'probability':>11}  {'next best':<18}  what was corrected"
        return click.style(columns, bold=True).encode() + b"\n"
    return (",".join(CSV_COLUMNS) + "\n").encode() if encoding == "csv" else b""


def _jsonl(rows: list[Row], width: int) -> str:
    """One JSON object a line, with the fields of `Row`."""
    to_json = json.JSONEncoder(ensure_ascii=False).encode
    return "".join(to_json(row.to_dict()) + "\n" for row in rows)


def _csv(rows: list[Row], width: int) -> str:
    """One line a row; `top_k` is JSON, corrections are joined by semicolons."""
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))  # whose lines end in \r\n, so that it quotes both
    for row in rows:
        told = row.to_dict()
        told |= {"corrections": "; ".join(row.corrections), "top_k": json.dumps(told["top_k"])}
        writer.writerow([_cell(told[column]) for column in CSV_COLUMNS])
    return "".join(f"{line[:-2]}\n" for line in lines)


def _cell(value: object) -> object:
    """Empty for None, and true or false as in JSON."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def _table(rows: list[Row], width: int) -> str:
    """Aligned columns, with the colours of a terminal."""
    return "".join(f"{_shortened(row.input, width):<{width}}  {_answer(row)}\n" for row in rows)


def table_width(names: list[str]) -> int:
    """Of the column of names, for these and others like them."""
    return min(max((len(printable(name)) for name in names), default=5), NAME_WIDTH)


def _answer(row: Row) -> str:
    if row.error is not None or row.probability is None:
        sentence = (row.error or "no answer").removeprefix(f"{row.input} ")  # the name stands before
        return click.style(printable(sentence), fg="red")
    label = click.style(f"{printable(row.label or ''):<10}", fg="yellow" if row.unsure else "green", bold=True)
    runners_up = printable(", ".join(f"{guess.label} {_percent(guess.probability, 1)}" for guess in row.top_k[1:]))
    said = printable("; ".join(("unsure", *row.corrections) if row.unsure else row.corrections))
    return f"{label}  {_percent(row.probability, 2):>11}  {runners_up:<18}  {said}".rstrip()


def _percent(share: float, digits: int) -> str:
    """A share in percent, never rounded to certainty."""
    said = f"{share:.{digits}%}"
    if float(said[:-1]) >= 100:
        return f">{100 - 10**-digits:.{digits}f}%"
    return f"<{10**-digits:.{digits}f}%" if float(said[:-1]) == 0 else said


def _shortened(name: str, width: int) -> str:
    """The end of a name."""
    name = printable(name)
    return name if len(name) <= width else f"…{name[1 - width :]}"


def arrow_schema() -> Any:
    """The columns of a parquet file: Row's fields, probabilities as float32."""
    import pyarrow as pa

    guess = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    return pa.schema([
        ("input", pa.string()), ("model", pa.string()), ("label", pa.string()), ("probability", pa.float32()),
        ("unsure", pa.bool_()), ("top_k", pa.list_(guess)), ("corrections", pa.list_(pa.string())),
        ("error", pa.string()),
    ])  # fmt: skip


def _arrow(rows: list[Row]) -> bytes:
    """One record batch in Arrow's streaming format."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_pylist([row.to_dict() for row in rows], schema=arrow_schema())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
