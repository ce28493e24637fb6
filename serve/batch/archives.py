"""Images inside zip and tar archives, read one after the other, within bounds.

A member that cannot be read is an `Unreadable`, which becomes a row with an error; the others are not affected. No
number that an archive states about itself is trusted: what is unpacked is counted, headers are bounded before they are
read, and no more is held in memory than one member. `serve/batch/parquet.py` does the same for parquet files.
"""

import bz2
import copy
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any, Literal, Protocol

from zoo.errors import BadInput, reason
from zoo.images.headers import sniff
from zoo.images.read import LARGEST, Named

SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .gif .bmp .dib .tif .tiff .avif .heic .heif .jp2 .j2k .jpx .jxl .ico .tga "
    ".cur .icns .mpo .pbm .pgm .ppm .pnm .pam .pfm .pcx .qoi .psd .dds .exr .hdr .sgi .xbm .xpm .eps .svg".split()
)
LEFT_ALONE = frozenset({"__MACOSX"})  # folders that an archiver adds for itself
START = 32  # bytes that show what a file is

PIECE = 64 * 2**10
ZIP_DIRECTORY = 24 * 2**20  # bytes; as objects they take eight times that: 200 MB, some 250,000 usual names
TAR_HEADER = 64 * 2**10  # bytes of a long name, or of what the pax format says about a member
TAR_RECORDS = 256  # in what the pax format says about a member; usual are one to ten
UNPACKED = 2**28  # bytes that any archive may unpack to, however small it is
XZ_MEMORY = 128 * 2**20  # bytes; `xz -9` needs 65 MiB


@dataclass(frozen=True)
class Bounds:
    """What is read of one archive at most; the rest is refused with a sentence, and what came before is answered.

    total_bytes: of what is unpacked. member_bytes: of one image. members: number of files or rows. ratio: bytes that
    are unpacked for each byte of the archive, where that is more than `UNPACKED`.
    """

    total_bytes: int = 2**40
    member_bytes: int = 80 * 10**6  # 25 megapixels as plain RGB
    members: int = 10_000_000
    ratio: int = 100

    def for_pictures_of(self, megapixels: float) -> "Bounds":
        """With members that may be as large as such a picture as plain RGB."""
        return replace(self, member_bytes=min(LARGEST, max(self.member_bytes, int(3.2e6 * megapixels))))


@dataclass(frozen=True)
class Unreadable:
    """An image that is known to be there and cannot be read: its row carries the sentence.

    original: the source that it stands for, where it has been tried.
    """

    name: str
    error: str
    original: Any = None


class Exhausted(Exception):
    """More than the bounds allow; the message says what."""


class Budget:
    """What may still be read of an archive."""

    def __init__(self, path: str, bounds: Bounds) -> None:
        self._members = self._most_members = bounds.members
        self._bytes = self._most_bytes = min(bounds.total_bytes, max(bounds.ratio * os.path.getsize(path), UNPACKED))

    def member(self) -> None:
        """Count one. Raises Exhausted."""
        self._members -= 1
        if self._members < 0:
            raise Exhausted(f"it has more than {self._most_members:,} members")

    def spend(self, size: int) -> None:
        """Count bytes. Raises Exhausted."""
        self._bytes -= size
        if self._bytes < 0:
            raise Exhausted(f"it unpacks to more than {self._most_bytes:,} bytes")


class Archive:
    """A file that holds images.

    count: how many, None where that shows only in reading. skipped: how many members the last iteration passed over,
    since they are no images.
    """

    def __init__(self, path: str, bounds: Bounds) -> None:
        self.path, self.bounds = path, bounds
        self.count: int | None = None
        self.skipped = 0

    def check(self) -> None:
        """Look at its beginning, or its directory. Raises BadInput where that is damaged."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Named | Unreadable]:
        self.skipped = 0
        begun = False
        try:
            for member in self._members(Budget(self.path, self.bounds)):
                begun = True
                if member is None:
                    self.skipped += 1
                else:
                    yield member
        except BadInput as error:
            yield Unreadable(self.path, str(error))
        except Exhausted as error:
            yield Unreadable(self.path, f"{self.path} is read no further ({error}): unpack it, and name the folder.")
        except Exception as error:  # damage can make a decompressor raise anything
            what = "is damaged from here on" if begun else "is a damaged archive"
            yield Unreadable(self.path, f"{self.path} {what} ({reason(error)}): get the file again.")

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        """None for what is no image."""
        raise NotImplementedError

    def _too_large(self, name: str, size: int) -> Unreadable:
        return Unreadable(
            name, f"{name} holds {size:,} bytes, more than the {self.bounds.member_bytes:,} that are read of a member."
        )


def start_of(path: str, size: int = START) -> bytes:
    """A file's first bytes; none of what is no file: what a look into a pipe takes out is gone."""
    try:
        if os.path.isfile(path):
            with open(path, "rb", buffering=0) as file:
                return file.read(size) or b""
    except (OSError, ValueError):
        pass
    return b""


def archive_at(path: str, bounds: Bounds, column: str | None = None) -> Archive | None:
    """The archive that this file is, by its content; None for whatever else, a missing file included.

    column: of a parquet file.
    """
    start = start_of(path, tarfile.BLOCKSIZE)
    if start.startswith(b"PAR1"):
        from serve.batch.parquet import Parquet

        return Parquet(path, bounds, column)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Zip(path, bounds)
    if start.startswith(tuple(_UNPACKERS)) or _is_tar(start):
        return Tar(path, bounds)
    return None


def is_named_like_an_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder, is left alone."""
    return name.startswith(".") or name in LEFT_ALONE


def is_image(name: str, start: bytes = b"") -> bool:
    """Whether it is named like an image, so that a damaged one is reported and not passed over, or begins like one."""
    return is_named_like_an_image(name) or sniff(start) is not None


def _is_hidden_member(name: str) -> bool:
    """Whether a part of it is, with and without `\\` as a separator, which only Windows means by it.

    Names from `zip -r x.zip ../digits` begin with `..`, which hides nothing.
    """
    return all(
        any(is_hidden(part) for part in parts if part not in (".", ".."))
        for parts in (name.split("/"), name.replace("\\", "/").split("/"))
    )


def _link(name: str, target: str = "") -> Unreadable:
    to = f" to {target}" if target else ""
    return Unreadable(name, f"{name} is a link{to}, and links in archives are not followed.")


class Zip(Archive):
    """In the archive's own order."""

    def check(self) -> None:
        try:
            with _Checked(io.FileIO(self.path)) as file:
                zipfile.ZipFile(file).close()
        except Exception as error:  # a directory can be damaged in any way
            raise BadInput(f"{self.path} is a damaged zip archive ({reason(error)}): get the file again.") from None

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        with _Checked(io.FileIO(self.path)) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                budget.member()
                is_folder = info.filename.endswith("/") or (info.filename.endswith("\\") and not info.file_size)
                if not is_folder and not _is_hidden_member(info.filename):
                    yield self._member(archive, info, budget)

    def _member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Named | Unreadable | None:
        name = f"{self.path}/{info.filename}"
        try:
            if stat.S_ISLNK(info.external_attr >> 16):
                return _link(name) if is_image(info.filename) else None
            with _member_of(archive, info) as member:
                start = _whole(member, min(PIECE, info.file_size), budget)
                if not is_image(info.filename, start):
                    return None
                if info.file_size > self.bounds.member_bytes:
                    return self._too_large(name, info.file_size)
                data = _whole(member, info.file_size, budget, start)
            if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
                raise zipfile.BadZipFile("its size or checksum is wrong")
            return Named(name, data)
        except Exhausted:
            raise
        except Exception as error:  # as above
            sentence = f"{name} cannot be read from the archive ({reason(error)})."
            return Unreadable(name, sentence) if is_image(info.filename) else None


class _Checked(io.BufferedReader):
    """zipfile reads an archive's directory at once, however large the archive says it is; members come in pieces."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > ZIP_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has {size:,} bytes, more than the {ZIP_DIRECTORY:,} that are read")
        return super().read(size)


def _member_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Its content. Of bzip2 and LZMA, zipfile unpacks all that 4 KB of the archive hold, which can be gigabytes."""
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return archive.open(info)
    if info.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        raise NotImplementedError(f"it is packed by method {info.compress_type}, which is not read")
    packed = copy.copy(info)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC  # of what is unpacked
    file = archive.open(packed)
    new = bz2.BZ2Decompressor if info.compress_type == zipfile.ZIP_BZIP2 else partial(_raw_lzma, file.read(9))
    return io.BufferedReader(_Unpacked(file, new), PIECE)


def _raw_lzma(header: bytes) -> lzma.LZMADecompressor:
    """APPNOTE.TXT of PKWARE, 5.8.8: a version, the size of the properties (5), and as LZMA has them itself."""
    if len(header) < 9 or header[2:4] != b"\5\0":
        raise lzma.LZMAError("its LZMA properties are damaged")
    rest, dictionary = header[4], int.from_bytes(header[5:9], "little")
    if dictionary > XZ_MEMORY:
        raise lzma.LZMAError(f"it takes {dictionary:,} bytes of memory to unpack")
    settings = {"lc": rest % 9, "lp": rest // 9 % 5, "pb": rest // 45, "dict_size": dictionary}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **settings}])


def _whole(file: IO[bytes], size: int, budget: Budget | None, start: bytes = b"") -> bytes:
    """The next bytes of a file, up to a size that includes the start; one copy in memory. Raises Exhausted."""
    if not start:
        start = file.read(min(size, PIECE))
        if budget:
            budget.spend(len(start))
    if len(start) >= size:
        return start
    content = io.BytesIO()
    content.write(start)
    while (left := size - content.tell()) > 0 and (piece := file.read(min(left, PIECE))):
        if budget:
            budget.spend(len(piece))
        content.write(piece)
    return content.getvalue()


class _Unpacker(Protocol):
    """As bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib, to be used as bz2 and lzma are."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)  # with gzip's header and checksum

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_UNPACKERS: dict[bytes, Callable[[], _Unpacker]] = {
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY),
}


class _Unpacked(io.RawIOBase):
    """What a file packed by gzip, bzip2 or xz holds, its streams one after the other."""

    def __init__(self, file: IO[bytes], new: Callable[[], _Unpacker], budget: Budget | None = None) -> None:
        self._file, self._new, self._budget = file, new, budget
        self._unpacker = new()

    def readable(self) -> Literal[True]:
        return True

    def readinto(self, target: Any, /) -> int:
        data = piece = b""
        while not piece:
            if self._unpacker.eof:
                data = self._unpacker.unused_data.lstrip(b"\0")  # streams may be padded
                while not data and (data := self._file.read(PIECE)):
                    data = data.lstrip(b"\0")
                if not data:
                    return 0
                self._unpacker = self._new()
            piece, data = self._unpacker.decompress(data, len(target)), b""
            if not piece and not self._unpacker.eof and not (data := self._file.read(PIECE)):
                raise EOFError("it ends too early")
        if self._budget:
            self._budget.spend(len(piece))
        target[: len(piece)] = piece
        return len(piece)


class _Blocks:
    """The bytes of a tar archive, plain or packed. Raises EOFError where they end too early."""

    def __init__(self, path: str, budget: Budget) -> None:
        raw = open(path, "rb")
        self._raw: IO[bytes] = raw
        start = raw.peek(8)
        new = next((new for signature, new in _UNPACKERS.items() if start.startswith(signature)), None)
        if new:
            self._file: IO[bytes] = io.BufferedReader(_Unpacked(raw, new, budget), PIECE)
            self._size, self._budget = None, None  # what is unpacked is counted there
        else:
            self._file, self._size, self._budget = raw, os.fstat(raw.fileno()).st_size, budget

    def __enter__(self) -> "_Blocks":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int, start: bytes = b"") -> bytes:
        """The next bytes, behind those that were read already, to this size."""
        content = _whole(self._file, size, self._budget, start)
        if len(content) < size:
            raise EOFError("it ends too early")
        return content

    def skip(self, size: int) -> None:
        if self._size is None:
            while size > 0:
                size -= len(self.read(min(size, PIECE)))
        elif size > self._size or self._file.seek(size, os.SEEK_CUR) > self._size:
            raise EOFError("it ends too early")


def _header(block: bytes) -> tarfile.TarInfo:
    """Raises tarfile.HeaderError, for a checksum that is wrong for one."""
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.size < 0:
        raise tarfile.HeaderError("a size below zero")
    return info


def _is_tar(start: bytes) -> bool:
    """By the checksum of its first header: the oldest format has no other sign."""
    try:
        return bool(_header(start).name)
    except (tarfile.TarError, ValueError, IndexError):
        return False


@dataclass
class _Extension:
    """What headers before a member's own say about it: GNU's long names, and the records of the pax format.

    Formats: `man 5 tar` of libarchive; POSIX.1-2017, pax, "pax Extended Header".
    """

    TYPES = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})

    path: str | None = None
    linkpath: str | None = None
    size: int | None = None
    sparse: bool = False
    problem: str | None = None

    def read(self, info: tarfile.TarInfo, blocks: _Blocks) -> None:
        padding = -info.size % tarfile.BLOCKSIZE
        if info.size > TAR_HEADER:
            self.problem = (
                f"a header of {info.size:,} bytes stands before it, more than the {TAR_HEADER:,} that are read"
            )
            blocks.skip(info.size + padding)
            return
        text = blocks.read(info.size)
        blocks.skip(padding)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self.path = _text(text.partition(b"\0")[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            self.linkpath = _text(text.partition(b"\0")[0])
        else:
            self._records(text)

    def _records(self, text: bytes) -> None:
        """`LENGTH KEY=VALUE` and a newline, the length that of the whole record."""
        position = records = 0
        while position < len(text) and text[position]:
            length = int(text[position : text.index(b" ", position)])
            key, _, value = text[position : position + length].partition(b" ")[2].removesuffix(b"\n").partition(b"=")
            if length <= 0 or (records := records + 1) > TAR_RECORDS:
                raise tarfile.HeaderError("a header that no archiver writes")
            position += length
            if key == b"path":
                self.path = _text(value)
            elif key == b"linkpath":
                self.linkpath = _text(value)
            elif key == b"size":
                self.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                self.sparse = True


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class Tar(Archive):
    """Plain or packed by gzip, bzip2 or xz, in the archive's own order.

    `tarfile` reads headers of any size, follows chains of them by recursion, and keeps all members in memory: so only
    its reading of a header's 512 bytes is used.
    """

    def check(self) -> None:
        try:
            with _Blocks(self.path, Budget(self.path, self.bounds)) as blocks:
                if any(block := blocks.read(tarfile.BLOCKSIZE)):
                    _header(block)
        except Exception as error:  # as above
            sentence = f"{self.path} is not a tar archive that can be read ({reason(error)}): get the file again."
            raise BadInput(sentence) from None

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        with _Blocks(self.path, budget) as blocks:
            extension = _Extension()
            while any(block := blocks.read(tarfile.BLOCKSIZE)):
                info = _header(block)
                budget.member()
                if info.type in _Extension.TYPES:
                    extension.read(info, blocks)
                    continue
                yield from self._member(info, block, extension, blocks)
                extension = _Extension()

    def _member(
        self, info: tarfile.TarInfo, block: bytes, extension: _Extension, blocks: _Blocks
    ) -> Iterator[Named | Unreadable | None]:
        member = extension.path or info.name
        name = f"{self.path}/{member}"
        hidden = _is_hidden_member(member)
        if info.type in _WITHOUT_CONTENT:
            if (info.islnk() or info.issym()) and is_image(member) and not hidden:
                yield _link(name, extension.linkpath or info.linkname)
            return
        size = info.size if extension.size is None else extension.size
        if size < 0:
            raise tarfile.HeaderError("a size below zero")
        if info.type == tarfile.GNUTYPE_SPARSE:
            extension.sparse, more = True, block[482]
            while more:
                more = blocks.read(tarfile.BLOCKSIZE)[504]
        left = size + -size % tarfile.BLOCKSIZE
        too_large = size > self.bounds.member_bytes
        start = b"" if too_large and is_image(member) else blocks.read(min(PIECE, size))
        left -= len(start)
        if not info.isreg() or hidden:
            pass
        elif not (is_image(member, start) or extension.problem):
            yield None
        elif extension.problem:
            yield Unreadable(name, f"{name} is not read: {extension.problem}.")
        elif extension.sparse:
            yield Unreadable(name, f"{name} is stored as a sparse file, which is not read: pack it without --sparse.")
        elif too_large:
            yield self._too_large(name, size)
        else:
            data = blocks.read(size, start)
            left -= size - len(start)
            yield Named(name, data)
        blocks.skip(left)


_WITHOUT_CONTENT = frozenset({
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE
})  # fmt: skip
