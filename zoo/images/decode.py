"""An image file's bytes → uint8 pixels, upright, the same in every interface.

The format is what the content begins like, whatever the file is called. `zoo/images/formats/` has a module for each
format; headers are checked against `zoo/images/limits.py` before anything is decoded, and only what carries pixels
reaches a decoder. docs/decisions/0004-one-decoder.md has the figures, 0010-untrusted-pictures.md the limits.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput, ZooError, reason
from zoo.images.formats.common import Refused, to_8_bits
from zoo.images.formats.plain_png import plain_pixels
from zoo.images.headers import READ, START, reader, sniff
from zoo.images.limits import check_memory, check_size

Pixels = npt.NDArray[np.uint8]

TURNED = "turned upright as its EXIF orientation says"
_READ = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, PGM and PPM"
_TURNS = {  # EXIF orientation → what brings the picture upright
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: lambda pixels: cv2.transpose(pixels),
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    pixels: uint8 `(H, W, C)`; C is 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
    notes: what decoding had to do, in words, such as "used the first frame".
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()


def decode_bytes(data: bytes, name: str) -> Picture:
    """Decode an image file's bytes; `name` is what error sentences call it. Raises BadInput."""
    pixels = plain_pixels(data)
    if pixels is not None:
        return Picture(pixels)
    if not data:
        raise BadInput(f"{name} is empty (0 bytes): nothing to classify.")
    format = sniff(data[:START])
    if format is None:
        raise BadInput(f"{name} is not an image that can be read: {_READ} are understood.")
    if format not in READ:
        raise BadInput(f"{name} is in the format {format}, which is not read: save it as PNG or JPEG.")
    with as_sentences(name):
        header = reader(format).parse(data)
        check_size(header.width, header.height, name)
        check_memory(header.memory + len(data), header.width, header.height, name)
        values, notes = header.pixels()
        pixels, reduced = to_8_bits(values)
        del values  # two copies of a large picture at most: the next may be upright
        notes = header.notes + notes + reduced
        if header.orientation != 1:
            pixels, notes = upright(pixels, header.orientation), (*notes, TURNED)
    return Picture(pixels, notes)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """`(H, W, C)` turned and mirrored as an EXIF orientation, 2 to 8, asks for."""
    turned: Any = _TURNS[orientation](pixels)
    return np.asarray(turned, np.uint8).reshape(*turned.shape[:2], -1)


@contextmanager
def as_sentences(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises for a bad file into BadInput."""
    try:
        yield
    except Refused as error:
        raise BadInput(f"{name} {error}.") from None
    except MemoryError:
        raise BadInput(f"{name} takes more memory than there is: make it smaller.") from None
    except ZooError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise BadInput(f"{name} is damaged or cut short ({reason(error)}): get the file again.") from None
