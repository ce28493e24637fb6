"""Command-line arguments → images, in order: files, folders, globs, lists, archives, URLs, stdin.

The kind of a file is detected from its content, never from its suffix. File names are collected first; archive members
are read lazily, so that a batch needs no more memory than its file names.
"""

import codecs
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from serve.batch.archives import (
    HEADER_BYTES,
    Archive,
    Bounds,
    Unreadable,
    archive_at,
    archive_from,
    has_image_suffix,
    is_hidden,
    is_image,
    start_of,
)
from serve.batch.parquet_rows import Rows
from zoo.errors import BadInput, reason
from zoo.images.read import MAX_FILE_BYTES, Named

MAX_LIST_BYTES = 2**30  # enough for more than ten million paths; bounds @/dev/zero
SMALL_FILE_BYTES = 64 * 2**10  # see Options.load_small_files


@dataclass(frozen=True)
class Url:
    """An image that is downloaded when it is classified."""

    name: str  # the address


@dataclass(frozen=True)
class StoredObject(Url):
    """An image in an object store."""

    size: int | None  # bytes; None if the object was not listed
    version: str = ""  # changes with the content


Source = str | Named | Url | Unreadable | Rows  # a path, or an image that is not a file of its own


@dataclass(frozen=True)
class Options:
    """How arguments are read."""

    allow_url: bool = False  # whether URLs may be downloaded
    allow_store: bool = False  # whether addresses of object stores are read, with the credentials of this user
    column: str | None = None  # of parquet files; None selects the first column with images
    bounds: Bounds = field(default_factory=Bounds)  # of archives
    load_small_files: bool = False  # read a file that is an argument when its kind is detected, instead of again later


@dataclass(frozen=True)
class ImageArgument:
    """The images of one argument."""

    text: str  # as on the command line
    count: int | None  # number of images; None if it is only known after reading
    images: Callable[[], Iterator[Source]]  # in order
    names: tuple[str, ...] = ()  # a sample of the names, or names of about their length
    skipped: Callable[[], int] = lambda: 0  # files or members that are not images; of an archive, in the last iteration
    files: Callable[[], Iterator[str]] = lambda: iter(())  # paths of all files that are read
    sources: Sequence[Source] | None = None  # all images, unless they are read lazily
    parts: Sequence[Source | Archive] = ()  # all images and archives, if `sources` is None; archives are not read
    read_in_workers: Callable[[bool], None] = lambda enabled: None  # `Archive.read_in_workers` of all its archives

    @classmethod
    def from_sources(
        cls, argument: str, sources: Sequence[Source], *files_read: str, skipped: int = 0
    ) -> "ImageArgument":
        """Images that are all known; `files_read` are further files that they come from, such as a list."""

        def files() -> Iterator[str]:
            yield from files_read
            yield from (name_of(source) for source in sources if isinstance(source, str | StoredObject))

        names = tuple(map(name_of, sources[:1000]))
        return cls(argument, len(sources), lambda: iter(sources), names, lambda: skipped, files, sources)

    @classmethod
    def from_archive(cls, archive: Archive) -> "ImageArgument":
        """Images that are read lazily from an archive."""
        return cls(
            archive.path,
            archive.count,
            images=lambda: iter(archive),
            names=(f"{archive.path}/{'0' * 12}",),
            skipped=lambda: archive.skipped,
            files=lambda: iter((archive.path,)),
            read_in_workers=archive.read_in_workers,
            parts=(archive,),
        )


def name_of(source: Source) -> str:
    return source if isinstance(source, str) else source.name


def size_in_memory(source: Source) -> int:
    """Bytes of the image that the source holds in memory, or will hold when its object is read."""
    if isinstance(source, StoredObject):
        return source.size or 0
    return len(source.data) if isinstance(source, Named) else 0


def expand(argument: str, options: Options | None = None) -> ImageArgument:
    """The images that an argument stands for.

    Args:
        argument: One of
            a file, existing or not;
            a folder: its images and those of its subfolders, sorted. A file is an image if its content or its suffix
            says so, because a damaged image should be reported and not skipped;
            a glob pattern of files;
            a zip or tar archive or a parquet file;
            `@FILE`, a list of image files and URLs; `@-` reads it from stdin;
            `-`, the bytes of one image on stdin; or the path of another pipe;
            a URL, of an image or of an archive (by its suffix: .tar, .tgz, .zip, .parquet);
            the address of objects in a store: s3://BUCKET/KEY, gs:// or hf://; a prefix, a pattern or one object.
        options: How to read it.
    Raises:
        BadInput: A folder, glob, list or archive without images; nothing on stdin; a URL without --allow-url.
        serve.batch.stores.StoreUnavailable: An object store cannot be reached, or refuses the credentials.
    """
    try:
        return _expand(argument, options or Options())
    except OSError as error:
        raise BadInput(f"{argument} cannot be read ({error.strerror or reason(error)}): check the path.") from None
    except ValueError as error:  # the name contains NUL
        raise BadInput(f"{argument!r} cannot be read ({reason(error)}): check the path.") from None


def _expand(argument: str, options: Options) -> ImageArgument:
    if argument == "-":
        stdin = _open_stdin("-", "the bytes of an image", "zoo predict - < image.png")
        return ImageArgument.from_sources(argument, [_read_pipe("-", stdin)])
    if argument.startswith("@"):
        return ImageArgument.from_sources(argument, _read_list(argument, options), argument[1:])
    if _is_url(argument):
        if isinstance(source := _url_source(argument, options), Unreadable):
            raise BadInput(source.error)
        from serve.batch.remote import is_shard
        from serve.batch.urls import path_of

        if is_shard(path_of(argument)):
            return _expand_url_of_archive(argument, options)
        return ImageArgument.from_sources(argument, [source])
    if options.allow_store and is_stored(argument):
        return _expand_store(argument, options)
    if os.path.isdir(argument):
        return _expand_folder(argument)
    if not os.path.exists(argument):
        return (
            _expand_glob(argument, options)
            if glob.has_magic(argument)
            else ImageArgument.from_sources(argument, [argument])
        )
    if not os.path.isfile(argument):
        with open(argument, "rb") as pipe:
            return ImageArgument.from_sources(argument, [_read_pipe(argument, pipe)])
    start = start_of(argument, SMALL_FILE_BYTES if options.load_small_files else HEADER_BYTES)
    if archive := archive_from(argument, start, options.bounds, options.column):
        archive.check()
        return ImageArgument.from_archive(archive)
    is_complete = options.load_small_files and 0 < len(start) < SMALL_FILE_BYTES
    return ImageArgument.from_sources(argument, [Named(argument, start) if is_complete else argument])


def _expand_folder(folder: str) -> ImageArgument:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise BadInput(f"The folder {folder} cannot be read: check its permissions.")
    files = list(files_in(folder))
    images: list[Source] = [file for file in files if file is not None]
    if not images:
        skipped = f" ({not_images(len(files))})" if files else ""
        raise BadInput(f"The folder {folder} contains no images{skipped}: choose another folder.")
    return ImageArgument.from_sources(folder, images, skipped=len(files) - len(images))


def not_images(count: int) -> str:
    """The number of skipped files in words."""
    return f"{count:,} file{'s are not images' if count != 1 else ' is not an image'}"


def files_in(folder: str) -> Iterator[str | Unreadable | None]:
    """Images sorted by name, folder by folder, and None for each other file.

    Names that begin with a dot and links to folders are ignored.
    """
    folders = [folder]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(
                    (entry.name, entry.path, entry.is_dir(follow_symlinks=False), entry.is_symlink())
                    for entry in scan
                    if not is_hidden(entry.name)
                )
        except OSError as error:
            message = f"{folder} is a folder that cannot be read ({error.strerror}): check its permissions."
            yield Unreadable(folder, message)
            continue
        folders += [path for _, path, is_folder, _ in reversed(entries) if is_folder]
        for name, path, is_folder, is_link in entries:
            if not is_folder and not (is_link and os.path.isdir(path)):
                yield path if has_image_suffix(name) or is_image(name, start_of(path)) else None


def _expand_glob(pattern: str, options: Options) -> ImageArgument:
    """The files that match, as in a shell; archives among them are opened unless their suffix is that of an image."""
    names = sorted({name for name in _matching_files(pattern) if not os.path.isdir(name)})
    if not names:
        raise BadInput(f"No file matches {pattern}: check the pattern, and the permissions of its folder.")
    candidates = (name for name in names if not has_image_suffix(name))
    archives = {name: archive for name in candidates if (archive := archive_at(name, options.bounds, options.column))}
    if not archives:
        return ImageArgument.from_sources(pattern, names)

    def images() -> Iterator[Source]:
        for name in names:
            yield from archives.get(name, (name,))

    def read_in_workers(enabled: bool) -> None:
        for archive in archives.values():
            archive.read_in_workers(enabled)

    return ImageArgument(
        pattern,
        None,
        images,
        tuple(names[:1000]),
        skipped=lambda: sum(archive.skipped for archive in archives.values()),
        files=lambda: iter(names),
        read_in_workers=read_in_workers,
        parts=[archives.get(name, name) for name in names],
    )


def _expand_url_of_archive(url: str, options: Options) -> ImageArgument:
    from serve.batch.remote import remote_archive
    from serve.batch.urls import remote_file

    return ImageArgument.from_archive(remote_archive(remote_file(url), options.bounds, options.column))


def _expand_store(address: str, options: Options) -> ImageArgument:
    """Objects, and the images of archives and parquet files among them, which are read one after another.

    An object is an image by its suffix or its first bytes, and an archive by its suffix or its first bytes.
    """
    from serve.batch import stores
    from serve.batch.remote import LazyArchive, is_shard

    objects = stores.list_objects(address)
    unnamed = [one for one in objects if not has_image_suffix(one.name) and not is_shard(one.name)]
    starts = dict(zip(unnamed, stores.starts_of(unnamed, HEADER_BYTES), strict=True))
    is_single = len(objects) == 1

    def source_of(one: StoredObject) -> StoredObject | LazyArchive | None:
        start = starts.get(one)
        if one.size and (is_shard(one.name) or (start and archive_from(one.name, start, options.bounds))):
            return stores.lazy_archive(one, options.bounds, options.column)
        return one if is_single or start is None or is_image(one.name, start) else None

    sources = [source_of(one) for one in objects]
    images = [source for source in sources if source is not None]
    skipped = len(sources) - len(images)
    if not images:
        raise BadInput(f"{address} contains no images ({not_images(skipped)}): choose another prefix.")
    archives = [source for source in images if isinstance(source, LazyArchive)]
    if not archives:
        return ImageArgument.from_sources(address, [one for one in images if isinstance(one, Url)], skipped=skipped)

    def iterate() -> Iterator[Source]:
        for source in images:
            yield from source if isinstance(source, LazyArchive) else (source,)

    return ImageArgument(
        address,
        None,
        iterate,
        tuple(one.name for one in objects[:1000]),
        skipped=lambda: skipped + sum(archive.skipped for archive in archives),
        files=lambda: (one.name for one in objects),
        parts=images,
    )


_DOUBLE_STAR = re.compile(r"(?:^|(?<=/))(?:\*\*/)*\*\*(?:/|$)")  # `**` as a complete path component, also repeated


def _matching_files(pattern: str, root: str = "") -> Iterator[str]:
    """Like `glob.iglob`, but `**` does not follow links to folders: a link to a parent folder would never end."""
    if not (stars := _DOUBLE_STAR.search(pattern)):
        yield from (root + name for name in glob.iglob(pattern, root_dir=root or None))
        return
    above, below = pattern[: stars.start()], pattern[stars.end() :] or "*"
    for top in glob.iglob(above, root_dir=root or None) if above else [""]:
        for folder in _subfolders(root + top):
            yield from _matching_files(below, folder)


def _subfolders(top: str) -> Iterator[str]:
    """A folder, given as "" or with a trailing slash, and all folders below it."""
    folders = [top]
    while folders:
        yield (folder := folders.pop())
        with suppress(OSError), os.scandir(folder or ".") as entries:
            folders += [
                f"{folder}{entry.name}/"
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]


def _read_pipe(name: str, file: IO[bytes]) -> Named | Unreadable:
    """Read a pipe completely, in this process: workers do not have its pipes."""
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        return Unreadable(name, f"{name} has more than {MAX_FILE_BYTES:,} bytes, the limit for an image.")
    return Named(name, data)


def _read_list(argument: str, options: Options) -> list[Source]:
    """The paths and URLs of a list, one per line; separated by NUL if there are any, as `find -print0` writes them."""
    name = argument[1:]
    if name == "-":
        stdin = _open_stdin("@-", "a list of paths", "find . -name '*.png' | zoo predict @-")
        content = stdin.read(MAX_LIST_BYTES + 1)
    else:
        with open(name, "rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    if len(content) > MAX_LIST_BYTES:
        raise BadInput(f"The list {name} has more than {MAX_LIST_BYTES:,} bytes: split it, or pass a folder.")
    paths: list[Source] = [
        _url_source(line, options)
        if _is_url(line)
        else StoredObject(line, None)
        if options.allow_store and is_stored(line)
        else line
        for line in _read_lines(content, name)
        if line
    ]
    if not paths:
        raise BadInput(f"The list {name} is empty: write one path per line.")
    return paths


_BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16, which begins with the same bytes
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _read_lines(content: bytes, name: str) -> Iterator[str]:
    """Lines without their ends and quotes.

    PowerShell's `>` writes UTF-16 with a byte order mark; anything else is in the encoding of file names.
    """
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    try:
        lines: Iterable[str] = (content.decode(encoding) if encoding else "").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"The list {name} is damaged ({reason(error)}): write it as UTF-8.") from None
    if not encoding:
        content = content.removeprefix(codecs.BOM_UTF8)
        lines = map(os.fsdecode, content.split(b"\0" if b"\0" in content else b"\n"))
    for line in lines:
        line = line.removesuffix("\r")
        is_quoted = len(line) > 2 and line[0] == line[-1] == '"' and not os.path.lexists(line)
        yield line[1:-1] if is_quoted else line


def _is_url(name: str) -> bool:
    return name[:8].lower().startswith(("http://", "https://"))


def is_stored(name: str) -> bool:
    """Whether a name is an address in an object store."""
    return name[:6].lower().startswith(("s3://", "gs://", "gcs://", "hf://"))


def _url_source(name: str, options: Options) -> Url | Unreadable:
    if options.allow_url:
        return Url(name)
    return Unreadable(name, f"{name} is a URL: add --allow-url to download it.")


def _open_stdin(argument: str, content: str, example: str) -> IO[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput(f"{argument} reads {content} from stdin, but stdin is a terminal. Example: {example}")
    return sys.stdin.buffer


def total(inputs: Iterable[ImageArgument]) -> int | None:
    """The number of images, or None if it is only known after reading."""
    counts = [argument.count for argument in inputs]
    return None if None in counts else sum(count or 0 for count in counts)
