"""stdout as an output of `serve/batch/pipeline.py`, and which output a command line asks for."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from serve.batch.archives import is_image, start_of
from serve.batch.chunks import Block
from serve.batch.formats import Encoding, check, head
from serve.batch.inputs import Source
from serve.batch.pipeline import Output
from serve.batch.resume import Parts
from zoo.errors import WrongUsage, printable

SUFFIXES: dict[str, Encoding] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def encoding_of(out: str | None, form: str | None) -> Encoding:
    """The form that was asked for, or the one that the file's name says, or a table. Raises WrongUsage."""
    by_name = "table" if out is None else SUFFIXES.get(Path(out).suffix.lower())
    encoding: Encoding | None = form or by_name  # type: ignore[assignment]  # the command has checked it
    if encoding is None:
        raise WrongUsage(f"{out} does not say its form: name it .jsonl, .csv or .parquet, or add --format.")
    check(encoding)
    return encoding


def check_out(out: str, read: Iterable[str]) -> None:
    """Raise WrongUsage where rows cannot be written there, or would take the place of what is no file of rows.

    read: all files that the images come from, which rows shall not replace.
    """
    path = Path(out)
    if path.is_dir():
        raise WrongUsage(f"{out} is a folder: name a file.")
    if not path.parent.is_dir():
        raise WrongUsage(f"{out} cannot be written: there is no folder {path.parent}.")
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{out} is a pipe or a device: name a file, or leave -o out and redirect stdout there.")
    if is_image(out, start_of(out)):
        raise WrongUsage(f"{out} is an image or named like one: name another file for the rows.")
    if path.exists():
        there = path.stat()
        for name in read:
            with suppress(OSError, ValueError):
                if os.path.samestat(os.stat(name), there):
                    raise WrongUsage(f"{out} is what the images are read from: name another file for the rows.")


def open_output(out: str | None, encoding: Encoding, asked: dict[str, Any], resume: bool, width: int) -> Output:
    """A file in parts, or stdout. Raises WrongUsage, OutputError."""
    if out is not None:
        return Parts(Path(out), encoding, asked, resume, width)
    if resume:
        raise WrongUsage("--resume goes on with a file: name it with -o.")
    return ParquetOnStdout() if encoding == "parquet" else Stdout(encoding, width)


class Stdout:
    """Text, printed block by block."""

    def __init__(self, encoding: Encoding, width: int) -> None:
        self._head: bytes | None = head(encoding, width)
        self._is_table = encoding == "table"

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return sources

    def write(self, block: Block) -> None:
        start, self._head = self._head or b"", None
        text = (start + block.payload).decode()
        if not self._is_table and sys.stdout.isatty():
            text = "\n".join(map(printable, text.split("\n")))
        # The colours of a table are for terminals only; of other forms, click shall leave the bytes of names alone.
        click.echo(text, nl=False, color=None if self._is_table else True)
        sys.stdout.flush()

    def finish(self) -> None:
        pass


class ParquetOnStdout:
    """A parquet file is written as a whole, so it is made in a temporary folder first."""

    def __init__(self) -> None:
        if sys.stdout.isatty():
            raise WrongUsage("parquet is not text for a terminal: name a file with -o, or pipe it.")
        self._folder = tempfile.TemporaryDirectory(prefix="zoo-")
        self._file = Path(self._folder.name) / "rows.parquet"
        self._parts = Parts(self._file, "parquet", {}, resume=False)

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return sources

    def write(self, block: Block) -> None:
        self._parts.write(block)

    def finish(self) -> None:
        self._parts.finish()
        if self._file.exists():  # not without rows
            with open(self._file, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 2**20)
            sys.stdout.buffer.flush()
        self._folder.cleanup()
