"""Classifies many images for the page: takes files or archives, returns a table with thumbnails and a file to download.

It runs in the process of a job (`serve/demo/job.py`), because it opens whatever visitors send.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

from serve.batch.archives import Bounds
from serve.batch.formats import encode, header
from serve.batch.inputs import ImageArgument, Options, Source, expand, total
from serve.batch.pipeline import BatchJob, Block, run
from serve.demo import text
from zoo.columns import Columns
from zoo.errors import ZooError
from zoo.images.read import Named, decode
from zoo.loading import load
from zoo.rows import Row

TABLE_ROWS = 100  # the file has all rows
MAX_IMAGES = 20_000  # the command streams any number, this module keeps the rows in memory
TIME_LIMIT_S = 40.0  # then no further image is taken, so that the result is ready before the job's deadline
BOUNDS = Bounds(total_bytes=2 * 10**9, members=MAX_IMAGES + 1)  # of an archive: 20,000 photographs of 100 KB
THUMBNAIL_PIXELS = 64
FILTERS = (  # page.css hides the other rows
    '<fieldset class="zoo-filter" aria-label="Rows to show">'
    + "".join(
        f'<label><input type="radio" name="zoo-rows" value="{value}"{checked}> {title}</label>'
        for value, title, checked in (
            ("all", "all rows", " checked"),
            ("doubt", "unsure or none of the classes", ""),
            ("error", "errors", ""),
        )
    )
    + "</fieldset>"
)


class TimeLimitReached(Exception):
    """The result is the rows so far."""


@dataclass
class RowCollector:
    """An output of `serve/batch/pipeline.py` that keeps the rows, with the names that visitors gave to their files."""

    folders: list[str]  # removed from the beginning of names
    rows: list[Row] = field(default_factory=list)
    truncated: bool = False  # whether images were left out

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        for count, source in enumerate(sources):
            if count == MAX_IMAGES:
                self.truncated = True
                return
            yield source

    def write(self, block: Block) -> None:
        self.rows += [self._rename(row) for row in block.payload if isinstance(row, Row)]

    def finish(self) -> None:
        pass

    def _rename(self, row: Row) -> Row:
        for folder in self.folders:
            if row.input.startswith(folder):
                error = row.error and row.error.replace(folder, "")
                return replace(row, input=row.input.removeprefix(folder), error=error)
        return row


def classify(
    paths: list[str], model: str, form: str, folder: str, progress: Callable[[int, int | None], object]
) -> dict[str, Any]:
    """Classify all images of some files.

    Args:
        paths: of the files; each is alone in its folder.
        folder: an empty folder for the file of all rows.
        form: of that file, "csv" or "parquet".
        progress: called with the number of images done, and of all images; None if that is not known.

    Returns:
        "table": HTML with the first rows; "file": the name of the file with all rows.

    Raises:
        ZooError: an archive cannot be read, or there are no images.
    """
    inputs = [expand(path, Options(bounds=BOUNDS)) for path in paths]
    count = total(inputs)
    collector, started = RowCollector([f"{Path(path).parent}/" for path in paths]), time.monotonic()

    def watch(block: Block) -> None:
        progress(len(collector.rows), count)
        if time.monotonic() - started > TIME_LIMIT_S:
            raise TimeLimitReached

    try:
        caption = run(inputs, BatchJob(load(model, "cpu")), collector, processes=1, on_block=watch).summary_line()
    except TimeLimitReached:
        caption, collector.truncated = f"{len(collector.rows):,} images in {TIME_LIMIT_S:g} s.", True
    images = thumbnails(inputs, min(TABLE_ROWS, len(collector.rows)))
    rows = [[image, *_cells(row)] for image, row in zip(images, collector.rows, strict=False)]
    if collector.truncated:
        caption += f" The limits of the page are {MAX_IMAGES:,} images and {TIME_LIMIT_S:g} s; `zoo predict` has none."
    if len(collector.rows) > TABLE_ROWS:
        caption += f" The table shows the first {TABLE_ROWS}; the file has all."
    header_cells = ["image", "file", "label", "probability", "corrections or error"]
    classes = map(_row_class, collector.rows)
    table = text.table(header_cells, rows, caption, classes, FILTERS)
    return {"table": table, "file": _write(collector.rows, form, Path(folder)).name}


def _row_class(row: Row) -> str:
    if row.error is not None:
        return "zoo-error"
    return "zoo-doubt" if row.unsure or row.known is False else ""


def _cells(row: Row) -> list[str]:
    if row.error or row.probability is None:
        return [row.input, "–", "", row.error or ""]
    doubt = "none of the classes" if row.known is False else "unsure" if row.unsure else ""
    return [row.input, f"{row.label}\t{doubt}", text.percent(row.probability), "; ".join(row.corrections)]


def thumbnails(inputs: list[ImageArgument], count: int) -> Iterator[str]:
    """Thumbnails of the first images as data URLs; "" for a file that cannot be read."""
    sources = (source for argument in inputs for source in argument.images())
    for source in islice(sources, count):
        yield _thumbnail(source)


def _thumbnail(source: Source) -> str:
    if not isinstance(source, str | Named):
        return ""
    try:
        pixels = decode(source).pixels
    except ZooError:
        return ""
    scale = THUMBNAIL_PIXELS / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 3 and small.shape[2] >= 3:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR if small.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return "data:image/png;base64," + b64encode(cv2.imencode(".png", small)[1].tobytes()).decode()


def _write(rows: list[Row], form: str, folder: Path) -> Path:
    path = folder / f"rows.{form}"
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.ipc.open_stream(encode(Columns.from_rows(rows), "parquet")).read_all(), path)
    else:
        path.write_bytes(header("csv") + encode(Columns.from_rows(rows), "csv"))
    return path
