"""An image file's bytes → uint8 pixels, upright: OpenCV for plain PNG files, Pillow for everything else.

The same bytes give the same pixels everywhere, so they give the same answer everywhere. Plain 8-bit PNG files, which
is what data sets consist of, go through OpenCV (two to four times faster than Pillow; PNG is lossless, so both agree
to the bit). docs/decisions/0004-one-decoder.md has the figures.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


def decode_bytes(data: bytes, name: str) -> Picture:
    """Decode an image file's bytes; `name` is what error sentences call it. Raises BadInput."""
    if not data:
        raise BadInput(f"{name} is empty (0 bytes): nothing to classify.")
    if is_plain_png(data, name):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            return Picture(_rgb_order(pixels))
    return decode_with_pillow(data, name)


def is_plain_png(data: bytes, name: str) -> bool:
    """True for a whole, undamaged 8-bit grey, RGB or RGBA PNG that is not interlaced: OpenCV reads it as Pillow does.

    Every chunk's checksum is verified here, for both decoders: OpenCV returns the readable part of a damaged file
    without a word, and Pillow does not look at the checksums of pixels. Raises BadInput where one is wrong.
    """
    if not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 33:
        return False
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    check_size(width, height, name)
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


def check_size(width: int, height: int, name: str) -> None:
    """Raise BadInput for more pixels than are decoded."""
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"{name} is {width}x{height} pixels, more than the {MAX_PIXELS / 1e6:.0f} million that are decoded: "
            "make it smaller."
        )


def decode_with_pillow(data: bytes, name: str) -> Picture:
    """Decode whatever Pillow reads; `name` as in `decode_bytes`. Raises BadInput."""
    import warnings

    from PIL import Image

    with as_sentences(name):
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_size is stricter, and says more
            image = Image.open(io.BytesIO(data))
        with image:
            return pillow_pixels(image, name)


@contextmanager
def as_sentences(name: str) -> Iterator[None]:
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
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise BadInput(f"{name} is damaged or cut short ({reason(error)}): get the file again.") from None


def pillow_pixels(image: PILImage.Image, name: str) -> Picture:
    """The pixels of a PIL image, of the frame that it stands at. Raises BadInput, and what Pillow raises in loading."""
    from PIL import ImageOps

    notes = []
    check_size(*image.size, name)
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
