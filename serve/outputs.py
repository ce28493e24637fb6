"""stdout as an output of `serve/batch.py`, and which output a command line asks for."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from serve.batch import Output
from serve.blocks import Block
from serve.encodings import Encoding, head
from serve.parts import OutputError, Parts
from serve.sources import Source

SUFFIXES: dict[str, Encoding] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def encoding_of(out: str | None, form: str | None) -> Encoding:
    """The form that was asked for, or the one that the file's name says, or a table. Raises OutputError."""
    if form:
        return form  # type: ignore[return-value]  # the command has checked it
    if out is None:
        return "table"
    if encoding := SUFFIXES.get(Path(out).suffix.lower()):
        return encoding
    raise OutputError(f"{out} does not say its form: name it .jsonl, .csv or .parquet, or add --format.")


def open_output(out: str | None, encoding: Encoding, asked: dict[str, Any], resume: bool, width: int) -> Output:
    """A file in parts, or stdout. Raises OutputError."""
    if out is not None:
        return Parts(Path(out), encoding, asked, resume, width)
    if resume:
        raise OutputError("--resume goes on with a file: name it with -o.")
    return ParquetOnStdout() if encoding == "parquet" else Stdout(encoding, width)


class Stdout:
    """Text, printed block by block."""

    def __init__(self, encoding: Encoding, width: int) -> None:
        self._head: bytes | None = head(encoding, width)

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return sources

    def write(self, block: Block) -> None:
        start, self._head = self._head or b"", None
        click.echo((start + block.payload).decode(), nl=False)  # without colours where it is not a terminal
        sys.stdout.flush()

    def finish(self) -> None:
        pass


class ParquetOnStdout:
    """A parquet file is written as a whole, so it is made in a temporary folder first."""

    def __init__(self) -> None:
        if sys.stdout.isatty():
            raise OutputError("parquet is not text for a terminal: name a file with -o, or pipe it.")
        self._folder = tempfile.TemporaryDirectory(prefix="zoo-")
        self._file = Path(self._folder.name) / "rows.parquet"
        self._parts = Parts(self._file, "parquet", {}, resume=False)

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return sources

    def write(self, block: Block) -> None:
        self._parts.write(block)

    def finish(self) -> None:
        self._parts.finish()
        with open(self._file, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 2**20)
        sys.stdout.buffer.flush()
        self._folder.cleanup()
