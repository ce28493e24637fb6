"""Labelled rows of a parquet file, read by a process with limited memory and time.

A small file can declare gigabytes, and a damaged one can crash its reader, so the file is never read in this process.
The child prints one JSON line, then the rows: label, kind of the image and its bytes.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from zoo.errors import BadData, reason
from zoo.images.read import MAX_FILE_BYTES
from zoo.limited import cpu_seconds, limit_process, memory_limit

MAX_MEMORY = 2**31  # of reading a file, beyond what Python and pyarrow need (`zoo.limited.memory_limit`)
BATCH_ROWS = 64
MAX_ROWS = 1_000_000
MAX_TOTAL_BYTES = 2**31  # of all images
HEADER = struct.Struct("<iiq")  # length of the label (-1: none), kind of the image, its length
NOTHING, BYTES, PATH = range(3)


class LabelledRow(NamedTuple):
    label: str | None
    image: bytes | str | None  # the file's bytes, or its path


def read_rows(path: str, name: str, path_names: tuple[str, ...], label_names: tuple[str, ...]) -> Iterator[LabelledRow]:
    """Yield the rows of a parquet file, called `name` in errors. Raises BadData."""
    start = "import sys; sys.path.append(sys.argv[1]); from zoo.datasets.parquet_rows import serve; serve(sys.argv[2])"
    package_folder = str(Path(__file__).parents[2])
    arguments = json.dumps({"path": path, "paths": path_names, "labels": label_names})
    command = [sys.executable, "-P", "-c", start, package_folder, arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield from _rows(process.stdout, name)
        finally:
            process.kill()


def _rows(stream: IO[bytes], name: str) -> Iterator[LabelledRow]:
    crashed = f"{name} crashed the process that read it: it is damaged or needs too much memory."
    try:
        first = json.loads(stream.readline(10_000))
    except ValueError:
        raise BadData(crashed) from None
    if error := first.get("error"):
        raise BadData(f"{name} {error}")
    total = 0
    for _ in range(first["rows"]):
        header = stream.read(HEADER.size)
        if len(header) < HEADER.size:
            raise BadData(crashed)
        label_length, kind, length = HEADER.unpack(header)
        if label_length > 10_000 or not 0 <= length <= MAX_FILE_BYTES:
            raise BadData(crashed)
        label = stream.read(label_length).decode(errors="replace") if label_length >= 0 else None
        total += length
        if total > MAX_TOTAL_BYTES:
            raise BadData(f"{name} holds more than {MAX_TOTAL_BYTES:,} bytes of images: write them as files.")
        content = stream.read(length)
        if len(content) < length:
            raise BadData(crashed)
        yield LabelledRow(label, None if kind == NOTHING else content if kind == BYTES else content.decode())


def serve(arguments: str) -> None:
    """Run the child: print the rows of a file."""
    options, out = json.loads(arguments), sys.stdout.buffer

    def fail(message: str) -> None:
        out.write(json.dumps({"error": message}).encode() + b"\n")

    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return fail("is a parquet file. Reading it needs pyarrow: pip install 'pocketzoo[data]'.")
    size = os.path.getsize(options["path"])
    limit_process(memory_limit(size, MAX_MEMORY), cpu_seconds(size))
    pyarrow.set_cpu_count(1)
    started = False
    try:
        with parquet.ParquetFile(options["path"], pre_buffer=False, buffer_size=2**20) as file:
            schema = file.schema_arrow
            image, label = _columns(schema, options["paths"], options["labels"])
            if not image or not label:
                return fail(f"needs a column of images or paths, and one of labels. It has: {', '.join(schema.names)}.")
            rows = file.metadata.num_rows
            if rows > MAX_ROWS:
                return fail(f"has {rows:,} rows, more than the limit of {MAX_ROWS:,}.")
            names = _class_names(schema, label)
            out.write(json.dumps({"rows": rows}).encode() + b"\n")
            started = True
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[image, label], use_threads=False):
                for value, number in zip(batch.column(image), batch.column(label), strict=True):
                    out.write(b"".join(_encoded(value.as_py(), number.as_py(), names)))
    except Exception as error:  # damage can make pyarrow raise anything
        if not started:
            fail(f"is a damaged parquet file ({reason(error)}): get the file again.")
    out.flush()


def _columns(schema: Any, paths: list[str], labels: list[str]) -> tuple[str | None, str | None]:
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    fields = {field.name: field.type for field in schema}
    structs = [n for n, k in fields.items() if types.is_struct(k) and any(part.name == "bytes" for part in k)]
    images = [*structs, *(n for n, k in fields.items() if is_bytes(k)), *(n for n in paths if n in fields)]
    label = next((name for name in labels if name in fields), None)
    return next(iter(images), None), label


def _class_names(schema: Any, label: str) -> list[str] | None:
    """The names of the classes as Hugging Face's `datasets` stores them, or None."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _encoded(value: Any, label: Any, names: list[str] | None) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        label = names[label]
    text = None if label is None else str(label).encode()[:10_000]
    kind = BYTES if isinstance(value, bytes) else PATH if isinstance(value, str) else NOTHING
    content = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else b""
    yield HEADER.pack(-1 if text is None else len(text), kind, len(content))
    yield text or b""
    yield content
