"""Rows of a parquet file that a worker process reads itself, so that their bytes do not pass through the parent.

While a worker reads, its memory and CPU time are limited, because the file may be hostile (`serve/batch/parquet.py`).
If a worker exceeds a limit, dies or finds damage, the parent lets the separate process that reads all other parquet
files read the rows, with more memory. The errors of that process are what the rows report.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from serve.batch import parquet_reader
from serve.batch.archives import Unreadable
from zoo.images.read import Named
from zoo.limited import data_bytes, limited

MEMORY = 64 * 2**20  # of each worker: the pages of one column, and what they decompress to
KEPT_MEMORY = 2**28  # of each worker, beyond what it had at its first read, whatever files make it keep
CPU_SECONDS = 10  # plus one for each 10 MB of the file


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one row group."""

    path: str
    column: parquet_reader.Column
    group: int  # the number of the row group
    skip: int  # rows of the group that come before these
    first: int  # the number of the first row in the file
    count: int
    member_bytes: int  # of the largest image
    archive: Any = field(default=None, compare=False)  # the `Parquet` that these rows are part of; only in the parent

    def __reduce__(self) -> tuple[type[Rows], tuple[Any, ...]]:
        return Rows, (self.path, self.column, self.group, self.skip, self.first, self.count, self.member_bytes)

    @property
    def name(self) -> str:
        return f"{self.path}/{self.first}"


class ReadRows(NamedTuple):
    """Rows that a worker has read, and their cost."""

    images: list[Named | Unreadable]
    size: int  # bytes
    seconds: float  # CPU time


class _Cursor:
    """Reads a file's rows in ascending order."""

    def __init__(self, rows: Rows) -> None:
        import pyarrow
        import pyarrow.parquet

        if pyarrow.default_memory_pool().backend_name != "system":  # imported before `serve.batch`
            pyarrow.set_memory_pool(pyarrow.system_memory_pool())
        self.path, self.column = rows.path, rows.column
        self.file = pyarrow.parquet.ParquetFile(rows.path, pre_buffer=False, buffer_size=parquet_reader.BUFFER_BYTES)
        self.group, self.position = -1, 0  # the next row
        self._arrays: Iterator[Any] = iter(())
        self._rest: Any = None  # what is left of the current array

    def fits(self, rows: Rows) -> bool:
        return (self.path, self.column) == (rows.path, rows.column)

    def read(self, rows: Rows) -> Iterator[Any]:
        """Arrays of the values."""
        if rows.group != self.group or rows.skip < self.position:
            self.group, self.position, self._rest = rows.group, 0, None
            self._arrays = parquet_reader.arrays(self.file, self.column, rows.group)
        end = rows.skip + rows.count
        while self.position < end:
            values = self._rest if self._rest is not None else next(self._arrays)
            start = min(max(0, rows.skip - self.position), len(values))
            stop = min(end - self.position, len(values))
            if stop > start:
                yield values[start:stop]
            self.position += stop
            self._rest = values[stop:] if stop < len(values) else None


_cursor: _Cursor | None = None  # of the file that this process read last
_data_at_start: int | None = None  # of this process, in bytes, at its first read


def read(rows: Rows) -> ReadRows | None:
    """Read rows within the limits; None if that is not possible."""
    global _cursor, _data_at_start
    started = time.process_time()
    cursor, _cursor = _cursor, None
    images: list[Named | Unreadable] = []
    size = 0
    try:
        seconds = CPU_SECONDS + os.path.getsize(rows.path) // 10**7
        if _data_at_start is None:
            _data_at_start = data_bytes()
        max_data = None if _data_at_start is None else _data_at_start + KEPT_MEMORY
        with limited(MEMORY, seconds, max_data):
            if cursor is None or not cursor.fits(rows):
                cursor = _Cursor(rows)
            for values in cursor.read(rows):
                for value in parquet_reader.iterate(values):
                    name = f"{rows.path}/{rows.first + len(images)}"
                    if value is None:
                        images.append(without_bytes(name))
                    elif len(value) > rows.member_bytes:
                        return None  # the parent words the error
                    else:
                        images.append(Named(name, bytes(value)))
                        size += len(value)
    except (MemoryError, StopIteration, RuntimeError, ImportError):
        return None
    except parquet_reader.damage():
        return None
    _cursor = cursor
    return ReadRows(images, size, time.process_time() - started)


def without_bytes(name: str) -> Unreadable:
    return Unreadable(name, f"{name} has no image bytes.")


def split(archive: Any, layout: parquet_reader.Layout, first: int, count: int, member_bytes: int) -> Iterator[Rows]:
    """All rows of a file from row `first`, `count` at a time."""
    rows = Rows(archive.path, layout.column, 0, 0, 0, 0, member_bytes, archive)
    start = 0
    for group, length in enumerate(layout.groups):
        for skip in range(max(0, first - start), length, count):
            yield replace(rows, group=group, skip=skip, first=start + skip, count=min(count, length - skip))
        start += length
