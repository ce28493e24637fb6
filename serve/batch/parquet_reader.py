"""The child process that reads a parquet file; the parent's end of the pipe is `serve/batch/parquet.py`.

It imports little besides pyarrow, so that it starts quickly.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from zoo.images.headers import sniff

# The memory limit is three times the file's size (a page compressed and decompressed, and its rows), within these
# bounds, in bytes beyond what Python and pyarrow need.
MIN_MEMORY = 256 * 2**20
MAX_MEMORY = 2**30
CPU_SECONDS = 60  # plus one per megabyte of the file
NULL = -(2**62)  # the size of a row without a value
BATCH_BYTES = 4 * 2**20
BATCH_ROWS = (
    64  # few, because rows of a dictionary with large values need far more memory than the file's size suggests
)
SAMPLE_SIZE = 16  # batches, and rows per batch, in which a column's first values are searched


class Column(NamedTuple):
    """A column that may hold images."""

    name: str
    number: int  # among the columns of that name
    part: str | None  # "bytes" for a struct


def serve(connection: Any, path: str, column: str | None, member_bytes: int) -> None:
    """Send the number of rows, then lists of sizes, each followed by the bytes, and None at the end.

    A size of `NULL` is a row without a value; -n is a row of n bytes, which are more than `member_bytes`. A string in
    place of any message is an error, phrased to follow the file's name.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    try:
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # other pools reserve memory in advance
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            connection.send("is a parquet file. Reading it needs pyarrow: pip install 'pocketzoo[data]'.")
            return
        size = os.path.getsize(path)
        memory = min(max(MIN_MEMORY, 3 * size), MAX_MEMORY)
        _limit_resources(memory, CPU_SECONDS + size // 10**6)
        pyarrow.set_cpu_count(1)
        try:
            with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                selected = _select_column(file, column)
                if isinstance(selected, str):
                    connection.send(selected)
                    return
                connection.send(file.metadata.num_rows)
                for sizes, pieces in _read_values(file, selected, member_bytes):
                    connection.send(sizes)
                    if pieces:
                        connection.send_bytes(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            connection.send(None)
        except MemoryError:
            connection.send(f"needs more than {memory // 2**20} MiB of memory")
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            connection.send(f"is a damaged parquet file ({lines[0][:200]})")
    except (BrokenPipeError, ConnectionResetError):  # the parent has stopped reading
        pass


def _limit_resources(memory: int, seconds: int) -> None:
    """Limit the additional memory and the CPU time of this process, if the system can."""
    try:
        import resource

        with open("/proc/self/status", encoding="ascii") as status:
            used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    except (ImportError, OSError, StopIteration):
        return
    for limit, value in (
        (resource.RLIMIT_DATA, used + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY or value < hard:
            resource.setrlimit(limit, (value, value))


def _columns(schema: Any) -> Iterator[Column]:
    """Columns that may hold images: first structs with `bytes`, then bytes."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        if types.is_dictionary(kind):  # distinct images, and indices into them
            kind = kind.value_type
        tests = ("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary")
        return any(getattr(types, test)(kind) for test in tests if hasattr(types, test))

    seen: dict[str, int] = {}
    bytes_columns = []
    for field in schema:
        number = seen[field.name] = seen.get(field.name, -1) + 1
        if types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type):
            yield Column(field.name, number, "bytes")
        elif is_bytes(field.type):
            bytes_columns.append(Column(field.name, number, None))
    yield from bytes_columns


def _select_column(file: Any, name: str | None) -> Column | str:
    """The column with the images, or an error message."""
    columns = list(_columns(file.schema_arrow))
    if name is not None:
        matching = [column for column in columns if column.name == name]
        names = ", ".join(sorted({column.name for column in columns})) or "none"
        return matching[0] if matching else f"has no bytes column {name!r}. Bytes columns: {names}."
    if not columns:
        return "has no image column: neither a struct with `bytes` nor a column of bytes."
    if len(columns) == 1:
        return columns[0]
    return max(columns, key=lambda column: _share_of_images(file, column))  # the first one if shares are equal


def _share_of_images(file: Any, column: Column) -> float:
    """The share of values that begin like an image, in the first rows with values."""
    batches = file.iter_batches(batch_size=SAMPLE_SIZE, columns=[column.name], use_threads=False)
    for batch in islice(batches, SAMPLE_SIZE):
        if values := [value for value in _iterate(_column_array(batch, column)) if value]:
            return sum(sniff(bytes(value[:32])) is not None for value in values) / len(values)
    return 0.0


def _column_array(batch: Any, column: Column) -> Any:
    import pyarrow

    values = [batch.column(n) for n, name in enumerate(batch.schema.names) if name == column.name][column.number]
    if column.part:
        values = values.field(column.part)
    return values.cast(pyarrow.large_binary())


def _read_values(file: Any, column: Column, member_bytes: int) -> Iterator[tuple[list[int], list[memoryview]]]:
    """Sizes and bytes of all rows, a few megabytes at a time."""
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        size = sum(
            part.total_uncompressed_size
            for part in map(group.column, range(group.num_columns))
            if part.path_in_schema.split(".")[0] == column.name
        )
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(size, 1)))
        batches = file.iter_batches(batch_size=rows, row_groups=[number], columns=[column.name], use_threads=False)
        for batch in batches:
            yield from _split_by_size(_column_array(batch, column), member_bytes)


def _split_by_size(values: Any, member_bytes: int) -> Iterator[tuple[list[int], list[memoryview]]]:
    """Sizes and bytes of an array's rows, in groups of up to `BATCH_BYTES`; a larger row is a group of its own."""
    sizes: list[int] = []
    pieces: list[memoryview] = []
    group_bytes = 0
    for value in _iterate(values):
        size = NULL if value is None else -len(value) if len(value) > member_bytes else len(value)
        if pieces and group_bytes + size > BATCH_BYTES:
            yield sizes, pieces
            sizes, pieces, group_bytes = [], [], 0
        sizes.append(size)
        if value and size > 0:
            pieces.append(value)
            group_bytes += size
    if sizes:
        yield sizes, pieces


def _iterate(values: Any) -> Iterator[memoryview | None]:
    """The values of an array of bytes, without copying them."""
    _, offsets, data = values.buffers()
    ends = memoryview(offsets or b"").cast("q")[values.offset :]
    content = memoryview(data or b"")
    for row, valid in enumerate(values.is_valid().to_pylist()):
        yield content[ends[row] : ends[row + 1]] if valid else None
