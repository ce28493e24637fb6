"""Many pictures on the page: files or archives in, a table with thumbnails and a file to take away out.

Runs in the process of a job (`serve/demo/job.py`), since it opens whatever visitors send.
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
from serve.batch.inputs import Input, Options, Source, expand, total
from serve.batch.pipeline import Block, Job, run
from serve.demo import text as words
from zoo.errors import ZooError
from zoo.images.read import Named, decode
from zoo.model import Row, load

SHOWN = 100  # rows of the table; the file has all
MOST = 20_000  # images: the command streams any number, this keeps the rows in memory
SECONDS = 40.0  # after which no further image is taken, so that there is an answer before the job's deadline
BOUNDS = Bounds(total_bytes=2 * 10**9, members=MOST + 1)  # of an archive: 20,000 photographs of 100 KB
THUMBNAIL = 40


class TimeIsUp(Exception):
    """The rows so far are the answer."""


@dataclass
class Kept:
    """An output of `serve/batch/pipeline.py` that keeps the rows, under the original names of the files.

    folders: what the names begin with. cut: whether images were left out.
    """

    folders: list[str]
    rows: list[Row] = field(default_factory=list)
    cut: bool = False

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        for count, source in enumerate(sources):
            if count == MOST:
                self.cut = True
                return
            yield source

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


def classify(
    paths: list[str], model: str, form: str, folder: str, progress: Callable[[int, int | None], object]
) -> dict[str, Any]:
    """Classify all images of some files.

    Args:
        paths: of files, each in a folder that nothing else is in. folder: an empty one, for the file of all rows.
        form: of that file, "csv" or "parquet". progress: called with the number of images done and of all, None where
        it is not known.
    Returns:
        "table": HTML with the first rows; "file": the name of the file with all.
    Raises:
        ZooError: an archive that cannot be read, no images.
    """
    inputs = [expand(path, Options(bounds=BOUNDS)) for path in paths]
    count = total(inputs)
    kept, started = Kept([f"{Path(path).parent}/" for path in paths]), time.monotonic()

    def watch(block: Block) -> None:
        progress(len(kept.rows), count)
        if time.monotonic() - started > SECONDS:
            raise TimeIsUp

    try:
        caption = run(inputs, Job(load(model, "cpu")), kept, processes=1, on_block=watch).summary_line()
    except TimeIsUp:
        caption, kept.cut = f"{len(kept.rows):,} images in {SECONDS:g} s.", True
    pictures = thumbnails(inputs, min(SHOWN, len(kept.rows)))
    rows = [[picture, *_cells(row)] for picture, row in zip(pictures, kept.rows, strict=False)]
    if kept.cut:
        caption += (
            f" The page takes up to {MOST:,} images and {SECONDS:g} s; the command `zoo predict` takes any number."
        )
    if len(kept.rows) > SHOWN:
        caption += f" The first {SHOWN} are shown; the file has all."
    table = words.table(["picture", "file", "answer", "probability", "what was done"], rows, caption)
    return {"table": table, "file": _written(kept.rows, form, Path(folder)).name}


def _cells(row: Row) -> list[str]:
    if row.error or row.probability is None:
        return [row.input, "–", "", row.error or ""]
    doubt = " (unsure)" if row.unsure else ""
    return [row.input, f"{row.label}{doubt}", words.percent(row.probability), "; ".join(row.corrections)]


def thumbnails(inputs: list[Input], count: int) -> Iterator[str]:
    """Small pictures of the first images as data URLs, "" for what is not one."""
    sources = (source for one in inputs for source in one.images())
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


def _written(rows: list[Row], form: str, folder: Path) -> Path:
    path = folder / f"rows.{form}"
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.ipc.open_stream(encode(rows, "parquet")).read_all(), path)
    else:
        path.write_bytes(header("csv") + encode(rows, "csv"))
    return path
