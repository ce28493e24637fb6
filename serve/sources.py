"""What a person names on the command line → images, in order: files, folders, globs, lists, archives, URLs, stdin.

Which kind a file is, its content decides and never its suffix. Names are gathered first; what archives hold is read as
it is asked for, so that the memory of a batch is that of its names.
"""

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from serve import archives
from serve.archives import LEFT_ALONE, SUFFIXES, Unreadable, looks_like_an_image
from zoo.errors import BadInput
from zoo.image import Named


@dataclass(frozen=True)
class Url:
    """An image to be fetched by whoever classifies it; its name is the address."""

    name: str


Source = str | Named | Url | Unreadable  # a path, or what stands for an image that no path leads to


@dataclass(frozen=True)
class Input:
    """The images of one argument.

    argument: as it was given. count: how many images, None where that shows only in reading. images: gives them in
    order. names: of some of them, as they are or as long.
    """

    argument: str
    count: int | None
    images: Callable[[], Iterator[Source]]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, argument: str, sources: list[Source]) -> "Input":
        names = (source if isinstance(source, str) else source.name for source in sources[:1000])
        return cls(argument, len(sources), lambda: iter(sources), tuple(names))


def expand(argument: str, allow_url: bool = False) -> Input:
    """The images that one argument stands for.

    Args:
        argument: a file; a folder, which gives the images in it and in its folders, sorted: files that begin like an
            image or are named like one, so that a damaged image is reported and not passed over; a glob; a zip or tar
            archive or a parquet file; `@FILE`, a list of paths, and `@-`, the list on stdin; `-`, one image's bytes on
            stdin; a URL. Any other name stands for itself, existing or not.
        allow_url: whether URLs may be fetched.
    Raises:
        BadInput: a folder, glob, list or archive without images, nothing on stdin, a URL that is not allowed.
    """
    if argument == "-":
        return Input.of(argument, [Named("-", _stdin("-", "an image's bytes", "zoo predict - < picture.png"))])
    if argument.startswith("@"):
        return Input.of(argument, _listed(argument, allow_url))
    if _is_url(argument):
        return Input.of(argument, [_url(argument, allow_url)])
    if os.path.isdir(argument):
        if not os.access(argument, os.R_OK | os.X_OK):
            raise BadInput(f"The folder {argument} cannot be read: check its permissions.")
        found: list[Source] = list(images_in(argument))
        if found:
            return Input.of(argument, found)
        raise BadInput(f"The folder {argument} holds no images.")
    if not os.path.exists(argument) and glob.has_magic(argument):
        names = sorted(name for name in glob.iglob(argument, recursive=True) if os.path.isfile(name))
        if not names:
            raise BadInput(f"No file matches {argument}.")
        return Input.of(argument, [*names])
    if reader := archives.reader_of(argument):
        return Input(argument, *reader(argument), (f"{argument}/{'0' * 12}",))
    return Input.of(argument, [argument])


def images_in(folder: str) -> Iterator[str]:
    """Sorted by name, folder by folder. What begins with a dot is left alone, and so are links to folders."""
    folders = []
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in LEFT_ALONE:
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif entry.is_file():
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in SUFFIXES or _begins_like_an_image(entry.path):
                yield entry.path
    for path in folders:
        yield from images_in(path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []  # a folder inside the folder that may not be read


def _begins_like_an_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return looks_like_an_image(file.read(12))
    except OSError:
        return False


def _listed(argument: str, allow_url: bool) -> list[Source]:
    """One path or URL a line; where there are NUL bytes, as `find -print0` writes them, they end the names instead."""
    name = argument[1:]
    if name == "-":
        content = _stdin("@-", "a list of paths", "find . -name '*.png' | zoo predict @-")
    else:
        try:
            with open(name, "rb") as file:
                content = file.read()
        except OSError as error:
            raise BadInput(f"The list {name} cannot be read ({error.strerror}): check the path.") from None
    separator = b"\0" if b"\0" in content else b"\n"
    lines = (os.fsdecode(line).removesuffix("\r") for line in content.split(separator))
    paths: list[Source] = [_url(line, allow_url) if _is_url(line) else line for line in lines if line]
    if not paths:
        raise BadInput(f"The list {name} is empty: it holds one path a line.")
    return paths


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _url(name: str, allowed: bool) -> Url:
    if not allowed:
        raise BadInput(f"{name} is a URL: add --allow-url if it shall be fetched.")
    return Url(name)


def _stdin(sign: str, what: str, example: str) -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput(f"{sign} reads {what} from stdin, but nothing is piped there: {example}")
    return sys.stdin.buffer.read()


def total(inputs: Iterable[Input]) -> int | None:
    """How many images there are, or None where that shows only in reading."""
    counts = [one.count for one in inputs]
    return None if None in counts else sum(count or 0 for count in counts)
