"""How large a picture may be: a bound on pixels, and one on the memory that decoding takes, checked before decoding."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import os
from functools import cache

from zoo.errors import BadInput, WrongUsage

VARIABLE = "ZOO_MAX_MEGAPIXELS"
LONGEST = 65_535  # pixels a side, as in JPEG: resizing needs tables for every column
MEGAPIXELS = 25.0  # unless the variable says otherwise; a camera's 24 million pixels fit
LEAST = 100_000  # pixels: no limit is lower
_BUFFERS = 40_000_000  # bytes: what decoders take for themselves, however small the picture
_BYTES_A_PIXEL = 10  # 250 MB at 25 million pixels: two copies of an RGBA picture, and the file


@cache
def max_pixels() -> int:
    """The most pixels that a picture may have. Raises WrongUsage where the environment variable is not a number.

    `ZOO_MAX_MEGAPIXELS` is read at the first picture: set it before, and start worker processes afterwards.
    """
    value = os.environ.get(VARIABLE) or MEGAPIXELS
    try:
        pixels = round(float(value) * 1e6)
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < LEAST:
        raise WrongUsage(f"{VARIABLE} is a number of megapixels from 0.1 on, such as 50, not {value!r}: change it.")
    return pixels


def max_memory() -> int:
    """The most bytes that decoding a picture may take, its file included."""
    return max(_BYTES_A_PIXEL * max_pixels(), _BUFFERS)


def check_size(width: int, height: int, name: str) -> None:
    """Raise BadInput for more pixels than are decoded, in all or a side."""
    if max(width, height) > LONGEST:
        raise BadInput(
            f"{name} is {width}x{height} pixels, and no side may have more than {LONGEST:,}: make it smaller."
        )
    if width * height > max_pixels():
        raise BadInput(
            f"{name} is {width}x{height} pixels, more than the {max_pixels() / 1e6:g} million that are decoded: "
            f"make it smaller, or raise the limit ({VARIABLE})."
        )


def check_memory(needed: int, width: int, height: int, name: str) -> None:
    """Raise BadInput where decoding would take more bytes than it may."""
    if needed > max_memory():
        raise BadInput(
            f"{name} ({width}x{height} pixels) would take {needed / 1e6:.0f} MB to decode, more than the "
            f"{max_memory() / 1e6:.0f} MB that it may: make it smaller, or save it as a PNG with 8 bits a channel."
        )
