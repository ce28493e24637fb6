"""Limits on pixels and on the memory for decoding, checked before an image is decoded."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import os
from functools import cache

from zoo.errors import BadInput, WrongUsage

VARIABLE = "ZOO_MAX_MEGAPIXELS"
MAX_SIDE = 65_535  # pixels per side, as in JPEG: resizing needs tables for every column
MEGAPIXELS = 25.0  # default limit; a camera's 24 million pixels fit
LEAST = 100_000  # pixels: no limit can be set lower
_BUFFERS = 40_000_000  # bytes that decoders take for themselves, even for a small image
_BYTES_PER_PIXEL = 10  # 250 MB at 25 million pixels: two copies of an RGBA image, and the file


@cache
def max_pixels() -> int:
    """The largest number of pixels of an image. Raises WrongUsage if the environment variable is not a valid number.

    `ZOO_MAX_MEGAPIXELS` is read for the first image: set it earlier, and start worker processes after setting it.
    """
    value = os.environ.get(VARIABLE) or MEGAPIXELS
    try:
        pixels = round(float(value) * 1e6)
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < LEAST:
        raise WrongUsage(f"{VARIABLE} is {value!r}: set it to a number of megapixels of at least 0.1, such as 50.")
    return pixels


def max_memory() -> int:
    """The most bytes that decoding an image may take, including its file."""
    return max(_BYTES_PER_PIXEL * max_pixels(), _BUFFERS)


def check_size(width: int, height: int, name: str) -> None:
    """Raise BadInput for too many pixels, in total or per side."""
    if max(width, height) > MAX_SIDE:
        raise BadInput(
            f"{name} has {width}x{height} pixels, more than the limit of {MAX_SIDE:,} per side: make it smaller."
        )
    if width * height > max_pixels():
        raise BadInput(
            f"{name} has {width}x{height} pixels, more than the limit of {max_pixels() / 1e6:g} million: "
            f"make it smaller, or raise the limit (--max-megapixels of zoo predict, or {VARIABLE})."
        )


def check_memory(needed: int, width: int, height: int, name: str) -> None:
    """Raise BadInput where decoding would take too much memory."""
    if needed > max_memory():
        raise BadInput(
            f"{name} ({width}x{height} pixels) needs {needed / 1e6:.0f} MB to decode, more than the limit of "
            f"{max_memory() / 1e6:.0f} MB: make it smaller, or save it as a PNG with 8 bits per channel."
        )
