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

from zoo.images.levels import Array, median

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
_MIN_JOINTS = 6  # pieces that lines of the paper leave of a grid; a number of ones may have fewer
_NET_LENGTH = 5.0  # of the longer side: lines of one piece that are longer in total are no digit's

_MIN_ROOM = 0.31  # of the longer side: a digit that leaves more on one side is not cropped tightly
_MAX_LENGTH = 1.3  # length of the strokes / diagonal of their box: a straight one has about 1
_MAX_ACROSS = 0.03  # variance across / along one straight stroke
_LEAST_WAY = 20  # pixels from the end of a stroke to the border: of fewer, the median is too noisy
_ASIDE = 3  # pixels from a line's edge to the paper that it is compared with
_MIN_FAINT = 0.12  # of solid ink: how strong a line goes on beyond the end of a stroke


SOFT_EDGES = "only soft edges, as a shadow or a crease has"


class Signs(NamedTuple):
    """What speaks against the ink being written.

    Attributes:
        nothing: in words, what there is instead of writing; None where there is writing, as far as can be seen. Of
            `SOFT_EDGES` a photograph of something else may consist too, so that is no error.
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
    beside_lines: int,
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
        beside_lines: how many pieces are left where lines of the paper were removed.
    """
    x, y, width, height = box
    part = digit[y : y + height, x : x + width]
    size = max(width, height)
    thick = _thickness(part)
    top, bottom, left, right = blank
    rooms = y - top, digit.shape[0] - bottom - y - height, x - left, digit.shape[1] - right - x - width
    straight = _axis(part, box) if cv2.countNonZero(part) <= _MAX_LENGTH * thick * math.hypot(width, height) else None
    has_room = max(rooms) > _MIN_ROOM * size  # otherwise a tight crop of a one
    is_cut = min(rooms) <= 1 < max(rooms) and (straight is None or has_room)
    is_printed = (is_cut or beside_lines >= _MIN_JOINTS) and thick <= _MAX_PRINTED * size
    if (is_printed or _is_net(part, thick)) and _is_along_sides(part, thick):
        return Signs("only lines of the paper", ())
    if straight is not None and _goes_on(amount, straight, thick, solid, blank):
        return Signs("only a line of the paper", ())
    other = _share_beside(amount, digit, marks, box, thick, (_NO_PAPER * solid, _MAYBE_PAPER * solid))
    if other[0] > _MOST:
        return Signs(SOFT_EDGES, ())
    doubts: list[str] = []
    if other[1] > _MOST:
        doubts.append("the ink has soft edges, as a shadow or a crease of the paper has")
    if min(rooms) <= 0 and (uneven or has_room):
        doubts.append("the ink reaches the border, as an edge or a crease of the paper does")
    if width > height and straight is not None:
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


def _is_net(part: Array, thick: float) -> bool:
    """Whether nearly all ink is one piece whose lines are longer than a digit's."""
    area = cv2.countNonZero(part)
    if area <= _NET_LENGTH * max(part.shape) * thick:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(part), connectivity=8)
    return bool(stats[1:, 4].max() >= _MIN_STRAIGHT * area)


def _is_along_sides(part: Array, thick: float) -> bool:
    """Whether nearly all ink is in straight lines that are about level or upright."""
    run = max(3, round(_MIN_RUN * thick))
    solid = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    level, upright = (cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones(size, np.uint8)) for size in ((1, run), (run, 1)))
    return cv2.countNonZero(cv2.bitwise_or(level, upright)) >= _MIN_STRAIGHT * cv2.countNonZero(part)


class _Axis(NamedTuple):
    """A straight line through the ink: its centre and direction (x, y), and where the ink ends along it."""

    centre: tuple[float, float]
    direction: tuple[float, float]
    ends: tuple[float, float]


def _axis(part: Array, box: Sequence[int]) -> _Axis | None:
    """The axis of ink that is one straight stroke, whole or broken; None of other ink."""
    y, x = np.nonzero(part)
    across, down, mixed = (int(y.size * (a * b).sum() - a.sum() * b.sum()) for a, b in ((x, x), (y, y), (x, y)))
    root = math.sqrt((across - down) ** 2 + 4 * mixed**2)
    if across + down - root > _MAX_ACROSS * (across + down + root):
        return None
    dx, dy = (across - down + root, 2 * mixed) if across > down else (2 * mixed, down - across + root)
    length = math.hypot(dx, dy)
    if not length:
        return None
    dx, dy = dx / length, dy / length
    centre = int(x.sum()) / x.size, int(y.sum()) / y.size
    along = (x - centre[0]) * dx + (y - centre[1]) * dy
    return _Axis((centre[0] + box[0], centre[1] + box[1]), (dx, dy), (float(along.min()), float(along.max())))


def _goes_on(amount: Array, axis: _Axis, thick: float, solid: float, blank: Sequence[int]) -> bool:
    """Whether fainter ink goes on from an end of a straight stroke to the border, as a crease or a joint does.

    The median along the way shows a line that is fainter than the noise, and does not show other marks on the way.
    """
    (x, y), (dx, dy) = axis.centre, axis.direction
    top, bottom, left, right = blank
    low, high = (left + 1, top + 1), (amount.shape[1] - right - 2, amount.shape[0] - bottom - 2)
    aside = round(thick) + _ASIDE
    for side, end in ((-1, axis.ends[0]), (1, axis.ends[1])):
        steps = np.arange(round(thick) + 3, 2 * max(amount.shape)) * side + end
        xs, ys = x + steps * dx, y + steps * dy
        outside = (xs < low[0]) | (xs > high[0]) | (ys < low[1]) | (ys > high[1])
        count = int(outside.argmax()) if outside.any() else len(steps)
        if count < _LEAST_WAY:
            continue
        levels = []
        for offset in (0, aside, -aside):
            band = [
                amount[
                    _within(ys + shift * dx, low[1], high[1])[:count], _within(xs - shift * dy, low[0], high[0])[:count]
                ]
                for shift in (offset - 1, offset, offset + 1)
            ]
            levels.append(float(median((band[0] + band[1]) + band[2])) / 3)
        if levels[0] - max(levels[1:]) > _MIN_FAINT * solid:
            return True
    return False


def _within(places: Array, low: int, high: int) -> Array:
    return np.clip(np.rint(places).astype(np.int64), low, high)
