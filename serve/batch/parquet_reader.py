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
from zoo.limited import cpu_seconds, limited, memory_limit

MAX_MEMORY = 2**30  # of reading a file, beyond what Python and pyarrow need (`zoo.limited.memory_limit`)
STOP = -1  # a request: end the current answer
NULL = -(2**62)  # the size of a row without a value
BATCH_BYTES = 4 * 2**20
BATCH_ROWS = (
    64  # few, because rows of a dictionary with large values need far more memory than the file's size suggests
)
BUFFER_BYTES = 2**20
IDLE_SECONDS = 30.0  # without a request, after which the process ends
# Several workers read a row group, each of them all of its pages. This does not pay for larger groups of larger rows.
SHARED_GROUP_BYTES = 32 * 2**20
SHARED_ROW_BYTES = 16 * 2**10
SAMPLE_SIZE = 16  # batches, and rows per batch, in which a column's first values are searched


class Column(NamedTuple):
    """A column that may hold images."""

    name: str
    number: int  # among the columns of that name
    part: str | None  # "bytes" for a struct


class Layout(NamedTuple):
    """What a worker needs to know to read some rows of a file itself."""

    rows: int  # in the file
    column: Column
    groups: list[int]  # rows of each row group; empty if one of them is too large to be read by several workers


def serve(connection: Any) -> None:
    """Read one file after the other, until the pipe closes or no request comes for `IDLE_SECONDS`.

    Requests: (path, name of the column or None, largest image in bytes) is answered by the file's `Layout`. A row's
    number is answered by lists of sizes, each followed by the bytes, and None at the end; `STOP` ends this answer. A
    size of `NULL` is a row without a value; -n is a row of n bytes, which are more than the largest image. A string in
    place of any answer is an error, phrased to follow the file's name.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # other pools reserve memory in advance
    try:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            connection.recv()
            connection.send("is a parquet file. Reading it needs pyarrow: pip install 'pocketzoo[data]'.")
            return
        pyarrow.set_cpu_count(1)
        request = _next_request(connection)
        while request is not None:
            request = _serve_file(connection, *request)
    except (BrokenPipeError, ConnectionResetError, EOFError):  # the parent has stopped reading
        pass


def _next_request(connection: Any) -> Any:
    return connection.recv() if connection.poll(IDLE_SECONDS) else None


def _serve_file(connection: Any, path: str, column: str | None, member_bytes: int) -> Any:
    """Answer the requests about one file.

    Returns:
        The first request about another file; None if there is none, or if this file was an error.
    """
    import pyarrow
    import pyarrow.parquet

    size = os.path.getsize(path)
    memory = memory_limit(size, MAX_MEMORY)
    try:
        with (
            limited(memory, cpu_seconds(size)),
            pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file,
        ):
            selected = _select_column(file, column)
            if isinstance(selected, str):
                connection.send(selected)
                return _next_request(connection)
            connection.send(Layout(file.metadata.num_rows, selected, _groups(file, selected)))
            while isinstance(request := _next_request(connection), int):
                if request == STOP:  # it came after the end
                    continue
                for sizes, pieces in _read_values(file, selected, member_bytes, request):
                    connection.send(sizes)
                    if pieces:
                        connection.send_bytes(pieces[0] if len(pieces) == 1 else b"".join(pieces))
                    if connection.poll():
                        break
                connection.send(None)
            return request
    except MemoryError:
        connection.send(f"needs more than {memory // 2**20} MiB of memory")
    except damage() as error:
        connection.send(f"is a damaged parquet file ({first_line(error)})")
    return None


def damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises for damaged files. A closed pipe is an OSError too."""
    import pyarrow

    return pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError


def first_line(error: Exception) -> str:
    if isinstance(error, BrokenPipeError | ConnectionResetError):
        raise error
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
        if values := [value for value in iterate(_column_array(batch, column)) if value]:
            return sum(sniff(bytes(value[:32])) is not None for value in values) / len(values)
    return 0.0


def _column_array(batch: Any, column: Column) -> Any:
    import pyarrow

    values = [batch.column(n) for n, name in enumerate(batch.schema.names) if name == column.name][column.number]
    if column.part:
        values = values.field(column.part)
    return values.cast(pyarrow.large_binary())


def _groups(file: Any, column: Column) -> list[int]:
    """`Layout.groups`."""
    rows = []
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        size = _column_size(group, column)
        if size > SHARED_GROUP_BYTES and size > SHARED_ROW_BYTES * group.num_rows:
            return []
        rows.append(group.num_rows)
    return rows if sum(rows) == file.metadata.num_rows and min(rows, default=0) >= 0 else []


def _column_size(group: Any, column: Column) -> int:
    """Bytes of a column in a row group, uncompressed, as the file declares them."""
    return sum(
        part.total_uncompressed_size
        for part in map(group.column, range(group.num_columns))
        if part.path_in_schema.split(".")[0] == column.name
    )


def _read_values(
    file: Any, column: Column, member_bytes: int, first: int = 0
) -> Iterator[tuple[list[int], list[memoryview]]]:
    """Sizes and bytes of all rows from the row `first`, a few megabytes at a time."""
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if first >= rows > 0:
            first -= rows
            continue
        for values in arrays(file, column, number):
            if first < len(values):
                yield from _split_by_size(values[first:], member_bytes)
            first = max(0, first - len(values))


def arrays(file: Any, column: Column, number: int) -> Iterator[Any]:
    """The values of a row group as Arrow arrays of up to `BATCH_ROWS` rows and about `BATCH_BYTES` bytes."""
    group = file.metadata.row_group(number)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(_column_size(group, column), 1)))
    for batch in file.iter_batches(batch_size=rows, row_groups=[number], columns=[column.name], use_threads=False):
        yield _column_array(batch, column)


def _split_by_size(values: Any, member_bytes: int) -> Iterator[tuple[list[int], list[memoryview]]]:
    """Sizes and bytes of an array's rows, in groups of up to `BATCH_BYTES`; a larger row is a group of its own."""
    sizes: list[int] = []
    pieces: list[memoryview] = []
    group_bytes = 0
    for value in iterate(values):
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


def iterate(values: Any) -> Iterator[memoryview | None]:
    """The values of an array of bytes, without copying them."""
    _, offsets, data = values.buffers()
    ends = memoryview(offsets or b"").cast("q")[values.offset :]
    content = memoryview(data or b"")
    for row, valid in enumerate(values.is_valid().to_pylist()):
        yield content[ends[row] : ends[row + 1]] if valid else None
