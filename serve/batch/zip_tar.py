"""Zip and tar archives, read member by member within the bounds of `archives.py`.

The size of headers is checked before they are read, and decompressed bytes are counted.
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
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Literal, Protocol

from serve.batch.archives import (
    Archive,
    Budget,
    Exhausted,
    Unreadable,
    is_hidden,
    is_image,
)
from zoo.errors import BadInput, reason
from zoo.images.read import Named
from zoo.limited import BoundedZipFile

PIECE_BYTES = 64 * 2**10
MAX_TAR_HEADER_BYTES = 64 * 2**10  # of a long name, or of a pax header
MAX_PAX_RECORDS = 256  # in one pax header; usually there are one to ten
MAX_DECOMPRESSOR_BYTES = 128 * 2**20  # memory of xz and LZMA; `xz -9` needs 65 MiB


def _is_hidden_member(name: str) -> bool:
    """Whether a component of a member's path is hidden; checked with and without `\\` as a separator, as on Windows.

    A leading `..`, as in archives made by `zip -r x.zip ../digits`, does not hide a member.
    """
    return all(
        any(is_hidden(part) for part in parts if part not in (".", ".."))
        for parts in (name.split("/"), name.replace("\\", "/").split("/"))
    )


def _link(name: str, target: str = "") -> Unreadable:
    to = f" to {target}" if target else ""
    return Unreadable(name, f"{name} is a link{to}. Links in archives are not followed.")


class Zip(Archive):
    """A zip archive, read in its own order."""

    def check(self) -> None:
        try:
            with BoundedZipFile(self.open()) as file:
                zipfile.ZipFile(file).close()
        except Exception as error:  # damage can make zipfile raise anything
            raise BadInput(f"{self.path} is a damaged zip archive ({reason(error)}): get the file again.") from None

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        with BoundedZipFile(self.open()) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                budget.count_member()
                is_folder = info.filename.endswith("/") or (info.filename.endswith("\\") and not info.file_size)
                if not is_folder and not _is_hidden_member(info.filename):
                    yield self._member(archive, info, budget)

    def _member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Named | Unreadable | None:
        name = f"{self.path}/{info.filename}"
        try:
            if stat.S_ISLNK(info.external_attr >> 16):
                return _link(name) if is_image(info.filename) else None
            with _open_member(archive, info) as member:
                start = _read_up_to(member, min(PIECE_BYTES, info.file_size), budget)
                if not is_image(info.filename, start):
                    return None
                if info.file_size > self.bounds.member_bytes:
                    return self._too_large(name, info.file_size)
                data = _read_up_to(member, info.file_size, budget, start)
            if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
                raise zipfile.BadZipFile("its size or checksum is wrong")
            return Named(name, data)
        except Exhausted:
            raise
        except Exception as error:  # damage can make a decompressor raise anything
            message = f"{name} cannot be read from the archive ({reason(error)})."
            return Unreadable(name, message) if is_image(info.filename) else None


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member for reading in bounded pieces.

    For bzip2 and LZMA, zipfile itself would unpack everything in 4 KB of the archive at once, which can be gigabytes.
    """
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return archive.open(info)
    if info.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        raise NotImplementedError(f"compression method {info.compress_type} is not supported")
    compressed = copy.copy(info)
    compressed.compress_type, compressed.file_size = zipfile.ZIP_STORED, info.compress_size
    del compressed.CRC  # it is that of the unpacked bytes
    file = archive.open(compressed)
    new = bz2.BZ2Decompressor if info.compress_type == zipfile.ZIP_BZIP2 else partial(_raw_lzma, file.read(9))
    return io.BufferedReader(_DecompressedFile(file, new), PIECE_BYTES)


def _raw_lzma(header: bytes) -> lzma.LZMADecompressor:
    """PKWARE's APPNOTE.TXT, 5.8.8: a version, the size of the properties (5), and LZMA's own properties."""
    if len(header) < 9 or header[2:4] != b"\5\0":
        raise lzma.LZMAError("its LZMA properties are damaged")
    packed, dictionary = header[4], int.from_bytes(header[5:9], "little")
    if dictionary > MAX_DECOMPRESSOR_BYTES:
        raise lzma.LZMAError(f"it needs {dictionary:,} bytes of memory to unpack")
    settings = {"lc": packed % 9, "lp": packed // 9 % 5, "pb": packed // 45, "dict_size": dictionary}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **settings}])


def _read_up_to(file: IO[bytes], size: int, budget: Budget | None, start: bytes = b"") -> bytes:
    """Read until there are `size` bytes, `start` included, or the file ends; one copy in memory. Raises Exhausted."""
    if not start:
        start = file.read(min(size, PIECE_BYTES))
        if budget:
            budget.count_bytes(len(start))
    if len(start) >= size:
        return start
    content = io.BytesIO()
    content.write(start)
    while (missing := size - content.tell()) > 0 and (piece := file.read(min(missing, PIECE_BYTES))):
        if budget:
            budget.count_bytes(len(piece))
        content.write(piece)
    return content.getvalue()


class _Decompressor(Protocol):
    """The interface of the decompressors of bz2 and lzma."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecompressor:
    """zlib behind the same interface."""

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


_DECOMPRESSORS: dict[bytes, Callable[[], _Decompressor]] = {  # by the first bytes of the file
    b"\x1f\x8b": _GzipDecompressor,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(memlimit=MAX_DECOMPRESSOR_BYTES),
}


class _DecompressedFile(io.RawIOBase):
    """The content of a file compressed by gzip, bzip2 or xz; several streams are concatenated."""

    def __init__(self, file: IO[bytes], new: Callable[[], _Decompressor], budget: Budget | None = None) -> None:
        self._file, self._new, self._budget = file, new, budget
        self._decompressor = new()

    def readable(self) -> Literal[True]:
        return True

    def readinto(self, target: Any, /) -> int:
        data = piece = b""
        while not piece:
            if self._decompressor.eof:
                data = self._decompressor.unused_data.lstrip(b"\0")  # streams may be padded
                while not data and (data := self._file.read(PIECE_BYTES)):
                    data = data.lstrip(b"\0")
                if not data:
                    return 0
                self._decompressor = self._new()
            piece, data = self._decompressor.decompress(data, len(target)), b""
            if not piece and not self._decompressor.eof and not (data := self._file.read(PIECE_BYTES)):
                raise EOFError("it ends too early")
        if self._budget:
            self._budget.count_bytes(len(piece))
        target[: len(piece)] = piece
        return len(piece)


class _TarReader:
    """The bytes of a tar archive, plain or compressed. Raises EOFError if they end too early."""

    def __init__(self, file: io.RawIOBase, budget: Budget) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        raw = io.BufferedReader(file)
        self._raw: IO[bytes] = raw
        start = raw.peek(8)
        new = next((new for signature, new in _DECOMPRESSORS.items() if start.startswith(signature)), None)
        if new:
            self._file: IO[bytes] = io.BufferedReader(_DecompressedFile(raw, new, budget), PIECE_BYTES)
            self._size, self._budget = None, None  # _DecompressedFile counts the bytes
        else:
            self._file, self._size, self._budget = raw, size, budget

    def __enter__(self) -> "_TarReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int, start: bytes = b"") -> bytes:
        """The next bytes, `size` in total with those of `start`."""
        content = _read_up_to(self._file, size, self._budget, start)
        if len(content) < size:
            raise EOFError("it ends too early")
        return content

    def skip(self, size: int) -> None:
        if self._size is None:
            while size > 0:
                size -= len(self.read(min(size, PIECE_BYTES)))
        elif size > self._size or self._file.seek(size, os.SEEK_CUR) > self._size:
            raise EOFError("it ends too early")


def _parse_header(block: bytes) -> tarfile.TarInfo:
    """Raises tarfile.HeaderError, for example for a wrong checksum."""
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.size < 0:
        raise tarfile.HeaderError("a negative size")
    return info


def is_tar(start: bytes) -> bool:
    """Whether the first header has a valid checksum: the oldest tar format has no magic bytes."""
    try:
        return bool(_parse_header(start).name)
    except (tarfile.TarError, ValueError, IndexError):
        return False


@dataclass
class _Extension:
    """Headers before a member's own: GNU long names and pax records.

    Formats: `man 5 tar` of libarchive; POSIX.1-2017, pax, "pax Extended Header".
    """

    TYPES = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})

    path: str | None = None
    linkpath: str | None = None
    size: int | None = None
    sparse: bool = False
    problem: str | None = None

    def read(self, info: tarfile.TarInfo, reader: _TarReader) -> None:
        padding = -info.size % tarfile.BLOCKSIZE
        if info.size > MAX_TAR_HEADER_BYTES:
            self.problem = f"its header has {info.size:,} bytes, more than the limit of {MAX_TAR_HEADER_BYTES:,}"
            reader.skip(info.size + padding)
            return
        content = reader.read(info.size)
        reader.skip(padding)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self.path = _decode_name(content.partition(b"\0")[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            self.linkpath = _decode_name(content.partition(b"\0")[0])
        else:
            self._read_records(content)

    def _read_records(self, text: bytes) -> None:
        """Records are `LENGTH KEY=VALUE` and a newline; LENGTH is that of the complete record."""
        position = records = 0
        while position < len(text) and text[position]:
            length = int(text[position : text.index(b" ", position)])
            key, _, value = text[position : position + length].partition(b" ")[2].removesuffix(b"\n").partition(b"=")
            if length <= 0 or (records := records + 1) > MAX_PAX_RECORDS:
                raise tarfile.HeaderError("a malformed pax header")
            position += length
            if key == b"path":
                self.path = _decode_name(value)
            elif key == b"linkpath":
                self.linkpath = _decode_name(value)
            elif key == b"size":
                self.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                self.sparse = True


def _decode_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class Tar(Archive):
    """A tar archive, plain or compressed by gzip, bzip2 or xz, read in its own order.

    Only the parser of `tarfile` for 512-byte headers is used, because the rest of that module reads headers of any
    size, follows chains of them by recursion, and keeps all members in memory.
    """

    def check(self) -> None:
        try:
            with _TarReader(self.open(), Budget(self.path, self.bounds, self.size)) as reader:
                if any(block := reader.read(tarfile.BLOCKSIZE)):
                    _parse_header(block)
        except Exception as error:  # damage can make a decompressor raise anything
            raise BadInput(f"{self.path} is a damaged tar archive ({reason(error)}): get the file again.") from None

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        with _TarReader(self.open(), budget) as reader:
            extension = _Extension()
            while any(block := reader.read(tarfile.BLOCKSIZE)):
                info = _parse_header(block)
                budget.count_member()
                if info.type in _Extension.TYPES:
                    extension.read(info, reader)
                    continue
                yield from self._member(info, block, extension, reader)
                extension = _Extension()

    def _member(
        self, info: tarfile.TarInfo, block: bytes, extension: _Extension, reader: _TarReader
    ) -> Iterator[Named | Unreadable | None]:
        member = extension.path or info.name
        name = f"{self.path}/{member}"
        hidden = _is_hidden_member(member)
        if info.type in _TYPES_WITHOUT_CONTENT:
            if (info.islnk() or info.issym()) and is_image(member) and not hidden:
                yield _link(name, extension.linkpath or info.linkname)
            return
        size = info.size if extension.size is None else extension.size
        if size < 0:
            raise tarfile.HeaderError("a negative size")
        if info.type == tarfile.GNUTYPE_SPARSE:
            extension.sparse, more = True, block[482]
            while more:
                more = reader.read(tarfile.BLOCKSIZE)[504]
        unread = size + -size % tarfile.BLOCKSIZE
        too_large = size > self.bounds.member_bytes
        start = b"" if too_large and is_image(member) else reader.read(min(PIECE_BYTES, size))
        unread -= len(start)
        if not info.isreg() or hidden:
            pass
        elif not (is_image(member, start) or extension.problem):
            yield None
        elif extension.problem:
            yield Unreadable(name, f"{name} cannot be read: {extension.problem}.")
        elif extension.sparse:
            yield Unreadable(name, f"{name} is a sparse file, which is not supported: pack it without --sparse.")
        elif too_large:
            yield self._too_large(name, size)
        else:
            data = reader.read(size, start)
            unread -= size - len(start)
            yield Named(name, data)
        reader.skip(unread)


_TYPES_WITHOUT_CONTENT = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)
