"""A photograph of any size and shape → the small image that a network for photographs takes.

`Input.resize` of the card has the rules of a model that was trained elsewhere. Such a photograph is resized by Pillow,
as torchvision and timm do, so that the pixels are theirs to the bit. All other models share the rules of this file.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from zoo.card import Input, Interpolation, Resize
from zoo.errors import BadInput
from zoo.images.decode import Pixels, Reduced
from zoo.images.formats.common import strips

Fit = Literal["crop", "whole"]
FITS: tuple[Fit, ...] = ("crop", "whole")

MAX_ASPECT = 8  # longer side / shorter side: the centre of a longer strip shows too little of the image
_DECODED = 8  # pixels for each one of the result that a reduced image must have: results are within 4 levels of 255


def least_side(expected: Input) -> int | None:
    """Pixels along the shorter side that a photograph for this input needs, at least; see `decode_bytes`.

    None where it needs all: its own rules of resizing are another program's, to the bit.
    """
    return None if expected.resize else _DECODED * max(expected.height, expected.width)


def fit_to_input(
    pixels: Pixels, expected: Input, fit: Fit, reduced: Reduced | None = None
) -> tuple[Pixels, tuple[str, ...]]:
    """Bring a photograph into a network's form. One that already has it is returned unchanged to the bit.

    Args:
        pixels: uint8 `(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
        expected: the network's input, C 1 or 3.
        fit: "crop" takes the largest centred piece of the right proportions; "whole" scales the whole image to fit,
            padded with its mean colour.
        reduced: for an image that the decoder has reduced. Corrections have the sizes of the whole image.
    Returns:
        uint8 `expected.shape`, and the corrections in words, in order.
    Raises:
        BadInput: an image so narrow that cropping would show too little of it, or that the whole of it would be less
            than a pixel wide.
    """
    height, width = pixels.shape[:2] if reduced is None else (reduced.height, reduced.width)
    corrections: list[str] = []
    if pixels.shape[2] == 4 and pixels[:, :, 3].min() < 255:
        corrections.append("placed on a white background")
    if pixels.shape[2] == 1 and expected.channels == 3:
        corrections.append("converted grey to RGB")
    elif pixels.shape[2] != 1 and expected.channels == 1:
        corrections.append("converted to grey")
    if (height, width) == (expected.height, expected.width) and not (fit == "crop" and expected.changes_own_size):
        return _in_channels(pixels, expected), tuple(corrections)
    if fit == "crop" and expected.resize is not None:
        resized, changes = _resized_as(_in_channels(pixels, expected), expected, expected.resize)
        return resized, (*corrections, *changes)
    if fit == "crop":
        _check_aspect(height, width)
        box = _centre(height, width, expected.width / expected.height)
        if (box.height, box.width) != (height, width):
            corrections.append(f"cropped to the central {box.width}x{box.height}")
        scale = expected.width / box.width
        resized = _resized(pixels, box, reduced, expected, expected.width, expected.height)
    else:
        if max(height / width, width / height) > max(expected.height, expected.width):
            raise BadInput(f"The image ({width}x{height}) is too narrow to be reduced as a whole: crop it.")
        box = Box(0, 0, height, width)
        scale = min(expected.height / height, expected.width / width)
        small = _resized(pixels, box, reduced, expected, max(1, round(width * scale)), max(1, round(height * scale)))
        resized = _padded(small, expected)
        if small.shape != resized.shape:
            corrections.append("padded with its mean colour")
    if (box.height, box.width) != (expected.height, expected.width):
        corrections.append(f"{'reduced' if scale < 1 else 'enlarged'} to {expected.width}x{expected.height}")
    return resized, tuple(corrections)


def _check_aspect(height: int, width: int) -> None:
    if max(height / width, width / height) > MAX_ASPECT:
        raise BadInput(
            f"The image ({width}x{height}) is too narrow to crop: "
            'use the whole image (--fit whole, fit="whole"), or crop it yourself.'
        )


def _in_channels(pixels: Pixels, expected: Input) -> Pixels:
    """The pixels in the network's channels: RGB `(H, W, 3)`, or grey `(H, W, 1)` by Pillow's weights of R, G and B."""
    if expected.channels == 3:
        return _opaque_colour(pixels)
    if pixels.shape[2] == 1:
        return pixels
    from PIL import Image

    colour = _opaque_colour(pixels)
    return np.asarray(Image.fromarray(np.ascontiguousarray(colour)).convert("L"))[:, :, np.newaxis]


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


def visible_part(height: int, width: int, expected: Input) -> Box:
    """The piece of an image of this size that the network's input shows with the fit "crop"."""
    resize = expected.resize
    if resize is None or ((height, width) == (expected.height, expected.width) and not expected.changes_own_size):
        return _centre(height, width, expected.width / expected.height)
    if resize.fit == "exact":
        return Box(0, 0, height, width)
    scale = min(height, width) / resize.size
    rows, columns = min(height, round(expected.height * scale)), min(width, round(expected.width * scale))
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


def _resized_as(pixels: Pixels, expected: Input, resize: Resize) -> tuple[Pixels, list[str]]:
    """Resize by a model's own rules: what `Resize` and `CenterCrop` of torchvision give for a PIL image.

    Their rounding is kept: the longer side is rounded down, the position of the crop to the nearest even number.
    """
    height, width = pixels.shape[:2]
    if resize.fit == "exact":
        whole = _interpolated(pixels, expected.width, expected.height, resize)
        return whole, [f"resized to {expected.width}x{expected.height}"]
    _check_aspect(height, width)
    longer = int(resize.size * max(height, width) / min(height, width))
    rows, columns = (resize.size, longer) if height <= width else (longer, resize.size)
    whole = _interpolated(pixels, columns, rows, resize)
    top, left = round((rows - expected.height) / 2), round((columns - expected.width) / 2)
    changes = (
        [f"{'reduced' if rows < height else 'enlarged'} to {columns}x{rows}"]
        if (rows, columns) != (height, width)
        else []
    )
    if (rows, columns) != (expected.height, expected.width):
        changes.append(f"cropped to the central {expected.width}x{expected.height}")
    return np.ascontiguousarray(whole[top : top + expected.height, left : left + expected.width]), changes


def _resized(pixels: Pixels, box: Box, reduced: Reduced | None, expected: Input, width: int, height: int) -> Pixels:
    """Resize a piece without aliasing: averages of all pixels that fall into one, as INTER_AREA; enlarging is cubic.

    A model with rules of its own has its pixels resized by them.
    """
    if reduced is not None:
        factor = reduced.factor
        top, left = (box.top + reduced.top) / factor, (box.left + reduced.left) / factor
        colour = _in_channels(pixels, expected)
        return _averaged(colour, top, left, box.height / factor, box.width / factor, width, height)
    colour = _in_channels(pixels[box.top : box.top + box.height, box.left : box.left + box.width], expected)
    if expected.resize is not None:
        return _interpolated(colour, width, height, expected.resize)
    smaller = width <= colour.shape[1] and height <= colour.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(np.ascontiguousarray(colour), (width, height), interpolation=method), np.uint8)
    return small.reshape(height, width, -1)  # OpenCV drops the axis of one channel


# OpenCV's methods, which look at the nearest pixels only.
_WITHOUT_ANTIALIAS: dict[Interpolation, int] = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


def _interpolated(pixels: Pixels, width: int, height: int, resize: Resize) -> Pixels:
    if (height, width) == pixels.shape[:2]:
        return pixels
    if not resize.antialias and resize.interpolation in _WITHOUT_ANTIALIAS:
        method = _WITHOUT_ANTIALIAS[resize.interpolation]
        result: Any = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    else:
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
        result = image.resize((width, height), Image.Resampling[resize.interpolation.upper()])
    return np.asarray(result, np.uint8).reshape(height, width, -1)


def _averaged(colour: Pixels, top: float, left: float, rows: float, columns: float, width: int, height: int) -> Pixels:
    """Averages over equal rectangles of a piece whose edges may lie within pixels.

    The sum of a rectangle is a difference of four values of the integral image, between which it is linear.
    """
    sums: npt.NDArray[np.float64] = np.asarray(cv2.integral(colour, sdepth=cv2.CV_64F))
    sums = sums.reshape(*sums.shape[:2], -1)  # OpenCV drops the axis of one channel
    for axis, start, length, count in ((0, top, rows, height), (1, left, columns, width)):
        places = start + length / count * np.arange(count + 1)
        before = np.minimum(places.astype(int), sums.shape[axis] - 2)
        lower, upper = (np.take(sums, before + step, axis) for step in (0, 1))
        within = (places - before).reshape(-1, 1, 1) if axis == 0 else (places - before).reshape(1, -1, 1)
        sums = np.diff(lower + (upper - lower) * within, axis=axis)
    return np.asarray(np.rint(sums * (width * height / (rows * columns))), np.uint8)


def _padded(small: Pixels, expected: Input) -> Pixels:
    height, width = small.shape[:2]
    whole = np.empty(expected.shape, np.uint8)
    whole[:] = np.rint(small.reshape(-1, expected.channels).mean(axis=0)).astype(np.uint8)
    top, left = (expected.height - height) // 2, (expected.width - width) // 2
    whole[top : top + height, left : left + width] = small
    return whole
