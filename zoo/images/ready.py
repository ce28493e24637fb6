"""Images that need no correction: PNG files of the network's own size and form, decoded and checked many at a time.

Data sets consist of such files. One by one, decoding and checking a 28x28 image takes several times as long as its
pixels need, because each call of OpenCV or NumPy costs about a microsecond. Here all images of a chunk share the calls:
their rows become one tall PNG, separated by black rows, which OpenCV decodes at once, and the form of all digits is
tested by array operations. The pixels equal those of `zoo.images.prepare.prepare` to the bit.

`zoo.model.prepare_all` uses these pixels instead of `prepare` where a list has at least `MIN_IMAGES` such files.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import os
import struct
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from zoo.card import Input
from zoo.errors import ZooError
from zoo.images.digits import are_mnist_form
from zoo.images.formats.png import decode_inflated, inflated_rows
from zoo.images.read import Named, read_file

MIN_IMAGES = 4  # fewer gain nothing
PNG_HEADERS = {1: b"\x08\0\0\0\0", 3: b"\x08\2\0\0\0"}  # channels -> bit depth, colour type, three zeros (grey, RGB)


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
    if len(sources) < MIN_IMAGES or channels not in PNG_HEADERS:
        return {}
    positions, rows = [], []
    for position, source in enumerate(sources):
        data = _content(source)
        raw = inflated_rows(data, width, height, PNG_HEADERS[channels]) if data else None
        if raw is not None:
            positions.append(position)
            rows.append(raw)
    if len(rows) < MIN_IMAGES:
        return {}
    pixels = _decoded(rows, width, height, channels)
    if pixels is None:
        return {}
    if expected.form == "digit":
        fits = are_mnist_form(pixels)
        return {position: image for position, image, fit in zip(positions, pixels, fits.tolist(), strict=True) if fit}
    return dict(zip(positions, pixels, strict=True))


def _content(source: Any) -> bytes | None:
    if isinstance(source, Named):
        return source.data
    if isinstance(source, (str, os.PathLike)):
        try:
            return read_file(source)
        except (ZooError, OSError, ValueError):
            return None
    return None


def _decoded(rows: list[bytes], width: int, height: int, channels: int) -> npt.NDArray[np.uint8] | None:
    """Inflated PNG rows of N equal-sized images -> uint8 `(N, H, W, C)`, by one call of OpenCV.

    A row's filter refers to the row above, which for an image's first row counts as zero (PNG specification, 9.2).
    """
    separator = bytes(width * channels + 1)  # filter 0, all black
    total_height = len(rows) * (height + 1)
    header = b"IHDR" + struct.pack(">II", width, total_height) + PNG_HEADERS[channels]
    start = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", crc32(header))
    pixels = decode_inflated(start, separator.join([*rows, b""]))
    if pixels is None or pixels.shape != (total_height, width, channels):
        return None
    images = np.ascontiguousarray(pixels.reshape(len(rows), height + 1, width, channels)[:, :height])
    images.flags.writeable = False
    return images
