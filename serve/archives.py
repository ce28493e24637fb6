"""Images inside zip and tar archives and parquet files, read one after the other.

A reader takes a path and gives `(count or None, function that iterates)`. A member that cannot be read is an
`Unreadable`, which becomes a row with an error; the others are not affected.
"""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from zoo.errors import BadInput, reason
from zoo.image import LARGEST, Named

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
LEFT_ALONE = frozenset({"__MACOSX"})  # folders that an archiver adds for itself

_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Unreadable:
    """An image that is known to be there and cannot be read: its row carries the sentence."""

    name: str
    error: str


Contents = Iterator[Named | Unreadable]
Reader = Callable[[str], tuple[int | None, Callable[[], Contents]]]


def looks_like_an_image(start: bytes) -> bool:
    """By the first 12 bytes."""
    is_bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)  # two letters alone also begin many a text
    return start.startswith(_MAGIC) or is_bitmap or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def start_of(path: str, size: int) -> bytes:
    """A file's first bytes; none of what is no file: what a look into a pipe takes out is gone."""
    try:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(size)
    except OSError:
        pass
    return b""


def reader_of(path: str) -> Reader | None:
    """Who reads this file, by its content; None for whatever is not an archive, a missing file included."""
    start = start_of(path, 512)
    if start.startswith(b"PAR1"):
        return read_parquet
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return read_zip
    if start[257:262] == b"ustar" or start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
        return read_tar
    return None


def _is_wanted(member: str, start: bytes) -> bool:
    """Like files of a folder: named like an image or beginning like one, and not hidden."""
    parts = member.replace("\\", "/").split("/")
    if any(part.startswith(".") or part in LEFT_ALONE for part in parts if part not in ("", ".")):
        return False
    return os.path.splitext(member)[1].lower() in SUFFIXES or looks_like_an_image(start)


def read_zip(path: str) -> tuple[None, Callable[[], Contents]]:
    """In the archive's own order. Raises BadInput for a damaged directory."""
    try:
        zipfile.ZipFile(path).close()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{path} is a damaged zip archive ({reason(error)}): get the file again.") from None
    return None, lambda: _zip_members(path)


def _zip_members(path: str) -> Contents:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = f"{path}/{info.filename}"
            try:
                if info.file_size > LARGEST:
                    raise BadInput(f"it holds {info.file_size:,} bytes, more than the {LARGEST:,} that are read")
                with archive.open(info) as member:
                    start = member.read(12)
                    if _is_wanted(info.filename, start):
                        yield Named(name, start + member.read())
            except Exception as error:  # a damaged member can make a decompressor raise anything
                if _is_wanted(info.filename, b""):
                    yield Unreadable(name, f"{name} cannot be read from the archive ({reason(error)}).")


def read_tar(path: str) -> tuple[None, Callable[[], Contents]]:
    """Plain or compressed by gzip, bzip2 or xz, in the archive's own order. Raises BadInput where it is not a tar."""
    try:
        with tarfile.open(path, "r|*"):
            pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise BadInput(f"{path} is not a tar archive that can be read ({reason(error)}): get the file again.") from None
    return None, lambda: _tar_members(path)


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged or a missing header for the end of the archive; only a block of zeros is."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:
                raise
            raise tarfile.ReadError(reason(error)) from None


def _tar_members(path: str) -> Contents:
    try:
        with tarfile.open(path, "r|*", tarinfo=_Header) as archive:
            for info in archive:
                name = f"{path}/{info.name}"
                if (info.islnk() or info.issym()) and _is_wanted(info.name, b""):
                    yield Unreadable(
                        name, f"{name} is a link to {info.linkname}, and links in archives are not followed."
                    )
                if not info.isfile():
                    continue
                if info.size > LARGEST:
                    if _is_wanted(info.name, b""):
                        yield Unreadable(name, f"{name} holds {info.size:,} bytes, more than the {LARGEST:,} read.")
                    continue
                member = archive.extractfile(info)
                data = member.read() if member else b""
                if _is_wanted(info.name, data[:12]):
                    yield Named(name, data)
    except Exception as error:  # as above
        yield Unreadable(path, f"{path} is damaged from here on ({reason(error)}): get the file again.")


def read_parquet(path: str) -> tuple[int, Callable[[], Contents]]:
    """Hugging Face's layout, a struct column with `bytes`, or a plain column of bytes; rows are named PATH/NUMBER.

    Raises BadInput for a damaged file or one without such a column, or where pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f"{path} is a parquet file; reading it needs pyarrow: pip install 'pocketzoo[data]'.") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            column, rows = _image_column(file.schema_arrow), file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} is a damaged parquet file ({reason(error)}): get the file again.") from None
    if column is None:
        raise BadInput(f"{path} has no column of images: neither a struct with `bytes` nor a column of bytes.")
    return rows, lambda: _parquet_rows(path, column)


def _image_column(schema: "pyarrow.Schema") -> str | None:  # type: ignore[name-defined]  # noqa: F821
    from pyarrow import types

    def is_bytes(kind: "pyarrow.DataType") -> bool:  # type: ignore[name-defined]  # noqa: F821
        if types.is_dictionary(kind):  # each image once, and numbers that say which
            kind = kind.value_type
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    for field in schema:
        if types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type):
            return str(field.name)
    return next((str(field.name) for field in schema if is_bytes(field.type)), None)


def _parquet_rows(path: str, column: str) -> Contents:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                values = batch.column(0)
                if pyarrow.types.is_struct(values.type):
                    values = values.field("bytes")
                for data in values.to_pylist():
                    name = f"{path}/{row}"
                    yield Named(name, data) if data is not None else Unreadable(name, f"{name} holds no image bytes.")
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        yield Unreadable(path, f"{path} is damaged from row {row} on ({reason(error)}): get the file again.")
