"""Is the ink that was found written? A crease, a shadow's edge, a texture and the lines of a form are not.

A pen leaves strokes with paper directly beside them, which end inside the image. A digit of one straight stroke is a
one, and more upright than level: so are 99.6 % of MNIST's.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from zoo.images.levels import Array

# Beside the strokes is paper. Shares of solid ink, and of the pixels that lie beside.
_NEAR, _FAR = 0.2, 0.45  # of the stroke's width: where beside begins and ends; further than a blurred edge reaches
_LEAST_NEAR, _LEAST_FAR = 1, 3  # pixels
_NO_PAPER = 0.3  # of solid ink: what differs from the paper by more is none; fading strokes of photographs reach 0.26
_MAYBE_PAPER = 0.2  # the same for doubt
_MOST = 0.4  # of the pixels beside the strokes, so that rings and other marks there do not matter

# Lines of a form or of the paper: thin, straight, along the image's sides, and running out of the image.
_MAX_PRINTED = 0.04  # thickness / longer side of the lines' box
_MIN_RUN = 5.0  # of the thickness: pixels of a line that lie side by side in a row or column, for slopes up to 0.2
_MIN_STRAIGHT = 0.85  # of the ink is in such runs; of a circle it is a quarter

_MIN_ROOM = 0.31  # of the longer side: a digit that leaves more on one side is not cropped tightly
_MAX_ACROSS = 0.03  # variance across / along one straight stroke


class Signs(NamedTuple):
    """What speaks against the ink being written.

    Attributes:
        nothing: in words, what there is instead of writing; None where there is writing, as far as can be seen.
        doubts: in words.
    """

    nothing: str | None
    doubts: tuple[str, ...]


def signs_against_writing(
    amount: Array,
    digit: Array,
    marks: Array | None,
    box: Sequence[int],
    solid: float,
    blank: Sequence[int],
    uneven: bool,
) -> Signs:
    """What speaks against the ink being written.

    Args:
        amount: float32 `(h, w)`, the ink map.
        digit: uint8 `(h, w)`, 1 in the ink that counts as the digit.
        marks: uint8 `(h, w)`, 1 in marks that were removed, such as a ring; None for none.
        box: x, y, width and height of the digit.
        solid: amount of solid ink.
        blank: pixels at the map's top, bottom, left and right that are not part of the image.
        uneven: whether it is a photograph whose uneven background was subtracted.
    """
    x, y, width, height = box
    part = digit[y : y + height, x : x + width]
    size = max(width, height)
    thick = _thickness(part)
    top, bottom, left, right = blank
    rooms = y - top, digit.shape[0] - bottom - y - height, x - left, digit.shape[1] - right - x - width
    if min(rooms) <= 1 < max(rooms) and thick <= _MAX_PRINTED * size and _is_along_sides(part, thick):
        return Signs("only lines of the paper", ())
    other = _share_beside(amount, digit, marks, box, thick, (_NO_PAPER * solid, _MAYBE_PAPER * solid))
    if other[0] > _MOST:
        return Signs("only soft edges, as a shadow or a crease has", ())
    doubts: list[str] = []
    if other[1] > _MOST:
        doubts.append("the ink has soft edges, as a shadow or a crease of the paper has")
    if min(rooms) <= 0 and (uneven or max(rooms) > _MIN_ROOM * size):
        doubts.append("the ink reaches the border, as an edge or a crease of the paper does")
    if width > height and _is_straight(part):
        doubts.append("the stroke is more level than that of a one")
    return Signs(None, tuple(doubts))


def _thickness(part: Array) -> float:
    """Mean thickness in pixels: the area / half the outline, which is counted in steps along rows and columns."""
    solid: Array = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    steps = np.count_nonzero(solid[:, 1:] != solid[:, :-1]) + np.count_nonzero(solid[1:] != solid[:-1])
    return cv2.countNonZero(part) / (steps * np.pi / 8)


def _share_beside(
    amount: Array, digit: Array, marks: Array | None, box: Sequence[int], thick: float, limits: Sequence[float]
) -> list[float]:
    """The share of what lies beside the strokes that differs from the paper by more than each limit."""
    near, far = max(_LEAST_NEAR, round(_NEAR * thick)), max(_LEAST_FAR, round(_FAR * thick))
    x, y, width, height = box
    crop = slice(max(0, y - far), y + height + far), slice(max(0, x - far), x + width + far)
    part = np.ascontiguousarray(digit[crop])
    beside = _grown(part, far) & (1 - _grown(part, near))
    if marks is not None:
        beside &= 1 - _grown(np.ascontiguousarray(marks[crop]), near)
    differences = np.abs(amount[crop][beside > 0])
    return [np.count_nonzero(differences > np.float32(limit)) / max(1, differences.size) for limit in limits]


def _grown(mask: Array, reach: int) -> Array:
    return np.asarray(cv2.dilate(mask, np.ones((2 * reach + 1,) * 2, np.uint8)))


def _is_along_sides(part: Array, thick: float) -> bool:
    """Whether nearly all ink is in straight lines that are about level or upright."""
    run = max(3, round(_MIN_RUN * thick))
    solid = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    level, upright = (cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones(size, np.uint8)) for size in ((1, run), (run, 1)))
    return cv2.countNonZero(cv2.bitwise_or(level, upright)) >= _MIN_STRAIGHT * cv2.countNonZero(part)


def _is_straight(part: Array) -> bool:
    """Whether the ink is one straight stroke."""
    y, x = np.nonzero(part)
    across, down, mixed = (int(y.size * (a * b).sum() - a.sum() * b.sum()) for a, b in ((x, x), (y, y), (x, y)))
    root = math.sqrt((across - down) ** 2 + 4 * mixed**2)
    return across + down - root <= _MAX_ACROSS * (across + down + root)
