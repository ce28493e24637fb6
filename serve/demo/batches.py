"""Many pictures on the page: files or archives in, a table with thumbnails and a file to take away out."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import gradio as gr

from serve.batch import run
from serve.blocks import Block, Job
from serve.demo import words
from serve.demo.files import new_folder
from serve.encodings import encode, head
from serve.service import Service
from serve.sources import Input, Source, expand, total
from zoo.errors import ZooError
from zoo.image import Named, decode
from zoo.rows import Row

SHOWN = 100  # rows of the table; the file has all
MOST = 50_000  # images: the command streams any number, this keeps the rows in memory
THUMBNAIL = 40


@dataclass
class Kept:
    """An output of `serve/batch.py` that keeps the rows, under the names that the files had where they came from."""

    folders: list[str]
    rows: list[Row] = field(default_factory=list)

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        return islice(sources, MOST)

    def write(self, block: Block) -> None:
        self.rows += [self._renamed(row) for row in block.payload if isinstance(row, Row)]

    def finish(self) -> None:
        pass

    def _renamed(self, row: Row) -> Row:
        for folder in self.folders:
            if row.input.startswith(folder):
                error = row.error and row.error.replace(folder, "")
                return replace(row, input=row.input.removeprefix(folder), error=error)
        return row


def classify(service: Service, paths: list[str] | None, name: str, form: str, progress: Any) -> tuple[str, str | None]:
    """A table of the first rows, and the path of a file with all, "csv" or "parquet"."""
    if not paths:
        return words.HINT, None
    try:
        inputs = [expand(path) for path in paths]
        count = total(inputs)
        kept = Kept([str(Path(path).parent) + "/" for path in paths])
        summary = run(inputs, Job(service.runner(name).model), kept,
                      watch=lambda block: progress((len(kept.rows), count), unit="images"))  # fmt: skip
    except ZooError as error:
        raise gr.Error(str(error), print_exception=False) from None
    pictures = thumbnails(inputs, min(SHOWN, len(kept.rows)))
    rows = [[picture, *_told(row)] for picture, row in zip(pictures, kept.rows, strict=False)]
    more = f" The first {SHOWN} are shown; the file has all." if len(kept.rows) > SHOWN else ""
    table = words.table(["picture", "file", "answer", "probability", "what was done"], rows, summary.told() + more)
    return table, _written(kept.rows, form)


def _told(row: Row) -> list[str]:
    if row.error or row.probability is None:
        return [row.input, "–", "", row.error or ""]
    doubt = " (unsure)" if row.unsure else ""
    return [row.input, f"{row.label}{doubt}", words.percent(row.probability), "; ".join(row.corrections)]


def thumbnails(inputs: list[Input], count: int) -> Iterator[str]:
    """Small pictures of the first images as data URLs, "" for what is not one."""
    sources = (source for given in inputs for source in given.images())
    for source in islice(sources, count):
        yield _thumbnail(source)


def _thumbnail(source: Source) -> str:
    if not isinstance(source, str | Named):
        return ""
    try:
        pixels = decode(source).pixels
    except ZooError:
        return ""
    scale = THUMBNAIL / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 3 and small.shape[2] >= 3:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR if small.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return "data:image/png;base64," + b64encode(cv2.imencode(".png", small)[1].tobytes()).decode()


def _written(rows: list[Row], form: str) -> str:
    path = new_folder("rows") / f"rows.{form}"
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.ipc.open_stream(encode(rows, "parquet")).read_all(), path)
    else:
        path.write_bytes(head("csv") + encode(rows, "csv"))
    return str(path)
