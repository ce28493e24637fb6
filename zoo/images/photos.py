"""A photograph of any size and shape → the small colour image that a network for photographs takes."""

from __future__ import annotations  # faster start: annotations stay unevaluated

from typing import Literal

import cv2
import numpy as np

from zoo.card import Input
from zoo.errors import BadInput
from zoo.images.decode import Pixels
from zoo.images.formats.common import strips

Fit = Literal["crop", "whole"]
FITS: tuple[Fit, ...] = ("crop", "whole")

MAX_ASPECT = 8  # longer side / shorter side: the centre of a longer strip shows too little of the image


def fit_to_input(pixels: Pixels, expected: Input, fit: Fit) -> tuple[Pixels, tuple[str, ...]]:
    """Bring a photograph into a network's form. One that already has it is returned unchanged to the bit.

    Args:
        pixels: uint8 `(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
        expected: the network's input, C 3 (RGB) or 1 (grey).
        fit: "crop" takes the largest centred piece of the right proportions; "whole" scales the whole image to fit,
            padded with its mean colour.
    Returns:
        uint8 `expected.shape`, and the corrections in words, in order.
    Raises:
        BadInput: an image so narrow that cropping would show too little of it, or that the whole of it would be less
            than a pixel wide.
    """
    colour, corrections = _fit_colour(pixels, expected, fit)
    if expected.channels == 3:
        return colour, (("converted grey to RGB",) if pixels.shape[2] == 1 else ()) + corrections
    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_RGB2GRAY), np.uint8)[:, :, np.newaxis]
    return grey, (corrections if pixels.shape[2] == 1 else (*corrections, "converted colour to grey"))


def _fit_colour(pixels: Pixels, expected: Input, fit: Fit) -> tuple[Pixels, tuple[str, ...]]:
    """The same for RGB."""
    height, width = pixels.shape[:2]
    corrections: list[str] = []
    if pixels.shape[2] == 4 and pixels[:, :, 3].min() < 255:
        corrections.append("placed on a white background")
    if (height, width) == (expected.height, expected.width):
        return _opaque_colour(pixels), tuple(corrections)
    if fit == "crop":
        if max(height / width, width / height) > MAX_ASPECT:
            raise BadInput(
                f"The image ({width}x{height}) is too narrow to crop: "
                'use the whole image (--fit whole, fit="whole"), or crop it yourself.'
            )
        colour = _opaque_colour(_centre(pixels, expected.width / expected.height))
        if colour.shape[:2] != (height, width):
            corrections.append(f"cropped to the central {colour.shape[1]}x{colour.shape[0]}")
        scale = expected.width / colour.shape[1]
        resized = _resized(colour, expected.width, expected.height)
    else:
        if max(height / width, width / height) > max(expected.height, expected.width):
            raise BadInput(f"The image ({width}x{height}) is too narrow to be reduced as a whole: crop it.")
        colour = _opaque_colour(pixels)
        scale = min(expected.height / height, expected.width / width)
        small = _resized(colour, max(1, round(width * scale)), max(1, round(height * scale)))
        resized = _padded(small, expected)
        if small.shape != resized.shape:
            corrections.append("padded with its mean colour")
    if colour.shape[:2] != (expected.height, expected.width):
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


def _centre(pixels: Pixels, aspect: float) -> Pixels:
    """The largest centred piece whose width is `aspect` times its height."""
    height, width = pixels.shape[:2]
    rows, columns = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def _resized(colour: Pixels, width: int, height: int) -> Pixels:
    """Resize without aliasing: INTER_AREA averages all pixels that fall into one; enlarging is cubic."""
    smaller = width <= colour.shape[1] and height <= colour.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(colour), (width, height), interpolation=method), np.uint8)


def _padded(small: Pixels, expected: Input) -> Pixels:
    height, width = small.shape[:2]
    whole = np.empty((expected.height, expected.width, 3), np.uint8)
    whole[:] = np.rint(small.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
    top, left = (expected.height - height) // 2, (expected.width - width) // 2
    whole[top : top + height, left : left + width] = small
    return whole
