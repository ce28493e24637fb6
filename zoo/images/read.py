"""Any source of an image (path, bytes, open file, PIL image or array) → upright uint8 pixels and corrections.

Files are decoded by `zoo/images/decode.py`.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import os
import stat
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput, reason
from zoo.images.decode import ROTATED, DecodedImage, as_bad_input, decode_bytes, upright
from zoo.images.formats.common import pillow_pixels, to_8_bits
from zoo.images.headers import READ, START, sniff
from zoo.images.limits import check_size

_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # the last two on some systems
MAX_FILE_BYTES = 128 * 2**20  # bytes of a file: more than 25 million pixels take as uncompressed RGBA


@dataclass(frozen=True)
class Named:
    """The bytes of an image file, and its name in rows and error messages, such as "-" or "scans.zip/7.png"."""

    name: str
    data: bytes


def describe(source: Any) -> str:
    """A short name of an input for rows and error messages: the path, or a description such as "<image RGB 28x28>"."""
    if isinstance(source, Named):
        return source.name
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {source.dtype} {'x'.join(map(str, source.shape))}>"
    if hasattr(source, "mode") and isinstance(size := getattr(source, "size", None), tuple) and len(size) == 2:
        return f"<image {source.mode} {size[0]}x{size[1]}>"
    return f"<{type(source).__name__}>"


def subject(source: Any) -> str:
    """How a sentence about an input begins: with its name, unless it is that of standard input or of a body, "-"."""
    return "The image" if (name := describe(source)) == "-" else name


def is_one_image(source: Any) -> bool:
    """Whether `decode` takes the source as one image, so that its items are not images."""
    if isinstance(source, (str, os.PathLike, Named, bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return True
    if isinstance(source, np.ndarray):
        return source.ndim == 2 or _has_channels(source)
    return hasattr(source, "getexif") and hasattr(source, "convert")


def decode(source: Any, least_side: int | None = None) -> DecodedImage:
    """Turn a source into upright 8-bit pixels.

    Args:
        source: a path; the bytes of an image file, `Named` or not; an open binary file; a PIL image, which is not
            changed; or an array `(H, W)` or `(H, W, C)` with C 1, 3 or 4, of integers, bools or floats that are not
            negative. `zoo.images.formats.common.to_8_bits` defines the value of white for more than 8 bits.
        least_side: as in `zoo.images.decode.decode_bytes`, for sources that are files.
    Raises:
        BadInput: a missing, empty, damaged or too large file, or an array of another shape or dtype.
    """
    if isinstance(source, (str, os.PathLike)):
        return decode_bytes(_read(source), describe(source), least_side)
    if isinstance(source, Named):
        return decode_bytes(source.data, subject(source), least_side)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_bytes(bytes(source), describe(source), least_side)
    if hasattr(source, "read"):
        return decode_bytes(_read_open(source), describe(source), least_side)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if hasattr(source, "getexif") and hasattr(source, "convert"):
        return _from_pillow(source, describe(source), least_side)
    advice = "pass a path, bytes, a PIL image or a NumPy array"
    if isinstance(source, (list, tuple, int, float, np.number)):
        advice = "a list is a list of images; for pixels pass a NumPy array"
    raise BadInput(f"Cannot read an image from {type(source).__name__!r}: {advice}.")


def _from_pillow(image: Any, name: str, least_side: int | None) -> DecodedImage:
    """An image that is opened but not loaded is decoded from its file, with the same result as for the file."""
    with as_bad_input(name):
        check_size(image.width, image.height, name)
        content = _unloaded_file(image)
        if content and sniff(content[:START]) in READ:
            return decode_bytes(content, name, least_side)
        frame = image.tell() if hasattr(image, "tell") else 0
        image.load()
        try:
            orientation = image.getexif().get(0x0112)
        except Exception:  # the pixels are readable although EXIF is damaged
            orientation = None
        values, corrections = pillow_pixels(image)
        pixels, reduced = to_8_bits(values)
        corrections = ((f"used frame {frame + 1}",) if frame else ()) + corrections + reduced
        if orientation in range(2, 9):
            pixels, corrections = upright(pixels, orientation), (*corrections, ROTATED)
        return DecodedImage(pixels, corrections)


def _unloaded_file(image: Any) -> bytes | None:
    """The file of a PIL image that is not decoded yet and is at its first frame; else None."""
    file = getattr(image, "fp", None)
    fields = getattr(image, "__dict__", {})
    loaded = fields.get("_im", fields.get("im")) is not None  # the attribute's name depends on Pillow's version
    if loaded or file is None or image.tell() or getattr(image, "decoderconfig", ()):
        return None
    place = file.tell()
    try:
        file.seek(0)
        return bytes(file.read(MAX_FILE_BYTES))
    finally:
        file.seek(place)


def _read(path: str | os.PathLike[str]) -> bytes:
    if not os.fspath(path):
        raise BadInput("The path of an image is empty: check the path.")
    try:
        return read_file(path)
    except FileNotFoundError:
        raise BadInput(f"{os.fsdecode(path)} does not exist: check the path.") from None
    except IsADirectoryError:
        raise BadInput(f"{os.fsdecode(path)} is a folder, not an image file.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{os.fsdecode(path)} cannot be read ({reason(error)}): check the path.") from None


def read_file(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes with as few system calls as possible, in a third of the time of `Path.read_bytes` for small files.

    Pipes are refused without waiting: there may be no writer, or no end.
    """
    descriptor = os.open(path, _READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise BadInput(f"{os.fsdecode(path)} is a pipe or a device, not an image file: read it and pass the bytes.")
        if (size := status.st_size) > MAX_FILE_BYTES:
            raise BadInput(f"{os.fsdecode(path)} has {size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}.")
        data = os.read(descriptor, size + 1)
        if len(data) == size > 0:
            return data
        with open(descriptor, "rb", buffering=0, closefd=False) as file:  # a growing file, or one without a known size
            return data + (file.readall() or b"")
    finally:
        os.close(descriptor)


def read_file_up_to(path: str | os.PathLike[str], largest: int) -> bytes | None:
    """The bytes of a regular file of at most `largest` bytes; None for any other. Raises OSError or ValueError."""
    descriptor = os.open(path, _READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
            return None
        data = os.read(descriptor, largest + 1)
        return data if len(data) == status.st_size else None
    finally:
        os.close(descriptor)


def _read_open(file: Any) -> bytes:
    parts: list[bytes] = []
    remaining = MAX_FILE_BYTES + 1
    try:
        while remaining > 0 and (part := file.read(remaining)):
            if not isinstance(part, bytes):
                raise UnicodeError
            parts.append(part)
            remaining -= len(part)
    except UnicodeError:
        raise BadInput("The file was opened as text: open it with mode 'rb'.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"The file cannot be read ({reason(error)}): open it again.") from None
    if remaining <= 0:
        raise BadInput(f"The file has more bytes than the limit of {MAX_FILE_BYTES:,}.")
    return b"".join(parts)


def _from_array(array: npt.NDArray[Any]) -> DecodedImage:
    if not (array.ndim == 2 or _has_channels(array)) or 0 in array.shape:
        raise BadInput(f"The array has shape {array.shape}: pass (H, W) or (H, W, C) with C 1, 3 or 4.")
    check_size(array.shape[1], array.shape[0], "The array")
    with as_bad_input("The array"):
        values = np.asarray(array)  # the data of a subclass, such as a masked array
        return DecodedImage(*to_8_bits(values.reshape(*values.shape[:2], -1)))


def _has_channels(array: npt.NDArray[Any]) -> bool:
    return array.ndim == 3 and array.shape[2] in (1, 3, 4)
