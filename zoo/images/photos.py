"""A photograph of any size and shape → the small colour image that a network for photographs takes."""

from __future__ import annotations  # faster start: annotations stay unevaluated

from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from zoo.card import Input
from zoo.errors import BadInput
from zoo.images.decode import Pixels, Reduced
from zoo.images.formats.common import strips

Fit = Literal["crop", "whole"]
FITS: tuple[Fit, ...] = ("crop", "whole")

MAX_ASPECT = 8  # longer side / shorter side: the centre of a longer strip shows too little of the image
_DECODED = 8  # pixels for each one of the result that a reduced image must have: results are within 4 levels of 255


def least_side(expected: Input) -> int:
    """Pixels along the shorter side that a photograph for this input needs, at least; see `decode_bytes`."""
    return _DECODED * max(expected.height, expected.width)


def fit_to_input(
    pixels: Pixels, expected: Input, fit: Fit, reduced: Reduced | None = None
) -> tuple[Pixels, tuple[str, ...]]:
    """Bring a photograph into a network's form. One that already has it is returned unchanged to the bit.

    Args:
        pixels: uint8 `(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
        expected: the network's input, C 3.
        fit: "crop" takes the largest centred piece of the right proportions; "whole" scales the whole image to fit,
            padded with its mean colour.
        reduced: for an image that the decoder has reduced. Corrections have the sizes of the whole image.
    Returns:
        uint8 `(expected.height, expected.width, 3)`, and the corrections in words, in order.
    Raises:
        BadInput: an image so narrow that cropping would show too little of it, or that the whole of it would be less
            than a pixel wide.
    """
    height, width = pixels.shape[:2] if reduced is None else (reduced.height, reduced.width)
    corrections: list[str] = []
    if pixels.shape[2] == 1:
        corrections.append("converted grey to RGB")
    elif pixels.shape[2] == 4 and pixels[:, :, 3].min() < 255:
        corrections.append("placed on a white background")
    if (height, width) == (expected.height, expected.width):
        return _opaque_colour(pixels), tuple(corrections)
    if fit == "crop":
        if max(height / width, width / height) > MAX_ASPECT:
            raise BadInput(
                f"The image ({width}x{height}) is too narrow to crop: "
                'use the whole image (--fit whole, fit="whole"), or crop it yourself.'
            )
        box = _centre(height, width, expected.width / expected.height)
        if (box.height, box.width) != (height, width):
            corrections.append(f"cropped to the central {box.width}x{box.height}")
        scale = expected.width / box.width
        resized = _resized(pixels, box, reduced, expected.width, expected.height)
    else:
        if max(height / width, width / height) > max(expected.height, expected.width):
            raise BadInput(f"The image ({width}x{height}) is too narrow to be reduced as a whole: crop it.")
        box = Box(0, 0, height, width)
        scale = min(expected.height / height, expected.width / width)
        small = _resized(pixels, box, reduced, max(1, round(width * scale)), max(1, round(height * scale)))
        resized = _padded(small, expected)
        if small.shape != resized.shape:
            corrections.append("padded with its mean colour")
    if (box.height, box.width) != (expected.height, expected.width):
        corrections.append(f"{'reduced' if scale < 1 else 'enlarged'} to {expected.width}x{expected.height}")
    return resized, tuple(corrections)


def _opaque_colour(pixels: Pixels) -> Pixels:
    """RGB `(H, W, 3)`; transparent pixels are placed on white."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    colour = np.empty((*pixels.shape[:2], 3), np.uint8)
    opaque = pixels[:, :, 3].min() == 255
    for rows in strips(pixels):
        piece = np.ascontiguousarray(pixels[rows])
        colour[rows] = cv2.cvtColor(piece, cv2.COLOR_RGBA2RGB)
        if not opaque:  # c * alpha + 255 * (1 - alpha) = 255 - (255 - c) * alpha
            alpha = cv2.cvtColor(np.ascontiguousarray(piece[:, :, 3]), cv2.COLOR_GRAY2RGB)
            colour[rows] = 255 - cv2.multiply(255 - colour[rows], alpha, scale=1 / 255)
    return colour


class Box(NamedTuple):
    """A piece of the whole image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def _centre(height: int, width: int, aspect: float) -> Box:
    """The largest centred piece whose width is `aspect` times its height."""
    rows, columns = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


def _resized(pixels: Pixels, box: Box, reduced: Reduced | None, width: int, height: int) -> Pixels:
    """Resize a piece without aliasing: averages of all pixels that fall into one, as INTER_AREA; enlarging is cubic."""
    if reduced is not None:
        factor = reduced.factor
        top, left = (box.top + reduced.top) / factor, (box.left + reduced.left) / factor
        return _averaged(_opaque_colour(pixels), top, left, box.height / factor, box.width / factor, width, height)
    colour = _opaque_colour(pixels[box.top : box.top + box.height, box.left : box.left + box.width])
    smaller = width <= colour.shape[1] and height <= colour.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(colour), (width, height), interpolation=method), np.uint8)


def _averaged(colour: Pixels, top: float, left: float, rows: float, columns: float, width: int, height: int) -> Pixels:
    """Averages over equal rectangles of a piece whose edges may lie within pixels.

    The sum of a rectangle is a difference of four values of the integral image, between which it is linear.
    """
    sums: npt.NDArray[np.float64] = np.asarray(cv2.integral(colour, sdepth=cv2.CV_64F))
    for axis, start, length, count in ((0, top, rows, height), (1, left, columns, width)):
        places = start + length / count * np.arange(count + 1)
        before = np.minimum(places.astype(int), sums.shape[axis] - 2)
        lower, upper = (np.take(sums, before + step, axis) for step in (0, 1))
        within = (places - before).reshape(-1, 1, 1) if axis == 0 else (places - before).reshape(1, -1, 1)
        sums = np.diff(lower + (upper - lower) * within, axis=axis)
    return np.asarray(np.rint(sums * (width * height / (rows * columns))), np.uint8)


def _padded(small: Pixels, expected: Input) -> Pixels:
    height, width = small.shape[:2]
    whole = np.empty((expected.height, expected.width, 3), np.uint8)
    whole[:] = np.rint(small.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
    top, left = (expected.height - height) // 2, (expected.width - width) // 2
    whole[top : top + height, left : left + width] = small
    return whole
