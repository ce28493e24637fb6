"""What a person names on the command line → images, in order: files, folders, globs, lists, archives, URLs, stdin.

Which kind a file is, its content decides and never its suffix. Names are gathered first; what archives hold is read as
it is asked for, so that the memory of a batch is that of its names.
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
    Archive,
    Bounds,
    Unreadable,
    archive_at,
    is_hidden,
    is_image,
    is_named_like_an_image,
    start_of,
)
from zoo.errors import BadInput, reason
from zoo.images.read import LARGEST, Named

LONGEST_LIST = 2**30  # bytes: ten million paths and more, and an end to @/dev/zero


@dataclass(frozen=True)
class Url:
    """An image to be fetched by whoever classifies it; its name is the address."""

    name: str


Source = str | Named | Url | Unreadable  # a path, or what stands for an image that no path leads to


@dataclass(frozen=True)
class Options:
    """How arguments are read.

    allow_url: whether URLs may be fetched. column: of parquet files, None for the first that holds images.
    bounds: of archives.
    """

    allow_url: bool = False
    column: str | None = None
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Input:
    """The images of one argument.

    argument: as it was given. count: how many images, None where that shows only in reading. images: gives them in
    order. names: of some of them, as they are or as long. skipped: how many files or members were passed over, since
    they are no images; of an archive, in the last iteration. files: all paths that it reads from.
    """

    argument: str
    count: int | None
    images: Callable[[], Iterator[Source]]
    names: tuple[str, ...] = ()
    skipped: Callable[[], int] = lambda: 0
    files: Callable[[], Iterator[str]] = lambda: iter(())

    @classmethod
    def of(cls, argument: str, sources: Sequence[Source], *read: str, skipped: int = 0) -> "Input":
        """Of known sources; read: files that they come from beside themselves."""

        def files() -> Iterator[str]:
            yield from read
            yield from (source for source in sources if isinstance(source, str))

        names = tuple(map(name_of, sources[:1000]))
        return cls(argument, len(sources), lambda: iter(sources), names, lambda: skipped, files)

    @classmethod
    def of_archive(cls, archive: Archive) -> "Input":
        names = (f"{archive.path}/{'0' * 12}",)
        return cls(archive.path, archive.count, lambda: iter(archive), names, lambda: archive.skipped,
                   lambda: iter((archive.path,)))  # fmt: skip


def name_of(source: Source) -> str:
    return source if isinstance(source, str) else source.name


def held_bytes(source: Source) -> int:
    """Of the image, by the source itself."""
    return len(source.data) if isinstance(source, Named) else 0


def expand(argument: str, options: Options | None = None) -> Input:
    """The images that one argument stands for.

    Args:
        argument: a file; a folder, which gives the images in it and in its folders, sorted: files that begin like an
            image or are named like one, so that a damaged image is reported and not passed over; a glob of files; a zip
            or tar archive or a parquet file; `@FILE`, a list of image files and URLs, and `@-`, the list on stdin; `-`,
            one image's bytes on stdin, or any other pipe; a URL. Any other name stands for itself, existing or not.
    Raises:
        BadInput: a folder, glob, list or archive without images, nothing on stdin, a URL that is not allowed.
    """
    try:
        return _expanded(argument, options or Options())
    except OSError as error:
        raise BadInput(f"{argument} cannot be read ({error.strerror or reason(error)}): check the path.") from None
    except ValueError as error:  # a NUL in it
        raise BadInput(f"{argument!r} cannot be read ({reason(error)}): check the path.") from None


def _expanded(argument: str, options: Options) -> Input:
    if argument == "-":
        return Input.of(argument, [_piped("-", _stdin("-", "an image's bytes", "zoo predict - < picture.png"))])
    if argument.startswith("@"):
        return Input.of(argument, _listed(argument, options), argument[1:])
    if _is_url(argument):
        if isinstance(source := _url(argument, options), Unreadable):
            raise BadInput(source.error)
        return Input.of(argument, [source])
    if os.path.isdir(argument):
        return _folder(argument)
    if not os.path.exists(argument) and glob.has_magic(argument):
        return _glob(argument, options)
    if os.path.exists(argument) and not os.path.isfile(argument):
        with open(argument, "rb") as pipe:
            return Input.of(argument, [_piped(argument, pipe)])
    if archive := archive_at(argument, options.bounds, options.column):
        archive.check()
        return Input.of_archive(archive)
    return Input.of(argument, [argument])


def _folder(folder: str) -> Input:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise BadInput(f"The folder {folder} cannot be read: check its permissions.")
    found = list(files_in(folder))
    images: list[Source] = [one for one in found if one is not None]
    if not images:
        raise BadInput(f"The folder {folder} holds no images{f': {not_images(len(found))}' if found else ''}.")
    return Input.of(folder, images, skipped=len(found) - len(images))


def not_images(count: int) -> str:
    """In words."""
    return f"{count:,} file{'s are not images' if count != 1 else ' is not an image'}"


def files_in(folder: str) -> Iterator[str | Unreadable | None]:
    """Images sorted by name, folder by folder, and None for each other file.

    What begins with a dot is left alone, and so are links to folders.
    """
    folders = [folder]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(
                    (entry.name, entry.path, entry.is_dir(follow_symlinks=False), entry.is_symlink())
                    for entry in found
                    if not is_hidden(entry.name)
                )
        except OSError as error:
            sentence = f"{folder} is a folder that cannot be read ({error.strerror}): check its permissions."
            yield Unreadable(folder, sentence)
            continue
        folders += [path for _, path, is_folder, _ in reversed(entries) if is_folder]
        for name, path, is_folder, is_link in entries:
            if not is_folder and not (is_link and os.path.isdir(path)):
                yield path if is_named_like_an_image(name) or is_image(name, start_of(path)) else None


def _glob(pattern: str, options: Options) -> Input:
    """What the shell would have made of it: files, and archives, which are opened unless they are named like images."""
    names = sorted({name for name in _matching(pattern) if not os.path.isdir(name)})
    if not names:
        raise BadInput(f"No file matches {pattern}: check the name, and that its folder may be read.")
    unlike = (name for name in names if not is_named_like_an_image(name))
    archives = {name: found for name in unlike if (found := archive_at(name, options.bounds, options.column))}

    def images() -> Iterator[Source]:
        for name in names:
            yield from archives.get(name, (name,))

    return Input(
        pattern, None if archives else len(names), images, tuple(names[:1000]),
        lambda: sum(archive.skipped for archive in archives.values()), lambda: iter(names),
    )  # fmt: skip


_STARS = re.compile(r"(?:^|(?<=/))(?:\*\*/)*\*\*(?:/|$)")  # two as the whole name of a folder, once or repeated


def _matching(pattern: str, root: str = "") -> Iterator[str]:
    """As `glob.iglob` in a folder, but `**` leads into no links to folders: one that leads back up would never end."""
    if not (stars := _STARS.search(pattern)):
        yield from (root + name for name in glob.iglob(pattern, root_dir=root or None))
        return
    above, below = pattern[: stars.start()], pattern[stars.end() :] or "*"
    for top in glob.iglob(above, root_dir=root or None) if above else [""]:
        for folder in _folders(root + top):
            yield from _matching(below, folder)


def _folders(top: str) -> Iterator[str]:
    """This folder, "" or with a slash at its end, and those below."""
    folders = [top]
    while folders:
        yield (folder := folders.pop())
        with suppress(OSError), os.scandir(folder or ".") as entries:
            folders += [
                f"{folder}{entry.name}/"
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]


def _piped(name: str, file: IO[bytes]) -> Named | Unreadable:
    """Read here and at once: no worker has this process's pipes."""
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        return Unreadable(name, f"{name} gives more than the {LARGEST:,} bytes that are read.")
    return Named(name, data)


def _listed(argument: str, options: Options) -> list[Source]:
    """One path or URL a line; where there are NUL bytes, as `find -print0` writes them, they end the names instead."""
    name = argument[1:]
    if name == "-":
        content = _stdin("@-", "a list of paths", "find . -name '*.png' | zoo predict @-").read(LONGEST_LIST + 1)
    else:
        with open(name, "rb") as file:
            content = file.read(LONGEST_LIST + 1)
    if len(content) > LONGEST_LIST:
        raise BadInput(f"The list {name} has more than {LONGEST_LIST:,} bytes: split it, or name a folder.")
    paths: list[Source] = [_url(line, options) if _is_url(line) else line for line in _lines(content, name) if line]
    if not paths:
        raise BadInput(f"The list {name} is empty: it holds one path a line.")
    return paths


_BOMS = (  # of UTF-32 before UTF-16, which begins alike
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def _lines(content: bytes, name: str) -> Iterator[str]:
    """PowerShell's `>` writes UTF-16 with a byte order mark; all else is names as the system has them."""
    coding = next((coding for mark, coding in _BOMS if content.startswith(mark)), None)
    try:
        lines: Iterable[str] = (content.decode(coding) if coding else "").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"The list {name} is damaged ({reason(error)}): write it as UTF-8.") from None
    if not coding:
        content = content.removeprefix(codecs.BOM_UTF8)
        lines = map(os.fsdecode, content.split(b"\0" if b"\0" in content else b"\n"))
    for line in lines:
        line = line.removesuffix("\r")
        is_quoted = len(line) > 2 and line[0] == line[-1] == '"' and not os.path.lexists(line)
        yield line[1:-1] if is_quoted else line


def _is_url(name: str) -> bool:
    return name[:8].lower().startswith(("http://", "https://"))


def _url(name: str, options: Options) -> Url | Unreadable:
    if options.allow_url:
        return Url(name)
    return Unreadable(name, f"{name} is a URL: add --allow-url if it shall be fetched.")


def _stdin(sign: str, what: str, example: str) -> IO[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput(f"{sign} reads {what} from stdin, but nothing is piped there: {example}")
    return sys.stdin.buffer


def total(inputs: Iterable[Input]) -> int | None:
    """How many images there are, or None where that shows only in reading."""
    counts = [one.count for one in inputs]
    return None if None in counts else sum(count or 0 for count in counts)
