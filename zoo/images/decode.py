"""An image file's bytes → uint8 pixels, upright, the same in every interface.

The format is recognised from the content, not from the file name; `zoo/images/formats/` has a module for each format.
Headers are checked against `zoo/images/limits.py` before anything is decoded, and decoders only get the parts of a file
that carry pixels. docs/decisions/0004-one-decoder.md has the figures, 0010-untrusted-pictures.md the limits.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput, ZooError, reason
from zoo.images.formats.common import DecodeError, Header, to_8_bits
from zoo.images.formats.png import plain_pixels
from zoo.images.headers import READ, START, reader, sniff
from zoo.images.limits import check_memory, check_size

Pixels = npt.NDArray[np.uint8]

ROTATED = "rotated upright (EXIF orientation)"
_SUPPORTED = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, PGM or PPM"
_ROTATIONS = {  # EXIF orientation → the operation that brings the image upright
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: lambda pixels: cv2.transpose(pixels),
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_FROM_BOTTOM, _FROM_RIGHT = (3, 4, 7, 8), (2, 3, 6, 7)  # orientations in which the first row or column was a last one


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image."""

    pixels: Pixels  # uint8 `(H, W, C)`; C is 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied)
    corrections: tuple[str, ...] = ()  # made while decoding, such as "used the first frame"
    reduced: Reduced | None = None  # where the pixels are fewer than the file's


class Reduced(NamedTuple):
    """What an image was before the decoder reduced it, upright."""

    factor: int  # pixels of the whole image for each decoded pixel, along one side
    height: int  # of the whole image
    width: int
    top: int  # how far the first row of decoded pixels begins outside of the whole image, in its pixels
    left: int


def decode_bytes(data: bytes, name: str, least_side: int | None = None) -> DecodedImage:
    """Decode the bytes of an image file.

    Args:
        name: what error messages call it.
        least_side: the decoder may reduce the image, to at least that many pixels along its shorter side, if that is
            faster than decoding the whole. None: decode the whole. Limits always apply to the whole.
    Raises:
        BadInput.
    """
    pixels = plain_pixels(data)
    if pixels is not None:
        return DecodedImage(pixels)
    if not data:
        raise BadInput(f"{name} is empty (0 bytes): nothing to classify.")
    format = sniff(data[:START])
    if format is None:
        raise BadInput(f"{name} is not a supported image: use {_SUPPORTED}.")
    if format not in READ:
        raise BadInput(f"{name} is in the format {format}, which is not supported: save it as PNG or JPEG.")
    with as_bad_input(name):
        header = reader(format).parse(data)
        check_size(header.width, header.height, name)
        check_memory(header.memory + len(data), header.width, header.height, name)
        if least_side is not None:
            header = header.reduced(least_side)
        values, corrections = header.pixels()
        pixels, reduced = to_8_bits(values)
        del values  # `upright` may copy the image: keep at most two copies of a large one
        corrections = header.corrections + corrections + reduced
        if header.orientation != 1:
            pixels, corrections = upright(pixels, header.orientation), (*corrections, ROTATED)
    if header.reduction == 1:
        return DecodedImage(pixels, corrections)
    return DecodedImage(pixels, corrections, _reduced(header, *pixels.shape[:2]))


def _reduced(header: Header, rows: int, columns: int) -> Reduced:
    """Args: rows and columns of the reduced image, upright. Before turning, its first pixels begin with the image."""
    factor, orientation = header.reduction, header.orientation
    height, width = (header.width, header.height) if orientation >= 5 else (header.height, header.width)
    top = rows * factor - height if orientation in _FROM_BOTTOM else 0
    left = columns * factor - width if orientation in _FROM_RIGHT else 0
    return Reduced(factor, height, width, top, left)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """`(H, W, C)` rotated and mirrored for an EXIF orientation, 2 to 8."""
    rotated: Any = _ROTATIONS[orientation](pixels)
    return np.asarray(rotated, np.uint8).reshape(*rotated.shape[:2], -1)


@contextmanager
def as_bad_input(name: str) -> Iterator[None]:
    """Turn any error of a decoder into BadInput with a sentence about the file `name`."""
    try:
        yield
    except DecodeError as error:
        raise BadInput(f"{name} {error}.") from None
    except MemoryError:
        raise BadInput(f"{name} needs more memory than is available: make it smaller.") from None
    except ZooError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise BadInput(f"{name} is damaged or cut short ({reason(error)}): get the file again.") from None
