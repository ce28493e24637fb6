"""What a person names on the command line → images, in order: files, folders, globs, lists, archives, URLs, stdin.

Which kind a file is, its content decides and never its suffix. Names are gathered first; what archives hold is read as
it is asked for, so that the memory of a batch is that of its names.
"""

import codecs
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from serve import archives
from serve.archives import LEFT_ALONE, SUFFIXES, Reader, Unreadable, looks_like_an_image, start_of
from zoo.errors import BadInput, reason
from zoo.image import LARGEST, Named

LONGEST_LIST = 2**30  # bytes: ten million paths and more, and an end to @/dev/zero


@dataclass(frozen=True)
class Url:
    """An image to be fetched by whoever classifies it; its name is the address."""

    name: str


Source = str | Named | Url | Unreadable  # a path, or what stands for an image that no path leads to


@dataclass(frozen=True)
class Input:
    """The images of one argument.

    argument: as it was given. count: how many images, None where that shows only in reading. images: gives them in
    order. names: of some of them, as they are or as long. read: the files that it gives them from.
    """

    argument: str
    count: int | None
    images: Callable[[], Iterator[Source]]
    names: tuple[str, ...] = ()
    read: tuple[str, ...] = ()

    @classmethod
    def of(cls, argument: str, sources: list[Source], *read: str) -> "Input":
        names = (source if isinstance(source, str) else source.name for source in sources[:1000])
        return cls(argument, len(sources), lambda: iter(sources), tuple(names), read)


def expand(argument: str, allow_url: bool = False) -> Input:
    """The images that one argument stands for.

    Args:
        argument: a file; a folder, which gives the images in it and in its folders, sorted: files that begin like an
            image or are named like one, so that a damaged image is reported and not passed over; a glob of files; a zip
            or tar archive or a parquet file; `@FILE`, a list of image files and URLs, and `@-`, the list on stdin; `-`,
            one image's bytes on stdin, or any other pipe; a URL. Any other name stands for itself, existing or not.
        allow_url: whether URLs may be fetched.
    Raises:
        BadInput: a folder, glob, list or archive without images, nothing on stdin, a URL that is not allowed.
    """
    try:
        return _expanded(argument, allow_url)
    except OSError as error:
        raise BadInput(f"{argument} cannot be read ({error.strerror or reason(error)}): check the path.") from None


def _expanded(argument: str, allow_url: bool) -> Input:
    if argument == "-":
        return Input.of(argument, [_piped("-", _stdin("-", "an image's bytes", "zoo predict - < picture.png"))])
    if argument.startswith("@"):
        return Input.of(argument, _listed(argument, allow_url), argument[1:])
    if _is_url(argument):
        if isinstance(source := _url(argument, allow_url), Unreadable):
            raise BadInput(source.error)
        return Input.of(argument, [source])
    if os.path.isdir(argument):
        if not os.access(argument, os.R_OK | os.X_OK):
            raise BadInput(f"The folder {argument} cannot be read: check its permissions.")
        found: list[Source] = list(images_in(argument))
        if found:
            return Input.of(argument, found)
        raise BadInput(f"The folder {argument} holds no images.")
    if not os.path.exists(argument) and glob.has_magic(argument):
        return _glob(argument)
    if os.path.exists(argument) and not os.path.isfile(argument):
        with open(argument, "rb") as pipe:
            return Input.of(argument, [_piped(argument, pipe)])
    if reader := archives.reader_of(argument):
        return Input(argument, *reader(argument), (f"{argument}/{'0' * 12}",), (argument,))
    return Input.of(argument, [argument], argument)


def images_in(folder: str) -> Iterator[str | Unreadable]:
    """Sorted by name, folder by folder. What begins with a dot is left alone, and so are links to folders."""
    folders = []
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        yield Unreadable(folder, f"{folder} is a folder that cannot be read ({error.strerror}): check its permissions.")
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in LEFT_ALONE:
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif not (entry.is_symlink() and os.path.isdir(entry.path)):
            if _is_named_like_an_image(entry.name) or looks_like_an_image(start_of(entry.path, 12)):
                yield entry.path
    for path in folders:
        yield from images_in(path)


def _is_named_like_an_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _glob(pattern: str) -> Input:
    """What the shell would have made of it: files, and archives, which are opened unless they are named like images."""
    names = sorted({name for name in _matching(pattern) if not os.path.isdir(name)})
    if not names:
        raise BadInput(f"No file matches {pattern}: check the name, and that its folder may be read.")
    unlike = [name for name in names if not _is_named_like_an_image(name)]
    readers = {name: reader for name in unlike if (reader := archives.reader_of(name))}
    count = None if readers else len(names)
    return Input(pattern, count, lambda: _opened(names, readers), tuple(names[:1000]), tuple(unlike))


def _opened(names: list[str], readers: dict[str, Reader]) -> Iterator[Source]:
    for name in names:
        if reader := readers.get(name):
            try:
                yield from reader(name)[1]()
            except BadInput as error:
                yield Unreadable(name, str(error))
        else:
            yield name


_STARS = re.compile(r"(?:^|(?<=/))\*\*(?:/|$)")  # two as the whole name of a folder


def _matching(pattern: str) -> Iterator[str]:
    """As `glob.iglob`, but `**` leads into no links to folders: one that leads back up would never end."""
    if not (stars := _STARS.search(pattern)):
        yield from glob.iglob(pattern)
        return
    above, below = pattern[: stars.start()], pattern[stars.end() :] or "*"
    for top in glob.iglob(above) if above else [""]:
        for folder in _folders(top):
            yield from _matching(glob.escape(folder) + below)


def _folders(top: str) -> Iterator[str]:
    """This folder, "" or with a slash at its end, and those below."""
    yield top
    below: list[str] = []
    with suppress(OSError), os.scandir(top or ".") as entries:
        below = [one.name for one in entries if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]
    for name in below:
        yield from _folders(f"{top}{name}/")


def _piped(name: str, file: IO[bytes]) -> Named | Unreadable:
    """Read here and at once: no worker has this process's pipes."""
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        return Unreadable(name, f"{name} gives more than the {LARGEST:,} bytes that are read.")
    return Named(name, data)


def _listed(argument: str, allow_url: bool) -> list[Source]:
    """One path or URL a line; where there are NUL bytes, as `find -print0` writes them, they end the names instead."""
    name = argument[1:]
    if name == "-":
        content = _stdin("@-", "a list of paths", "find . -name '*.png' | zoo predict @-").read(LONGEST_LIST + 1)
    else:
        with open(name, "rb") as file:
            content = file.read(LONGEST_LIST + 1)
    if len(content) > LONGEST_LIST:
        raise BadInput(f"The list {name} has more than {LONGEST_LIST:,} bytes: split it, or name a folder.")
    separator = b"\0" if b"\0" in content else b"\n"
    content = content.removeprefix(codecs.BOM_UTF8)
    lines = (os.fsdecode(line).removesuffix("\r") for line in content.split(separator))
    paths: list[Source] = [_url(line, allow_url) if _is_url(line) else line for line in lines if line]
    if not paths:
        raise BadInput(f"The list {name} is empty: it holds one path a line.")
    return paths


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _url(name: str, allowed: bool) -> Url | Unreadable:
    return Url(name) if allowed else Unreadable(name, f"{name} is a URL: add --allow-url if it shall be fetched.")


def _stdin(sign: str, what: str, example: str) -> IO[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput(f"{sign} reads {what} from stdin, but nothing is piped there: {example}")
    return sys.stdin.buffer


def total(inputs: Iterable[Input]) -> int | None:
    """How many images there are, or None where that shows only in reading."""
    counts = [one.count for one in inputs]
    return None if None in counts else sum(count or 0 for count in counts)
