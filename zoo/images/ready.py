"""Images that need no correction: PNG files of the network's own size and form, decoded and checked many at a time.

Datasets consist of such files. One by one, decoding and checking a 28x28 image takes several times as long as its
pixels need, because each call of OpenCV or NumPy costs about a microsecond. Here all images of a list share the calls:
their rows become one tall PNG, separated by black rows, which OpenCV decodes at once, and the form of all digits is
tested by array operations. The pixels equal those of `zoo.images.prepare.prepare` to the bit.

`zoo.classification.prepare_all` uses these pixels instead of `prepare` where a list has at least `MIN_IMAGES` such
files.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.card import Input
from zoo.images.digits import are_mnist_form
from zoo.images.formats.png import decode_inflated, inflated_rows, start_of
from zoo.images.read import Named, read_file_up_to

MIN_IMAGES = 4  # fewer gain nothing
MAX_OVERHEAD = 1024  # bytes that a PNG may have beyond its uncompressed rows; compressors add less than a hundred
PNG_KINDS = {1: b"\x08\0\0\0\0", 3: b"\x08\2\0\0\0"}  # channels -> bit depth, colour type, three zeros (grey, RGB)


def ready_pixels(sources: Sequence[Any], expected: Input) -> dict[int, npt.NDArray[np.uint8]]:
    """The network's pixels of each source that needs no correction, by its position in `sources`.

    Sources that are missing here (other formats, sizes or forms, files that cannot be read) take the general way
    through `prepare`, which also words their errors.

    Args:
        sources: paths and `Named` bytes are looked at, other kinds are left out.
        expected: the network's input.
    Returns:
        position -> uint8 `expected.shape`, read-only views of one array.
    """
    height, width, channels = expected.shape
    if len(sources) < MIN_IMAGES or channels not in PNG_KINDS or expected.changes_own_size:
        return {}
    start, stride = start_of(width, height, PNG_KINDS[channels]), width * channels + 1
    largest = stride * height + MAX_OVERHEAD  # larger files are not read: a block of photos would fill the memory
    contents = [_content(source, largest) for source in sources]
    inflated = [inflated_rows(data, start, stride, height) if data else None for data in contents]
    positions = [position for position, raw in enumerate(inflated) if raw is not None]
    rows = [raw for raw in inflated if raw is not None]
    if len(rows) < MIN_IMAGES:
        return {}
    pixels = _decoded(rows, width, height, channels)
    if pixels is None:
        return {}
    if expected.form == "digit":
        fits = are_mnist_form(pixels)
        return {position: image for position, image, fit in zip(positions, pixels, fits.tolist(), strict=True) if fit}
    return dict(zip(positions, pixels, strict=True))


def _content(source: Any, largest: int) -> bytes | None:
    if isinstance(source, (str, os.PathLike)):
        try:
            return read_file_up_to(source, largest)
        except (OSError, ValueError):
            return None
    return source.data if isinstance(source, Named) else None


def _decoded(rows: list[bytes], width: int, height: int, channels: int) -> npt.NDArray[np.uint8] | None:
    """Inflated PNG rows of N equal-sized images -> uint8 `(N, H, W, C)`, by one call of OpenCV.

    A row's filter refers to the row above, which for an image's first row counts as zero (PNG specification, 9.2).
    """
    separator = bytes(width * channels + 1)  # filter 0, all black
    total_height = len(rows) * (height + 1)
    pixels = decode_inflated(start_of(width, total_height, PNG_KINDS[channels]), separator.join([*rows, b""]))
    if pixels is None or pixels.shape != (total_height, width, channels):
        return None
    images = np.ascontiguousarray(pixels.reshape(len(rows), height + 1, width, channels)[:, :height])
    images.flags.writeable = False
    return images
