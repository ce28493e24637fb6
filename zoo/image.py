"""One way in for every picture: path, bytes, open file, PIL image or array → uint8 pixels, upright, and what was done.

`zoo/decoders.py` decodes files, for the command, batches and servers alike.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import os
import stat
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.decoders import Picture, Pixels, as_sentences, check_size, decode_bytes, pillow_pixels
from zoo.errors import BadInput, reason

LARGEST = 256 * 2**20  # bytes of a file: what the largest picture that is decoded takes as plain RGB


@dataclass(frozen=True)
class Named:
    """An image file's bytes under the name that rows and sentences shall use, such as "-" or "scans.zip/7.png"."""

    name: str
    data: bytes


def describe(source: Any) -> str:
    """A short name of an input for rows and sentences: the path, or what kind of thing it is."""
    if isinstance(source, Named):
        return source.name
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {source.dtype} {'x'.join(map(str, source.shape))}>"
    if hasattr(source, "size") and hasattr(source, "mode"):
        return f"<image {source.mode} {source.size[0]}x{source.size[1]}>"
    return f"<{type(source).__name__}>"


def decode(source: Any) -> Picture:
    """Turn a source into upright 8-bit pixels.

    Args:
        source: a path; the bytes of an image file, `Named` or not; an open binary file; a PIL image; or an array
            `(H, W)` or `(H, W, C)` with C 1, 3 or 4: integers 0 to 255, uint16, bool, or float in 0 to 1.
    Raises:
        BadInput: a missing, empty, damaged or too large file, or an array of another shape or dtype.
    """
    if isinstance(source, (str, os.PathLike)):
        return decode_bytes(_read(source), describe(source))
    if isinstance(source, Named):
        return decode_bytes(source.data, source.name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_bytes(bytes(source), describe(source))
    if hasattr(source, "read"):
        return decode_bytes(_read_open(source), describe(source))
    if isinstance(source, np.ndarray):
        return Picture(_array_pixels(source), ("reduced to 8 bits",) if source.dtype == np.uint16 else ())
    if hasattr(source, "getexif") and hasattr(source, "convert"):
        with as_sentences(describe(source)):
            return pillow_pixels(source, describe(source))
    raise BadInput(
        f"Cannot read a picture from {type(source).__name__!r}: pass a path, bytes, a PIL image or a NumPy array."
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    if not os.fspath(path):
        raise BadInput("An empty name was given for an image: check the path.")
    try:
        return _content(path)
    except FileNotFoundError:
        raise BadInput(f"{os.fspath(path)} does not exist: check the path.") from None
    except IsADirectoryError:
        raise BadInput(f"{os.fspath(path)} is a folder, not an image file.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{os.fspath(path)} cannot be read ({reason(error)}): check the path.") from None


def _content(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes in as few calls as it takes: a third of the time of `Path.read_bytes` for a small file.

    A pipe is neither waited for nor read: nobody may ever write there, or it may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise BadInput(f"{os.fspath(path)} is a pipe or a device, not an image file: pass the bytes that it gives.")
        if (size := status.st_size) > LARGEST:
            raise BadInput(f"{os.fspath(path)} has {size:,} bytes, more than the {LARGEST:,} that are read.")
        data = os.read(descriptor, size + 1)
        if len(data) == size > 0:
            return data
        with open(descriptor, "rb", buffering=0, closefd=False) as file:  # it grows meanwhile, or hides its size
            return data + (file.readall() or b"")
    finally:
        os.close(descriptor)


def _read_open(file: Any) -> bytes:
    try:
        data = file.read()
    except UnicodeDecodeError:
        data = None
    except (OSError, ValueError) as error:
        raise BadInput(f"The file cannot be read ({reason(error)}): open it again.") from None
    if not isinstance(data, bytes):
        raise BadInput("The file was opened as text: open it with mode 'rb'.")
    return data


def _array_pixels(array: npt.NDArray[Any]) -> Pixels:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not shape_ok or 0 in array.shape:
        raise BadInput(f"An array picture has shape (H, W) or (H, W, C) with C 1, 3 or 4; this one has {array.shape}.")
    check_size(array.shape[1], array.shape[0], "The array")
    pixels = array.reshape(*array.shape[:2], -1)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return np.asarray((pixels.astype(np.uint32) + 128) // 257, np.uint8)
    if pixels.dtype.kind in "iu":
        if pixels.min() < 0 or pixels.max() > 255:
            raise BadInput(f"An array picture of {array.dtype} has values from 0 to 255; this one has others.")
        return pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise BadInput("A float array picture has values from 0 to 1; this one has others: pass uint8 0 to 255.")
        return np.asarray(np.rint(pixels * 255), np.uint8)
    raise BadInput(f"An array picture holds integers, bools or floats, not {array.dtype}: use .astype(np.uint8).")
