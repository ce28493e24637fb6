"""One decoder for every path: path, bytes, PIL image or array → uint8 pixels, upright, with what was done to get there.

The same bytes give the same pixels everywhere, so they give the same answer everywhere. Plain 8-bit PNG files, which
is what data sets consist of, go through OpenCV (two to four times faster than Pillow; PNG is lossless, so both agree
to the bit); everything else goes through Pillow. docs/decisions/0004-one-decoder.md has the figures.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput, reason

if TYPE_CHECKING:
    from PIL import Image as PILImage

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485  # Pillow's own bound: a quarter of a gigabyte as RGB. Larger pictures are refused undecoded.

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}  # colour types whose pixels need no palette: grey, RGB, RGBA
_PNG_PLAIN = {b"IHDR", b"IDAT", b"IEND", b"tIME", b"pHYs"}  # no others: even a text can hold an orientation
_OPENING = threading.Lock()  # warning filters belong to the process: two threads would restore each other's


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    pixels: uint8 `(H, W, C)`; C is 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
    notes: what decoding had to do, in words, such as "used the first of 12 frames".
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()


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
        with _as_sentences(describe(source)):
            return _pillow_pixels(source, describe(source))
    raise BadInput(
        f"Cannot read a picture from {type(source).__name__!r}: pass a path, bytes, a PIL image or a NumPy array."
    )


def decode_bytes(data: bytes, name: str) -> Picture:
    """Decode an image file's bytes; `name` is what error sentences call it. Raises BadInput."""
    if not data:
        raise BadInput(f"{name} is empty (0 bytes): nothing to classify.")
    if _is_plain_png(data, name):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            return Picture(_rgb_order(pixels))
    return _decode_with_pillow(data, name)


def _read(path: str | os.PathLike[str]) -> bytes:
    if not os.fspath(path):
        raise BadInput("An empty name was given for an image: check the path.")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{os.fspath(path)} does not exist: check the path.") from None
    except IsADirectoryError:
        raise BadInput(f"{os.fspath(path)} is a folder, not an image file.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{os.fspath(path)} cannot be read ({reason(error)}): check the path.") from None


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


def _is_plain_png(data: bytes, name: str) -> bool:
    """True for a whole, undamaged 8-bit grey, RGB or RGBA PNG that is not interlaced: OpenCV reads it as Pillow does.

    Every chunk's checksum is verified here, for both decoders: OpenCV returns the readable part of a damaged file
    without a word, and Pillow does not look at the checksums of pixels. Raises BadInput where one is wrong.
    """
    if not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 33:
        return False
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    _check_size(width, height, name)
    plain = depth == 8 and colour in _PNG_CHANNELS and not interlace
    position, kind = 8, b""
    while position + 12 <= len(data) and kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if end + 4 <= len(data) and data[end : end + 4] != zlib.crc32(data[position + 4 : end]).to_bytes(4, "big"):
            raise BadInput(f"{name} is damaged (the checksum of a part of it is wrong): get the file again.")
        plain = plain and kind in _PNG_PLAIN
        position = end + 4
    return plain and kind == b"IEND"


def _rgb_order(pixels: npt.NDArray[Any]) -> Pixels:
    if pixels.ndim == 2:
        return pixels[:, :, np.newaxis]
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA).astype(
        np.uint8, copy=False
    )


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"{name} is {width}x{height} pixels, more than the {MAX_PIXELS / 1e6:.0f} million that are decoded: "
            "make it smaller."
        )


def _decode_with_pillow(data: bytes, name: str) -> Picture:
    import warnings

    from PIL import Image

    with _as_sentences(name):
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size is stricter, and says more
            image = Image.open(io.BytesIO(data))
        with image:
            return _pillow_pixels(image, name)


@contextmanager
def _as_sentences(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a bad file into BadInput."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        raise BadInput(
            f"{name} is not an image that can be read: PNG, JPEG, WebP, GIF, BMP and TIFF are understood."
        ) from None
    except Image.DecompressionBombError:
        raise BadInput(f"{name} has more than {MAX_PIXELS / 1e6:.0f} million pixels: make it smaller.") from None
    except BadInput:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise BadInput(f"{name} is damaged or cut short ({reason(error)}): get the file again.") from None


def _pillow_pixels(image: PILImage.Image, name: str) -> Picture:
    from PIL import ImageOps

    notes = []
    _check_size(*image.size, name)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        which = "the first" if image.tell() == 0 else f"number {image.tell() + 1}"
        notes.append(f"used {which} of {getattr(image, 'n_frames', 1)} frames")
    image.load()
    if image.getexif().get(0x0112) in range(2, 9):  # the Orientation tag; 1 is upright
        image = ImageOps.exif_transpose(image)
        notes.append("turned upright as its EXIF orientation says")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        notes.append("reduced to 8 bits")
        return Picture(_scaled_to_8_bits(values, name), tuple(notes))
    if image.mode == "1":
        mode = "L"
    elif image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        mode = "RGBA"
    else:
        mode = image.mode if image.mode in ("L", "RGB", "RGBA") else "RGB"
    if image.mode == "CMYK":
        notes.append("converted from CMYK")
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return Picture(pixels.reshape(*pixels.shape[:2], -1), tuple(notes))


def _scaled_to_8_bits(values: npt.NDArray[Any], name: str) -> Pixels:
    """16-bit and 32-bit grey → uint8 `(H, W, 1)`; floats are taken as 0 to 1 where they fit, integers as 0 to 65535."""
    if not np.isfinite(values).all() or values.min() < 0:
        raise BadInput(f"{name} has pixel values below zero or not finite: save it as an 8-bit PNG.")
    top = float(values.max())
    if values.dtype.kind == "f" and top <= 255:
        full = 1.0 if top <= 1 else 255.0
    else:
        full = 65535.0
    if top > full:
        raise BadInput(f"{name} has pixel values up to {top:g}: save it with 8 or 16 bits a pixel.")
    return np.asarray(np.rint(values * (255.0 / full)), np.uint8)[:, :, np.newaxis]


def _array_pixels(array: npt.NDArray[Any]) -> Pixels:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not shape_ok or 0 in array.shape:
        raise BadInput(f"An array picture has shape (H, W) or (H, W, C) with C 1, 3 or 4; this one has {array.shape}.")
    _check_size(array.shape[1], array.shape[0], "The array")
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
