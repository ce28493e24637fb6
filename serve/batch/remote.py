"""Archives that are not local files: read in pieces by several requests at a time, in bounded memory.

Tar and zip archives are streamed. A parquet file is copied to a temporary file piece by piece, because the process that
reads it within limits (`serve/batch/parquet.py`) has no network; the copy is removed when the file has been read.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serve.batch.archives import HEADER_BYTES, Archive, Bounds, Unreadable, archive_from
from zoo.errors import BadInput
from zoo.images.read import Named

if TYPE_CHECKING:
    from serve.batch.inputs import StoredObject

PIECE_BYTES = 4 * 2**20
PIECES_AHEAD = 4  # requested at a time for one file; the memory for a file is this and one more piece
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip", ".parquet")


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere, and how to request a piece of it."""

    name: str  # its address
    size: int  # bytes
    request: Callable[[int, int], Future[bytes]]  # the bytes from a start up to an end; fails with BadInput


class RemoteReader(io.RawIOBase):
    """A remote file as an open file. While it is read in order, the next pieces are requested in advance."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0
        self._pieces: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._last = -1  # the piece that was read last

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Raises BadInput if the piece cannot be read after all retries."""
        target = memoryview(buffer).cast("B")
        if self._position >= self._file.size or not target:
            return 0
        number, start = divmod(self._position, PIECE_BYTES)
        part = self._piece(number)[start : start + len(target)]
        target[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _piece(self, number: int) -> bytes:
        ahead = PIECES_AHEAD if number in (self._last, self._last + 1) else 1
        self._last = number
        for wanted in range(number, number + ahead):
            start = wanted * PIECE_BYTES
            if wanted not in self._pieces and start < self._file.size:
                self._pieces[wanted] = self._file.request(start, min(start + PIECE_BYTES, self._file.size))
        for old in [one for one in self._pieces if not number <= one < number + PIECES_AHEAD]:
            self._pieces.pop(old).cancel()
        content = self._pieces[number].result()
        if len(content) != min(PIECE_BYTES, self._file.size - number * PIECE_BYTES):
            raise BadInput(f"{self._file.name} has changed while it was read: run again when it is complete.")
        return content

    def close(self) -> None:
        for piece in self._pieces.values():
            piece.cancel()
        self._pieces.clear()
        super().close()


def is_shard(name: str) -> bool:
    """Whether a name has the suffix of an archive or of a parquet file."""
    return name.lower().endswith(SHARD_SUFFIXES)


def remote_archive(file: RemoteFile, bounds: Bounds, column: str | None) -> Archive:
    """The archive in a remote file, recognised by its content. Raises BadInput if it is none, or cannot be read."""
    start = file.request(0, min(HEADER_BYTES, file.size)).result() if file.size else b""
    archive = archive_from(file.name, start, bounds, column)
    if archive is None:
        raise BadInput(f"{file.name} is not a tar or zip archive or a parquet file: check it.")
    if start.startswith(b"PAR1"):
        return _RemoteParquet(file, bounds, column)
    archive.size, archive.open = file.size, lambda: RemoteReader(file)  # type: ignore[method-assign]
    return archive


class LazyArchive(Archive):
    """An archive that is opened when its images are needed; what prevents that becomes an `Unreadable`."""

    def __init__(
        self, path: str, bounds: Bounds, open_archive: Callable[[], Archive], stored: StoredObject | None = None
    ) -> None:
        """`stored` is the object that contains the archive."""
        super().__init__(path, bounds)
        self._open_archive, self.stored = open_archive, stored

    def __iter__(self) -> Iterator[Any]:
        try:
            archive = self._open_archive()
        except BadInput as error:
            yield Unreadable(self.path, str(error))
            return
        yield from archive
        self.skipped = archive.skipped


class _RemoteParquet(Archive):
    """A parquet file that is copied to a temporary file while its images are read."""

    def __init__(self, file: RemoteFile, bounds: Bounds, column: str | None) -> None:
        super().__init__(file.name, bounds)
        self._file, self._column = file, column

    def check(self) -> None:
        """Nothing is checked before the file is read."""

    def __iter__(self) -> Iterator[Any]:
        from serve.batch.parquet import Parquet

        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            path = os.path.join(folder, "shard.parquet")
            try:
                self._copy_to(path)
            except BadInput as error:
                yield Unreadable(self.path, str(error))
                return
            except OSError as error:
                yield Unreadable(self.path, f"{self.path} cannot be copied to {folder} ({error.strerror}).")
                return
            for image in Parquet(path, self.bounds, self._column):
                name = image.name.replace(path, self.path, 1)
                if isinstance(image, Named):
                    yield Named(name, image.data)
                else:
                    yield replace(image, name=name, error=image.error.replace(path, self.path))

    def _copy_to(self, path: str) -> None:
        free = shutil.disk_usage(os.path.dirname(path)).free
        if self._file.size > free:
            raise BadInput(
                f"{self.path} has {self._file.size:,} bytes, but {tempfile.gettempdir()} has {free:,} free: "
                "set TMPDIR to a larger disk."
            )
        with RemoteReader(self._file) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, PIECE_BYTES)
