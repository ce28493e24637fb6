"""What the formats share: why a file is refused, and the ways from Pillow's images and from other dtypes to arrays."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image as PILImage

Array = npt.NDArray[Any]

FIRST_FRAME, FROM_CMYK, REDUCED = "used the first frame", "converted from CMYK", "reduced to 8 bits"
_WHOLE = (255, 1023, 4095, 16383, 65535)  # the largest values of 8, 10, 12, 14 and 16 bits
_FRACTIONS = (1, 2, 4, 8, 16, 32, 64, 128)  # the largest values of floats that are not whole numbers
_STRIP = 2**16  # pixels that are converted at a time: what is in two forms at once stays in the cache
_SMALL = 2**20


class Refused(Exception):
    """Why a file is not decoded: the rest of a sentence that begins with its name, without the full stop."""


def damaged(reason: str) -> Refused:
    return Refused(f"is damaged or cut short ({reason}): get the file again")


def strips(picture: Array) -> Iterator[slice]:
    """Rows of a picture `(H, W, ...)`, of 65,536 pixels together or a single row."""
    step = max(1, _STRIP // picture.shape[1])
    for top in range(0, len(picture), step):
        yield slice(top, top + step)


def to_8_bits(values: Array) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Any real values → uint8 of the same shape, and a note where precision was lost. Raises Refused.

    One rule for arrays and files: black is 0, and white is the smallest of 255, 1023, 4095, 16383 and 65535 that holds
    the largest value, for cameras and scanners keep 10, 12 or 14 bits in 16. Floats up to 1 have their white at 1, and
    those that are not whole numbers at 2, 4, and so on to 128 before 255.
    """
    if values.dtype == np.uint8:
        return values, ()
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), ()
    if values.dtype.kind not in "iuf":
        raise Refused(f"holds {values.dtype}, not integers, bools or floats: use .astype(np.uint8)")
    low, high = values.min(), values.max()
    if not (low >= 0 and high < np.inf):  # false for NaN too
        raise Refused("has pixel values below zero or not finite: save it with 8 bits a channel")
    fractions: tuple[int, ...] = ()
    if values.dtype.kind == "f":
        fractions = _FRACTIONS if 1 < high <= 128 and not _are_whole(values) else (1,)
    white = next((level for level in fractions + _WHOLE if level >= high), None)
    if white is None:
        raise Refused(f"has pixel values up to {high:g}: save it with 8 or 16 bits a channel")
    if white == 255 and not fractions:
        return values.astype(np.uint8), ()
    pixels = np.empty(values.shape, np.uint8)  # every strip is written below
    for rows in strips(values):
        strip: Array = values[rows].astype(np.float32 if fractions else np.uint16).reshape(len(pixels[rows]), -1)
        pixels[rows] = cv2.convertScaleAbs(strip, alpha=255 / white).reshape(pixels[rows].shape)  # rounded
    return pixels, (REDUCED,) if white > 255 or fractions else ()


def _are_whole(values: Array) -> bool:
    return all(bool((np.rint(values[rows]) == values[rows]).all()) for rows in strips(values))


def pillow_pixels(image: PILImage.Image) -> tuple[Array, tuple[str, ...]]:
    """A loaded image's pixels and notes, as `Header.pixels` gives them."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _copied(image, mode, 1), ()
    if mode == "1":
        mode = "L"
    elif mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        mode = "RGBA"
    elif mode not in ("L", "RGBA"):
        mode = "RGB"
    return _copied(image, mode, len(mode)), (FROM_CMYK,) if image.mode == "CMYK" else ()


def _copied(image: PILImage.Image, mode: str, channels: int) -> Array:
    width, height = image.size
    if width * height <= _SMALL:
        return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(height, width, channels)
    copy: Array | None = None
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        piece = image.crop((0, top, width, min(top + step, height)))
        values = np.asarray(piece if piece.mode == mode else piece.convert(mode))
        if copy is None:
            copy = np.empty((height, width, channels), values.dtype)  # every strip is written below
        copy[top : top + step] = values.reshape(*values.shape[:2], channels)
    assert copy is not None
    return copy


# The orientation that a file's metadata declare, read without trusting anything else in them.

UPRIGHT = 1
_TAG = 0x0112
_SIZES = {1: "B", 3: "H", 4: "I"}  # types that hold a small number: BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])')
_PREFIX = b"Exif\0\0"
_LONGEST = 2**20  # bytes in which an orientation is looked for


def orientation(exif: bytes) -> int | None:
    """From EXIF, with or without its "Exif" prefix; None where it has none, or is no EXIF."""
    exif = exif[:_LONGEST].removeprefix(_PREFIX).removeprefix(_PREFIX)  # some programs write it twice
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return None
    count = min(struct.unpack_from(order + "H", exif, start)[0], (len(exif) - start - 2) // 12)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", exif, place)
        if tag == _TAG:
            if kind not in _SIZES or not 1 <= number <= 4 // struct.calcsize(_SIZES[kind]):
                return None
            value = struct.unpack_from(order + _SIZES[kind], exif, place + 8)[0]
            return value if 1 <= value <= 8 else None
    return None


def from_xmp(packet: bytes) -> int | None:
    found = _XMP.search(packet[:_LONGEST])
    return int(found[1]) if found else None


# What a file declares: all that its decoding needs. Apart from the rest, for the smallest files need none of it.


@dataclass(frozen=True)
class Header:
    """What a file declares.

    memory: bytes that decoding takes at its peak, beside the file and any copy of it.
    orientation: as EXIF counts, 1 to 8. notes: what decoding does to the picture, in words.
    """

    width: int
    height: int
    memory: int
    orientation: int = 1
    notes: tuple[str, ...] = ()

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        """`(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied), and further notes.

        Any integer or float dtype. Raises Refused, and whatever a decoder raises for damaged data.
        """
        raise NotImplementedError
