"""Random images of numbers: MNIST digits written side by side, apart or touching, on paper as people photograph it.

The same seed gives the same image. `digit_pictures.py` draws the paper.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from tests.pictures import digit_pictures as pictures
from tests.pictures import digit_shapes as shapes
from tests.pictures.digit_shapes import Array, Random

STYLES = (
    "photo",
    "shadowed",
    "squared",
    "ruled",
    "chalk",
    "table_edge",
    "canvas",
    "transparent",
    "coloured",
    "specked",
)
MAX_WIDTH, MAX_HEIGHT = 330, 130  # pixels of the number, so that it fits on every style's paper
MAX_TILT = 5.0  # degrees


def apart(random: Random) -> float:
    """The distance between two digits' ink, as a share of their height: wide to narrow."""
    return float(random.uniform(0.04, 0.6))


def touching(random: Random) -> float:
    """The ink overlaps a little."""
    return float(random.uniform(-0.03, 0.0))


def written(random: Random, digits: Sequence[Array], gaps: Sequence[float]) -> tuple[Array, Array]:
    """The digits in a row: float32 `(H, W)`, coverage 0 to 1, with a margin, slightly tilted; and whose ink it is.

    The second array, int `(H, W)`, has each ink pixel's digit, counted from 1. Where two overlap it is the later one.

    Args:
        digits: MNIST images, uint8 `(28, 28)`.
        gaps: between each digit and the next one, the smallest horizontal distance of their ink as a share of the
            height; negative where they overlap.
    """
    size = 120
    covers = [_scaled(random, shapes.from_array(digit, size)) for digit in digits]
    height = 2 * size
    line = np.zeros((height, (len(covers) + 2) * 2 * size), np.float32)
    owner = np.zeros(line.shape, np.uint8)
    right = np.full(height, -np.inf)  # per row, where the ink ends
    end = 0
    for index, cover in enumerate(covers):
        top = round((height - cover.shape[0]) / 2 + random.uniform(-0.06, 0.06) * size)
        rows = slice(top, top + cover.shape[0])
        ink = cover > 0.5
        left_edge = np.where(ink.any(axis=1), ink.argmax(axis=1), np.inf)
        if index == 0:
            x = size // 2
        else:
            near = np.minimum.reduce([np.roll(left_edge, shift) for shift in range(-4, 5)])  # ink meets diagonally too
            x = round(float(np.max(right[rows] - near)) + 1 + gaps[index - 1] * size)
            x = max(x, end - 2 * size)
        line[rows, x : x + cover.shape[1]] = np.maximum(line[rows, x : x + cover.shape[1]], cover)
        part = owner[rows, x : x + cover.shape[1]]
        part[ink] = index + 1
        right_edge = np.where(ink.any(axis=1), x + cover.shape[1] - 1 - ink[:, ::-1].argmax(axis=1), -np.inf)
        right[rows] = np.maximum(right[rows], right_edge)
        end = x + cover.shape[1]
    turn = cv2.getRotationMatrix2D((end / 2, height / 2), random.uniform(-MAX_TILT, MAX_TILT), 1)
    turn[1, 2] += size
    size_turned = (line.shape[1], height + 2 * size)
    turned = cv2.warpAffine(line, turn, size_turned, flags=cv2.INTER_LINEAR)
    owner = cv2.warpAffine(owner, turn, size_turned, flags=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect((turned > 0.5).astype(np.uint8))
    turned, owner = turned[y : y + height, x : x + width], owner[y : y + height, x : x + width]
    scale = min(MAX_WIDTH / width, MAX_HEIGHT / height) * random.uniform(0.75, 1)
    turned = cv2.resize(turned, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    owner = cv2.resize(owner, turned.shape[::-1], interpolation=cv2.INTER_NEAREST)
    side = round(max(turned.shape) * 1.15)
    return pictures.placed(turned, side, side), pictures.placed(owner, side, side).astype(np.uint8)


def _scaled(random: Random, cover: Array) -> Array:
    x, y, width, height = cv2.boundingRect((cover > 0.5).astype(np.uint8))
    factor = random.uniform(0.88, 1.08)
    return np.asarray(cv2.resize(cover[y : y + height, x : x + width], None, fx=factor, fy=factor), np.float32)


def number(random: Random, digits: Sequence[Array], gaps: Sequence[float], style: str) -> Array:
    """uint8 `(H, W, 3 or 4)`: the number on paper of a style of `digit_pictures.STYLES`."""
    return pictures.STYLES[style](random, written(random, digits, gaps)[0])
