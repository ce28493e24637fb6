"""Shared by all formats: errors, 8-bit conversion, arrays from Pillow's and OpenCV's images, EXIF orientation."""

from __future__ import annotations  # faster start: annotations stay unevaluated

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
_WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)  # the largest values of 8, 10, 12, 14 and 16 bits
_FLOAT_WHITE_LEVELS = (1, 2, 4, 8, 16, 32, 64, 128)  # for floats that are not whole numbers
_STRIP = 2**16  # pixels that are converted at a time, so that both copies stay in the cache
_SMALL = 2**20  # pixels: smaller images are converted in one call
_SWAPPED_BYTES = 4 * 2**20  # bytes whose channels are swapped at a time


class DecodeError(Exception):
    """Why a file is not decoded. The message is the end of a sentence that begins with the file's name."""


def damaged(reason: str) -> DecodeError:
    """The error for a file that breaks the rules of its format."""
    return DecodeError(f"is damaged or cut short ({reason}): get the file again")


def strips(image: Array) -> Iterator[slice]:
    """Slices of an image's rows `(H, W, ...)`, each of about 65,536 pixels or a single row."""
    step = max(1, _STRIP // image.shape[1])
    for top in range(0, len(image), step):
        yield slice(top, top + step)


def to_8_bits(values: Array) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Any real values → uint8 of the same shape, and a correction where precision was lost. Raises DecodeError.

    One rule for arrays and files: black is 0. White is the smallest of 255, 1023, 4095, 16383 and 65535 that is not
    below the largest value, because cameras and scanners store 10, 12 or 14 bits in 16. For floats up to 1 white is 1;
    for floats that are not whole numbers, the powers of two from 2 to 128 come before 255.
    """
    if values.dtype == np.uint8:
        return values, ()
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), ()
    if values.dtype.kind not in "iuf":
        raise DecodeError(f"has dtype {values.dtype}, not integers, bools or floats: use .astype(np.uint8)")
    low, high = values.min(), values.max()
    if np.isnan(low):
        raise DecodeError("has NaN among its pixel values: replace it by a number")
    if low < 0 or high == np.inf:
        kind = "negative" if low < 0 else "infinite"
        raise DecodeError(f"has {kind} pixel values: scale them to the range from 0 to 255")
    float_levels: tuple[int, ...] = ()
    if values.dtype.kind == "f":
        float_levels = _FLOAT_WHITE_LEVELS if 1 < high <= 128 and not _are_whole(values) else (1,)
    white = next((level for level in float_levels + _WHITE_LEVELS if level >= high), None)
    if white is None:
        raise DecodeError(f"has pixel values up to {high:g}: save it with 8 or 16 bits per channel")
    if white == 255 and not float_levels:
        return values.astype(np.uint8), ()
    pixels = np.empty(values.shape, np.uint8)  # every strip is written below
    for rows in strips(values):
        strip: Array = values[rows].astype(np.float32 if float_levels else np.uint16).reshape(len(pixels[rows]), -1)
        pixels[rows] = cv2.convertScaleAbs(strip, alpha=255 / white).reshape(pixels[rows].shape)  # rounds
    return pixels, (REDUCED,) if white > 255 or float_levels else ()


def _are_whole(values: Array) -> bool:
    return all(bool((np.rint(values[rows]) == values[rows]).all()) for rows in strips(values))


def pillow_pixels(image: PILImage.Image) -> tuple[Array, tuple[str, ...]]:
    """The pixels and corrections of a loaded image, as `Header.pixels` returns them."""
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


def rgb_order(pixels: Array) -> Array:
    """OpenCV's `(H, W)` or `(H, W, C)` in BGR(A) order → `(H, W, C)` in RGB(A) order."""
    if pixels.ndim == 2:
        return pixels[:, :, np.newaxis]
    code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    if pixels.size <= _SWAPPED_BYTES:
        return cv2.cvtColor(pixels, code)
    rows = max(1, _SWAPPED_BYTES // (pixels.shape[1] * pixels.shape[2]))
    for top in range(0, len(pixels), rows):  # in place, to avoid a second copy of a large image
        pixels[top : top + rows] = cv2.cvtColor(pixels[top : top + rows], code)
    return pixels


# EXIF orientation, read without trusting anything else in the metadata.

UPRIGHT = 1
_TAG = 0x0112
_SIZES = {1: "B", 3: "H", 4: "I"}  # types that hold a small number: BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])')
_PREFIX = b"Exif\0\0"
_LONGEST = 2**20  # bytes in which an orientation is looked for


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF data, with or without their "Exif" prefix; None where there is none."""
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


def xmp_orientation(packet: bytes) -> int | None:
    """The orientation in an XMP packet, or None."""
    match = _XMP.search(packet[:_LONGEST])
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Header:
    """The header of a file, with all that decoding needs.

    Attributes:
        width, height: in pixels, before `orientation` is applied.
        memory: bytes that decoding takes at its peak, in addition to the file and any copy of it.
        orientation: EXIF's, 1 to 8.
        corrections: changes that decoding makes to the image, in words.
        reduction: pixels of the file for each pixel of `pixels`, along one side.
    """

    width: int
    height: int
    memory: int
    orientation: int = 1
    corrections: tuple[str, ...] = ()
    reduction: int = 1

    def reduced(self, least_side: int) -> Header:
        """The header with which `pixels` gives a smaller image, where the decoder makes it in less time than the whole.

        Args:
            least_side: the length in pixels that both sides of the smaller image must have at least.
        """
        return self

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        """`(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied), and further corrections.

        Any integer or float dtype. Raises DecodeError, and any error of a decoder for damaged data.
        """
        raise NotImplementedError
