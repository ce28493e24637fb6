"""Files that contain images: how they are recognised, and what bounds hold for all of them.

A member that cannot be read is an `Unreadable`, which becomes a row with an error; other members are not affected. No
size that an archive declares is trusted: unpacked bytes are counted, and only one member is in memory at a time. The
kinds of archives are in `zip_tar.py` and `parquet.py`, which are imported when there is one.
"""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from zoo.errors import BadInput, reason
from zoo.images.headers import sniff
from zoo.images.read import MAX_FILE_BYTES

SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .gif .bmp .dib .tif .tiff .avif .heic .heif .jp2 .j2k .jpx .jxl .ico .tga "
    ".cur .icns .mpo .pbm .pgm .ppm .pnm .pam .pfm .pcx .qoi .psd .dds .exr .hdr .sgi .xbm .xpm .eps .svg".split()
)
IGNORED_FOLDERS = frozenset({"__MACOSX"})  # macOS adds it with metadata
MAGIC_BYTES = 32  # enough of a file to recognise an image
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # first bytes of gzip, bzip2 and xz files
HEADER_BYTES = 512  # enough of a file to recognise an archive
MIN_UNPACKED_BYTES = 2**28  # that any archive may unpack to, however small it is


@dataclass(frozen=True)
class Bounds:
    """Limits for one archive. Images before a limit is reached are classified; the rest becomes one error row."""

    total_bytes: int = 2**40  # unpacked
    member_bytes: int = 80 * 10**6  # of one image, unpacked: 25 megapixels of uncompressed RGB
    members: int = 10_000_000  # files or rows
    ratio: int = 100  # unpacked bytes per byte of the archive; `MIN_UNPACKED_BYTES` are allowed in any case

    def for_images_of(self, megapixels: float) -> "Bounds":
        """Bounds whose members may be uncompressed RGB images of that size."""
        return replace(self, member_bytes=min(MAX_FILE_BYTES, max(self.member_bytes, int(3.2e6 * megapixels))))


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read; its row has the error message."""

    name: str
    error: str
    original: Any = None  # the source, if it was replaced because it crashed a worker process


class Exhausted(Exception):
    """An archive exceeds its bounds; the message names the limit."""


class Budget:
    """The part of an archive's bounds that is not used up."""

    def __init__(self, path: str, bounds: Bounds, size: int | None = None) -> None:
        """`size` is the archive's, in bytes; by default that of the file."""
        size = os.path.getsize(path) if size is None else size
        self._members = self._max_members = bounds.members
        self._max_bytes = min(bounds.total_bytes, max(bounds.ratio * size, MIN_UNPACKED_BYTES))
        self._bytes = self._max_bytes

    def count_member(self, number: int = 1) -> None:
        """Count members; a negative number takes some back. Raises Exhausted."""
        self._members -= number
        if self._members < 0:
            raise Exhausted(f"it has more than {self._max_members:,} members")

    def count_bytes(self, size: int) -> None:
        """Count unpacked bytes. Raises Exhausted."""
        self._bytes -= size
        if self._bytes < 0:
            raise Exhausted(f"it unpacks to more than {self._max_bytes:,} bytes")


class Archive:
    """A file that contains images."""

    def __init__(self, path: str, bounds: Bounds) -> None:
        self.path, self.bounds = path, bounds
        self.count: int | None = None  # number of images; None if it is only known after reading
        self.skipped = 0  # members that are not images, in the last iteration
        self.size: int | None = None  # in bytes, of an archive that is not a local file

    def open(self) -> io.RawIOBase:
        """The bytes of the archive; `serve.batch.remote` replaces this for archives elsewhere."""
        return io.FileIO(self.path)

    def check(self) -> None:
        """Read the archive's beginning or its directory. Raises BadInput if that is damaged."""
        raise NotImplementedError

    def read_in_workers(self, enabled: bool) -> None:
        """Whether iterations may give `Rows` from now on, which worker processes read."""

    def __iter__(self) -> Iterator[Any]:
        """Images: `Named` or `Unreadable`; after `read_in_workers` also `Rows`."""
        self.skipped = 0
        return self._guarded(lambda: self._members(Budget(self.path, self.bounds, self.size)))

    def _guarded(self, members: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The images among the members; the first error ends them and becomes an `Unreadable`."""
        has_members = False
        try:
            for member in members():
                has_members = True
                if member is None:
                    self.skipped += 1
                else:
                    yield member
        except BadInput as error:
            yield Unreadable(self.path, str(error))
        except Exhausted as error:
            yield Unreadable(self.path, f"{self.path} exceeds a limit ({error}): unpack it and pass the folder.")
        except Exception as error:  # damage can make a decompressor raise anything
            damage = "is damaged from here on" if has_members else "is a damaged archive"
            yield Unreadable(self.path, f"{self.path} {damage} ({reason(error)}): get the file again.")

    def _members(self, budget: Budget) -> Iterator[Any]:
        """Images in the archive's order, and None for each other member."""
        raise NotImplementedError

    def _too_large(self, name: str, size: int) -> Unreadable:
        limit = self.bounds.member_bytes
        return Unreadable(name, f"{name} has {size:,} bytes, more than the limit of {limit:,} for an image.")


def start_of(path: str, size: int = MAGIC_BYTES) -> bytes:
    """The first bytes of a regular file; b"" for anything else, because reading from a pipe would consume it."""
    try:
        if os.path.isfile(path):
            with open(path, "rb", buffering=0) as file:
                return file.read(size) or b""
    except (OSError, ValueError):
        pass
    return b""


def archive_at(path: str, bounds: Bounds, column: str | None = None) -> Archive | None:
    """The archive at a path, recognised by its content; None for other files and missing ones."""
    return archive_from(path, start_of(path, HEADER_BYTES), bounds, column)


def archive_from(path: str, start: bytes, bounds: Bounds, column: str | None = None) -> Archive | None:
    """The same for a file whose first bytes, `HEADER_BYTES` or more, have been read; `column` is for parquet files."""
    if start.startswith(b"PAR1"):
        from serve.batch.parquet import Parquet

        return Parquet(path, bounds, column)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        from serve.batch.zip_tar import Zip

        return Zip(path, bounds)
    if start.startswith(COMPRESSED) or _has_tar_checksum(start):
        from serve.batch.zip_tar import Tar, is_tar

        if start.startswith(COMPRESSED) or is_tar(start[:HEADER_BYTES]):
            return Tar(path, bounds)
    return None


def _has_tar_checksum(start: bytes) -> bool:
    """Whether the checksum field of a tar header could be one: an octal number, or a binary one of GNU tar."""
    checksum = start[148:156].split(b"\0")[0].strip()
    return start[148:149] in (b"\x80", b"\xff") or (len(checksum) > 0 and not checksum.strip(b"01234567"))


def has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder with this name is ignored."""
    return name.startswith(".") or name in IGNORED_FOLDERS


def is_image(name: str, start: bytes = b"") -> bool:
    """Whether a file is an image by its suffix or its first bytes; by suffix, so that damaged images are reported."""
    return has_image_suffix(name) or sniff(start) is not None
