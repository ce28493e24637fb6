"""Select and check the output of `zoo predict`; write rows to stdout."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from serve.batch.archives import is_image, start_of
from serve.batch.formats import Encoding, check_available, header
from serve.batch.inputs import Source, is_stored
from serve.batch.pipeline import Block, Output
from zoo.errors import WrongUsage, printable

SUFFIXES: dict[str, Encoding] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def encoding_of(out: str | None, output_format: str | None) -> Encoding:
    """The format of --format, else that of the file's suffix, else a table. Raises WrongUsage."""
    by_suffix = "table" if out is None else SUFFIXES.get(Path(out).suffix.lower())
    encoding: Encoding | None = output_format or by_suffix  # type: ignore[assignment]  # checked by click
    if encoding is None:
        raise WrongUsage(f"Unknown output format of {out}: use .jsonl, .csv or .parquet, or add --format.")
    check_available(encoding)
    return encoding


def check_out(out: str, inputs: Iterable[str]) -> None:
    """Raise WrongUsage if the file cannot be written, is an image, or is one of the files that are read.

    Args:
        out: Path of the output file.
        inputs: Paths of all files that are read.
    """
    path = Path(out)
    if is_stored(out):
        if out.endswith("/") or is_image(out):
            raise WrongUsage(f"{out} is a prefix or has the suffix of an image: choose another output file.")
        if out in inputs:
            raise WrongUsage(f"{out} is one of the input files: choose another output file.")
        return
    if path.is_dir():
        raise WrongUsage(f"{out} is a folder: -o needs a file name.")
    if not path.parent.is_dir():
        raise WrongUsage(f"Cannot write {out}: the folder {path.parent} does not exist.")
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{out} is a pipe or a device: use a file, or leave out -o and redirect stdout.")
    if is_image(out, start_of(out)):
        raise WrongUsage(f"{out} is an image or has the suffix of one: choose another output file.")
    if path.exists():
        out_status = path.stat()
        for name in inputs:
            with suppress(OSError, ValueError):
                if os.path.samestat(os.stat(name), out_status):
                    raise WrongUsage(f"{out} is one of the input files: choose another output file.")


def open_output(out: str | None, encoding: Encoding, options: dict[str, Any], resume: bool, width: int) -> Output:
    """A file, or stdout.

    Args:
        out: Path of the file; None for stdout.
        encoding: Format of the rows.
        options: Everything that decides the rows besides the images, as for `Parts`.
        resume: Continue an interrupted run.
        width: Of a table's name column.
    Raises:
        WrongUsage, OutputError.
    """
    if out is not None and is_stored(out):
        from serve.batch.stored_output import StoredParts

        return StoredParts(out, encoding, options, resume, width)
    if out is not None:
        from serve.batch.resume import Parts

        return Parts(Path(out), encoding, options, resume, width)
    if resume:
        raise WrongUsage("--resume needs the output file of the interrupted run: add -o FILE.")
    return ParquetOnStdout() if encoding == "parquet" else Stdout(encoding, width)


class Stdout:
    """Prints text, block by block."""

    def __init__(self, encoding: Encoding, width: int) -> None:
        self._header: bytes | None = header(encoding, width)
        self._is_table = encoding == "table"

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return sources

    def write(self, block: Block) -> None:
        start, self._header = self._header or b"", None
        text = (start + block.payload).decode()
        if not self._is_table and sys.stdout.isatty():
            text = "\n".join(map(printable, text.split("\n")))
        # click removes the colours of a table unless stdout is a terminal; it must not change other formats.
        click.echo(text, nl=False, color=None if self._is_table else True)
        sys.stdout.flush()

    def finish(self) -> None:
        pass


class ParquetOnStdout:
    """Writes a parquet file to a temporary folder first, because its index is written last."""

    def __init__(self) -> None:
        import tempfile

        from serve.batch.resume import Parts

        if sys.stdout.isatty():
            raise WrongUsage("Parquet is a binary format: use -o FILE, or pipe stdout to a file.")
        self._folder = tempfile.TemporaryDirectory(prefix="zoo-")
        self._file = Path(self._folder.name) / "rows.parquet"
        self._parts = Parts(self._file, "parquet", {}, resume=False)

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return sources

    def write(self, block: Block) -> None:
        self._parts.write(block)

    def finish(self) -> None:
        import shutil

        self._parts.finish()
        if self._file.exists():  # it does not if there are no rows
            with open(self._file, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 2**20)
            sys.stdout.buffer.flush()
        self._folder.cleanup()
