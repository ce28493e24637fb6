"""Class-activation maps drawn over the image: over the original where its geometry is known, or the network's input."""

import cv2
import numpy as np
import numpy.typing as npt

from zoo.card import Input
from zoo.images.decode import Pixels
from zoo.images.photos import Box, visible_part

RGB = npt.NDArray[np.uint8]  # (H, W, 3)

# From no evidence to the most: the picture in grey, then orange to a pale yellow, which differ in brightness too.
_RAMP = np.array([[122, 34, 12], [214, 92, 10], [252, 176, 36], [255, 240, 140]], np.float32)
STRENGTH = 0.75  # share of the colour where the evidence is largest


def part_of_original(height: int, width: int, expected: Input) -> Box | None:
    """The part of an original that the network's input shows; None for digits, which are moved, scaled and turned.

    Args:
        height, width: of the decoded, upright image. It was prepared with the default fit, "crop".
    """
    return visible_part(height, width, expected) if expected.form == "photo" else None


def overlay(pixels: Pixels, heat: npt.NDArray[np.float32], part: Box | None = None) -> RGB:
    """Draw a map over an image.

    Args:
        pixels: uint8 `(H, W, C)`, C 1, 3 or 4: the network's input, or the original together with its `part`.
        heat: float32 `(h, w)`, 0 to 1, as `zoo.inspection.class_activation` returns it.
        part: the piece of the image that the map covers; None for all of it.
    Returns:
        uint8 `(H, W, 3)`: the image in grey, coloured where the evidence is. It is darker outside of `part`.
    """
    colour = rgb(pixels)
    height, width = colour.shape[:2]
    top, left, rows, columns = part or Box(0, 0, height, width)
    inside = slice(top, top + rows), slice(left, left + columns)
    grey = cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., np.newaxis]
    result = np.repeat(grey * 0.4, 3, axis=2)
    smooth = np.clip(cv2.resize(heat, (columns, rows), interpolation=cv2.INTER_LINEAR), 0, 1)[..., np.newaxis]
    places = smooth * (len(_RAMP) - 1)
    low = np.minimum(places.astype(int), len(_RAMP) - 2)[..., 0]
    warm = _RAMP[low] + (_RAMP[low + 1] - _RAMP[low]) * (places - low[..., np.newaxis])
    share = STRENGTH * smooth
    result[inside] = grey[inside] * (1 - share) + warm * share
    return np.asarray(np.rint(result), np.uint8)


def rgb(pixels: Pixels) -> RGB:
    """uint8 `(H, W, C)`, C 1, 3 or 4, as RGB; transparent pixels are placed on white."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    weight = pixels[:, :, 3:].astype(np.float32) / 255
    return np.asarray(np.rint(pixels[:, :, :3] * weight + 255 * (1 - weight)), np.uint8)
