"""Rows → bytes, in worker processes, so that the main process only writes them.

A file is a header followed by blocks. The blocks of a parquet file are Arrow streams, which `serve/batch/resume.py`
merges.
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


def check_available(encoding: Encoding) -> None:
    """Raise WrongUsage if a required package is missing."""
    if encoding == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise WrongUsage("Writing parquet needs pyarrow: pip install 'pocketzoo[data]'.") from None


def encode(rows: list[Row], encoding: Encoding, width: int = NAME_WIDTH) -> bytes:
    """Format rows; `width` is that of a table's name column."""
    if encoding == "parquet":
        return _to_arrow(rows)
    text = {"table": _to_table, "jsonl": _to_jsonl, "csv": _to_csv}[encoding](rows, width)
    return text.encode(errors="backslashreplace")  # a model's labels may contain lone surrogates


def header(encoding: Encoding, width: int = NAME_WIDTH) -> bytes:
    """The bytes before the first block."""
    if encoding == "table":
        columns = f"{'image':<{width}}  {'label':<10}  {'probability':>11}  {'next best':<18}  corrections"
        return click.style(columns, bold=True).encode() + b"\n"
    return (",".join(CSV_COLUMNS) + "\n").encode() if encoding == "csv" else b""


def _to_jsonl(rows: list[Row], width: int) -> str:
    """One JSON object per line, with the fields of `Row`."""
    to_json = json.JSONEncoder(ensure_ascii=False).encode
    return "".join(to_json(row.to_dict()) + "\n" for row in rows)


def _to_csv(rows: list[Row], width: int) -> str:
    """One line per row; `top_k` is JSON, corrections are joined by semicolons."""
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))  # its lines end in \r\n, so that it quotes both characters
    for row in rows:
        values = row.to_dict()
        values |= {"corrections": "; ".join(row.corrections), "top_k": json.dumps(values["top_k"])}
        writer.writerow([_csv_value(values[column]) for column in CSV_COLUMNS])
    return "".join(f"{line[:-2]}\n" for line in lines)


def _csv_value(value: object) -> object:
    """Empty for None; true or false as in JSON."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


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
    label = click.style(f"{printable(row.label or ''):<10}", fg="yellow" if row.unsure else "green", bold=True)
    runners_up = printable(", ".join(f"{guess.label} {_percent(guess.probability, 1)}" for guess in row.top_k[1:]))
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


def arrow_schema() -> Any:
    """The columns of a parquet file: the fields of `Row`, probabilities as float32."""
    import pyarrow as pa

    guess = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    return pa.schema(
        [
            ("input", pa.string()),
            ("model", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("unsure", pa.bool_()),
            ("top_k", pa.list_(guess)),
            ("corrections", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )


def _to_arrow(rows: list[Row]) -> bytes:
    """One record batch in Arrow's streaming format."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_pylist([row.to_dict() for row in rows], schema=arrow_schema())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
