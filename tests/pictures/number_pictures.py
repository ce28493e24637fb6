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


FRAMES = ("boxes", "spare boxes", "cells", "frame", "ellipse")


def framed(random: Random, text: str, kind: str) -> Array:
    """A drawn number in the boxes of a form, the cells of a table, a frame or an ellipse: uint8 `(H, W, 3)`.

    Args:
        kind: one of `FRAMES`; "spare boxes" are followed by empty ones.
    """
    size, line = 120, int(random.integers(2, 6))
    side = round(size * random.uniform(1.35, 1.7))
    gap = 0 if kind in ("cells", "frame", "ellipse") else int(random.integers(6, 30))
    spare = int(random.integers(1, 3)) if kind == "spare boxes" else 0
    count = len(text) + spare
    pad = side if kind == "ellipse" else 60
    page = np.zeros((side + 2 * pad, count * side + (count - 1) * gap + 2 * pad), np.float32)
    for index in range(count):
        x = pad + index * (side + gap)
        if index < len(text):
            digit = shapes.draw(int(text[index]), random, size, random.uniform(0.06, 0.09))
            x0, y0, width, height = cv2.boundingRect((digit > 0.5).astype(np.uint8))
            free = side - 2 * line - 8
            digit = digit[y0 : y0 + height, x0 : x0 + width]
            scale = min(1.0, 0.8 * free / max(width, height))
            digit = cv2.resize(digit, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            cell = pictures.placed(digit, side, side, (random.uniform(0.48, 0.52), random.uniform(0.48, 0.52)))
            page[pad : pad + side, x : x + side] = np.maximum(page[pad : pad + side, x : x + side], cell)
        if kind in ("boxes", "spare boxes", "cells"):
            cv2.rectangle(page, (x, pad), (x + side, pad + side), 1.0, line)
    middle, wide = (page.shape[1] // 2, page.shape[0] // 2), page.shape[1] - 2 * pad
    if kind == "frame":
        cv2.rectangle(page, (pad, pad), (pad + wide, pad + side), 1.0, line)
    elif kind == "ellipse":
        cv2.ellipse(page, middle, (round(0.62 * wide), round(0.85 * side)), 0, 0, 360, 1.0, line, cv2.LINE_AA)
    paper = np.full((*page.shape, 3), random.integers(215, 250, 3), np.float32)
    picture = pictures.painted(page, paper, random.integers(20, 90, 3)).astype(np.float32)
    picture *= pictures.light(random, *page.shape, depth=0.2)
    return np.clip(picture + random.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def drawn(random: Random, text: str, gaps: Sequence[float]) -> Array:
    """A drawn number in dark blue on light paper: uint8 `(H, W, 3)`. `gaps` as for `written`."""
    covers = [shapes.draw(int(digit), random, 240, random.uniform(0.07, 0.12)) for digit in text]
    digits = [np.asarray(255 * cv2.resize(cover, (28, 28), interpolation=cv2.INTER_AREA), np.uint8) for cover in covers]
    ink = written(random, digits, gaps)[0]
    return pictures.painted(np.pad(ink, 40), (240, 240, 235), (40, 40, 90))
