"""What a person names on the command line → images, in order: files, folders, globs, `-` for bytes on stdin."""

import glob
import os
import sys
from collections.abc import Iterator

from zoo.errors import BadInput
from zoo.image import Named

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def expand(argument: str) -> list[str | Named]:
    """The images that one argument stands for.

    A folder gives the images in it and in its folders, sorted by path: files that begin like an image or are named like
    one, so that a damaged image is reported and not passed over. Any other name stands for itself, existing or not.

    Raises:
        BadInput: a folder or glob without images, or nothing on stdin.
    """
    if argument == "-":
        return [Named("-", _stdin())]
    if os.path.isdir(argument):
        if not os.access(argument, os.R_OK | os.X_OK):
            raise BadInput(f"The folder {argument} cannot be read: check its permissions.")
        if found := sorted(_images_in(argument)):
            return list(found)
        raise BadInput(f"The folder {argument} holds no images.")
    if not os.path.exists(argument) and glob.has_magic(argument):
        names = sorted(name for name in glob.iglob(argument, recursive=True) if os.path.isfile(name))
        if names:
            return list(names)
        raise BadInput(f"No file matches {argument}.")
    return [argument]


def _images_in(folder: str) -> Iterator[str]:
    """Files and folders whose name begins with a dot are left alone, and so are links to folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(parent, name)
            if os.path.isfile(path) and (os.path.splitext(name)[1].lower() in SUFFIXES or _looks_like_an_image(path)):
                yield path


def _looks_like_an_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_MAGIC) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput("- reads an image's bytes from stdin, but nothing is piped there: zoo predict - < picture.png")
    return sys.stdin.buffer.read()
