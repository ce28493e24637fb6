"""An image of a number → its lines, the cuts that may separate digits, and each candidate digit in MNIST's form.

Which candidates are the digits is decided by the network (`zoo/reading.py`). The method is over-segmentation with a
best path, as readers of postal codes and cheques do it (Y. LeCun et al.: Gradient-based learning applied to document
recognition, 1998, section V).
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput
from zoo.images.digits import BOX, place, stroke_width
from zoo.images.ink import INK_MAP_SIDE, Ink, find_ink, reduce_pixels
from zoo.images.levels import Array
from zoo.images.marks import frames

_BANDS = 6  # horizontal bands of a candidate, whose ink and strokes are counted
OUTLINE = 8 + 2 * _BANDS  # numbers per candidate, of its outline (`_pairs`)
FEATURES = OUTLINE + 1  # the same of its ink without specks, and its pieces

_HEIGHT = 48  # pixels of a digit's height during the search of cuts
_VISIBLE = 0.3  # of solid ink: from this value on, a pixel belongs to a digit
_MIN_STROKE = 0.11 * _HEIGHT  # pixels, as `digits.py` has it

# Pieces of ink and lines. Heights are shares of the main piece's height, or of the line's height.
_BODY = 0.45  # a digit is at least this high,
_SIDE_HEIGHT, _SIDE_WIDTH = 1.2, 0.2  # a piece higher, and on average thinner relative to the main one, is a box's side
_LOW_BODY = 0.3  # or this high and as wide as `_BODY`, such as a flat 2
_LIKE_MAIN = 0.7  # a piece at the border of at least this height, and at most its inverse, is a digit
_TALLEST = 2.5  # a piece that is higher belongs to the paper
_SAME_LINE = 0.4  # of the smaller piece's height: pieces that overlap vertically by more are in one line
_MIN_PIECE = 0.12  # smaller pieces are no part of a digit
_MIN_MARK = 0.07  # smaller pieces are specks, larger ones between digits may be points and dashes
_ATTACHED = 0.3  # of a small piece's width above or below a digit: it is a part, such as the bar of a five
_NEAR = 0.3  # of the height between such a part and its digit
_BESIDE = 0.15  # of the height: a part, such as the bar of a five or a seven, may be so far to the side,
_HIGH = 0.3  # if it is not further from the upper end; a dash is in the middle
_WIDE_PART, _HIGH_PART = 0.2, 0.25  # or if it is so wide and so high, such as the left stroke of a four,
_LOWEST_PART = 0.6  # and its middle is so far from the upper end at most
_MIN_ABOVE = 0.2  # a part above or below another one is at least so large: others are specks
_SPLIT = 0.12  # of the height between the parts of a digit that is broken into an upper and a lower half
_MAX_PIECES = 400
_MAX_LINES = 12
_MIN_SHEET = 0.4  # of the map's sides without its margins: a smaller piece is no sheet of paper,
_SOLID_SHEET = 0.7  # nor is one that covers less of its box: no digit is so solid and so large
_SHEET_EDGE = 0.98  # of an edge of the part inside a sheet: the rest of it may be the table
_MAX_WIDTHS = 20  # heights of the digits, all lines together: about 25 digits, and a second of work

# Cuts.
_ANCHORS = (0.3, 0.5, 0.7)  # of the line's height: cuts are the cheapest ways through each column at these heights
_DIAGONAL = 0.15  # cost of a step sideways, in pixels of ink
_MAX_COST = 0.5  # of the height: a longer way through ink is no cut
_MIN_BETWEEN = 0.02  # of the height squared: cuts with less ink between them are the same
_MAX_CUTS = 24  # per height of the line's width

# Candidates.
_SHORT = 3.2  # heights of a line's width, up to which less than half of its slope counts: it is that of few digits
_TWO_DIGITS = 0.5  # width / height of one blob, from which on it may be two digits, such as a narrow 11
_LIKELY_TWO = 0.85  # the same where a network without `known` is sure of one digit
_MIN_AREA = 0.01  # of the height squared
_MIN_HEIGHT = 0.3
_MAX_WIDTH = 1.7
_MAX_ASPECT = 2.2
_MAX_CANDIDATES = 4000  # per image


@dataclass(frozen=True)
class Line:
    """One line of digits and all its candidates, C of them.

    Attributes:
        cuts: how many there are, with the line's two ends.
        first, last: int `(C,)`, indexes of the cuts on a candidate's left and right.
        pixels: uint8 `(C, 28, 28, 1)`, in MNIST's form.
        boxes: int `(C, 4)`, x0, y0, x1, y1 in pixels of the image.
        features: float32 `(C, FEATURES)`, lengths as shares of the line's height.
        height: of the line, in pixels of the image.
        marks: x in pixels of the image, of the middles of marks between digits, such as points and dashes.
        outlines: float32 `(C, OUTLINE)`, the same features before specks were removed, from which unlikely candidates
            are left out.
    """

    cuts: int
    first: Array
    last: Array
    pixels: npt.NDArray[np.uint8]
    boxes: Array
    features: npt.NDArray[np.float32]
    height: float
    marks: tuple[float, ...]
    outlines: npt.NDArray[np.float32]


class Number:
    """An image that has several digits, or may have.

    Attributes:
        corrections: the corrections of the ink map, in words.
    """

    def __init__(
        self, lines: list[Line] | None, corrections: tuple[str, ...] = (), reduced: Array | None = None
    ) -> None:
        self._lines, self._reduced, self.corrections = lines, reduced, corrections
        self._scale = 1

    @classmethod
    def unread(cls, pixels: npt.NDArray[np.uint8]) -> Number:
        """Lines are found when they are needed, in a reduced copy, because the full image may be large."""
        number = cls(None)
        number._scale = -(-max(pixels.shape[:2]) // INK_MAP_SIDE)
        number._reduced = reduce_pixels(pixels, number._scale) if number._scale > 1 else pixels
        return number

    def lines(self) -> list[Line]:
        """The lines of digits, from top to bottom; none where the ink has another form."""
        if self._lines is None and self._reduced is not None:
            ink = find_ink(self._reduced)
            self._lines = _lines_in(_Part(self._reduced, (0, 0), True), ink, scale=self._scale)
            self.corrections, self._reduced = ink.corrections, None
        return self._lines or []


def find_number(pixels: npt.NDArray[np.uint8], prune: bool = True) -> Number | None:
    """The number in an image; None where the ink has no lines of digits.

    Args:
        pixels: uint8 `(H, W, C)`, as `zoo.images.digits.to_mnist` takes it.
        prune: leave out candidates that are unlikely by their outline.
    """
    ink = find_ink(pixels)
    part = _around_small_digits(pixels, ink) if ink.scale > 1 else None
    lines = _lines_in(part, find_ink(part.pixels), prune) if part else []
    lines = lines or _lines_in(_Part(pixels, (0, 0), True), ink, prune)
    return Number(lines, ink.corrections) if lines else None


class _Part(NamedTuple):
    """A part of an image, the x and y where it begins, and whether digits touch the border of the image."""

    pixels: Array
    origin: tuple[int, int]
    cut_off: bool


def _lines_in(part: _Part, ink: Ink, prune: bool = True, scale: int = 1) -> list[Line]:
    """The lines in a part of an image: those on a sheet of paper that is itself taken for ink, or else all.

    Args:
        ink: of the part.
        scale: by which the image was reduced.
    """
    x, y = part.origin
    sheet = _inside_sheet(part.pixels, ink)
    if sheet is not None:
        origin = ((x + sheet.origin[0]) * scale, (y + sheet.origin[1]) * scale)
        try:
            inner = find_ink(sheet.pixels)
        except BadInput:  # an empty sheet
            inner = None
        lines = find_lines(replace(inner, scale=inner.scale * scale), origin, prune, sheet.cut_off) if inner else []
        if lines:
            return lines
    return find_lines(replace(ink, scale=ink.scale * scale), (x * scale, y * scale), prune, part.cut_off)


def _inside_sheet(pixels: Array, ink: Ink) -> _Part | None:
    """The largest piece of ink without its edges, where it is a light sheet on a dark table; None where it is not.

    Where the table covers most of the border, it counts as paper, and the sheet as ink.
    """
    mask = (ink.amount >= ink.thresholds[0]).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if len(stats) < 2:
        return None
    sheet = 1 + int(stats[1:, 4].argmax())
    x, y, width, height, area = stats[sheet].tolist()
    sides = np.array(mask.shape) - 2 * ink.margin
    if (np.array([height, width]) < _MIN_SHEET * sides).any() or area < _SOLID_SHEET * width * height:
        return None
    own = labels[y : y + height, x : x + width] == sheet
    own = np.maximum.accumulate(own, axis=1) & np.maximum.accumulate(own[:, ::-1], axis=1)[:, ::-1]
    top, bottom, left, right = 0, height, 0, width
    while bottom - top > 2 and right - left > 2:  # the worst edge goes, until the sheet covers all four
        inner = own[top:bottom, left:right]
        edges = [float(edge.mean()) for edge in (inner[0], inner[-1], inner[:, 0], inner[:, -1])]
        worst = int(np.argmin(edges))
        if edges[worst] >= _SHEET_EDGE:
            break
        top, bottom, left, right = top + (worst == 0), bottom - (worst == 1), left + (worst == 2), right - (worst == 3)
    x0, y0 = ((start - ink.margin) * ink.scale for start in (x + left, y + top))
    x1, y1 = ((end - ink.margin) * ink.scale for end in (x + right, y + bottom))
    x0, y0 = max(0, x0), max(0, y0)
    return _Part(pixels[y0:y1, x0:x1], (x0, y0), cut_off=False)


def _around_small_digits(pixels: Array, ink: Ink) -> _Part | None:
    """The part of a large image around its digits, where its full resolution is needed; None for larger digits."""
    pieces = _pieces(ink)
    boxes = [pieces[1][members] for members, _ in pieces[2]] if pieces else []
    if not boxes or sum(map(_width_in_heights, boxes)) > _MAX_WIDTHS or min(map(_height, boxes)) >= _HEIGHT:
        return None
    reach = round(max(map(_height, boxes)) * ink.scale)
    every = np.concatenate(boxes)
    size = np.array([pixels.shape[1], pixels.shape[0]])
    start = (every[:, :2].min(axis=0) - ink.margin) * ink.scale
    end = ((every[:, :2] + every[:, 2:4]).max(axis=0) - ink.margin) * ink.scale
    cut_off = bool((start < ink.scale).any() or (end > size - ink.scale).any())
    (x0, y0), (x1, y1) = np.maximum(start - reach, 0).tolist(), (end + reach).tolist()
    return _Part(pixels[y0:y1, x0:x1], (x0, y0), cut_off)


def may_be_number(digit: npt.NDArray[np.uint8]) -> bool:
    """Whether an image in MNIST's form, uint8 `(28, 28, 1)`, is wide enough to be two digits."""
    return _aspect(digit) >= _TWO_DIGITS


def is_likely_number(digit: npt.NDArray[np.uint8]) -> bool:
    """The same where nothing but the width speaks for two digits."""
    return _aspect(digit) >= _LIKELY_TWO


def _aspect(digit: npt.NDArray[np.uint8]) -> float:
    _, _, width, height = cv2.boundingRect(digit)
    return float(width / max(1, height))


def find_lines(ink: Ink, origin: tuple[int, int] = (0, 0), prune: bool = True, cut_off: bool = True) -> list[Line]:
    """The lines of digits in an ink map, from top to bottom.

    Args:
        origin: x and y of the map in the image, in pixels of the image.
        prune: as in `find_number`.
        cut_off: whether digits may touch the border of the map.
    """
    pieces = _pieces(ink, cut_off)
    if pieces is None:
        return []
    labels, stats, lines = pieces
    if sum(_width_in_heights(stats[members]) for members, _ in lines) > _MAX_WIDTHS:
        return []
    found, candidates = [], 0
    for members, marks in lines[:_MAX_LINES]:
        line = _line(ink, labels, stats, members, marks, origin, prune)
        if line is not None and candidates + len(line.first) <= _MAX_CANDIDATES:
            found.append(line)
            candidates += len(line.first)
    return found


def _pieces(ink: Ink, cut_off: bool = True) -> tuple[Array, Array, list[tuple[list[int], list[int]]]] | None:
    """Pieces of ink: labels, boxes and areas; for each line the pieces of its digits, and the marks between them."""
    for threshold in ink.thresholds:
        mask = (ink.amount >= threshold).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        x, y, width, height, area = stats.T
        on_edge = (x == 0) | (y == 0) | (x + width == mask.shape[1]) | (y + height == mask.shape[0])
        rank = np.minimum(np.maximum(width, height), 3 * height) * np.sqrt(area) * np.where(on_edge, 0.3, 1.0)
        framed = np.concatenate([[False], frames(labels, stats[1:])])
        rank[0] = rank[framed] = 0
        main = int(np.argmax(rank))
        if not on_edge[main]:  # otherwise the low threshold may have joined the digits to lines on the paper
            break
    tallest = float(height[main])
    is_like_main = (height >= _LIKE_MAIN * tallest) & (height * _LIKE_MAIN <= tallest) & (width <= _MAX_ASPECT * height)
    inside = ~on_edge | on_edge[main] | (is_like_main & cut_off)
    longer = np.maximum(width, height)
    inside &= (height < _SIDE_HEIGHT * tallest) | (area * longer[main] >= _SIDE_WIDTH * area[main] * longer)
    inside[0] = inside[framed] = False
    y, height = _with_broken_digits(stats, inside & (height < tallest), tallest)
    is_body = inside & (height <= _TALLEST * tallest)
    is_body &= (height >= _BODY * tallest) | (height >= _LOW_BODY * tallest) & (width >= _BODY * tallest)
    bodies = np.flatnonzero(is_body)
    if not 0 < len(bodies) <= _MAX_PIECES:
        return None
    lines: list[list[int]] = []
    for body in bodies[np.argsort(x[bodies])].tolist():
        best, overlap = None, _SAME_LINE
        for line in lines:
            near = np.array(line[-2:])  # the last piece alone may be a part of a broken digit
            shared = np.minimum(y[body] + height[body], y[near] + height[near]) - np.maximum(y[body], y[near])
            share = float((shared / np.minimum(height[body], height[near])).max())
            if share > overlap:
                best, overlap = line, share
        if best is None:
            lines.append([body])
        else:
            best.append(body)
    lines = [line for line in lines if (height[line] >= _BODY * tallest).any()]
    whole = [line for line in lines if not on_edge[line].all()]  # others are the edge of a table, or the next page
    lines = sorted(whole or lines, key=lambda line: float(np.median(y[line] + height[line] / 2)))
    result: list[tuple[list[int], list[int]]] = [(line, []) for line in lines]
    small = inside & ~is_body & (np.maximum(width, height) >= _MIN_MARK * tallest)
    small &= width < 1.5 * tallest
    for piece in np.flatnonzero(small)[:_MAX_PIECES].tolist():
        for line, (members, marks) in zip(lines, result, strict=True):
            across = np.minimum(x[piece] + width[piece], x[line] + width[line]) - np.maximum(x[piece], x[line])
            down = np.maximum(y[piece], y[line]) - np.minimum(y[piece] + height[piece], y[line] + height[line])
            larger = max(width[piece], height[piece])
            middle = y[piece] + height[piece] / 2
            is_above = (across >= _ATTACHED * width[piece]) & (down < _NEAR * tallest)
            is_above &= (down < 0) | (larger >= _MIN_ABOVE * tallest)
            is_bar = (height[piece] < width[piece]) & (middle < y[line] + _HIGH * height[line])
            is_bar &= (x[piece] > x[line]) | (width[piece] >= _WIDE_PART * tallest)
            is_stroke = (width[piece] >= _WIDE_PART * tallest) & (height[piece] >= _HIGH_PART * tallest)
            is_stroke &= (x[piece] < x[line]) & (middle < y[line] + _LOWEST_PART * height[line])
            is_beside = (is_bar | is_stroke) & (middle > y[line] - _HIGH * height[line])
            is_beside &= across > -_BESIDE * tallest
            if larger >= _MIN_PIECE * tallest and (is_above | is_beside).any():
                members.append(piece)
                break
            if (
                x[line[0]] < x[piece] < x[line[-1]]
                and ((middle > y[line]) & (middle < y[line] + 1.3 * height[line])).any()
            ):
                marks.append(piece)
                break
    return labels, stats, result


def _with_broken_digits(stats: Array, inside: Array, tallest: float) -> tuple[Array, Array]:
    """Top and height of each piece; the pieces of a broken digit, one above the other, count as their whole."""
    x, y, width, height = (column.copy() for column in stats.T[:4])
    parts = np.flatnonzero(inside & (np.maximum(width, height) >= _MIN_ABOVE * tallest))[:_MAX_PIECES]
    for index, piece in enumerate(parts):
        others = parts[index + 1 :]
        is_small = (height[piece] < _BODY * tallest) & (height[others] < _BODY * tallest)
        across = np.minimum(x[piece] + width[piece], (x + width)[others]) - np.maximum(x[piece], x[others])
        down = np.maximum(y[piece], y[others]) - np.minimum(y[piece] + height[piece], (y + height)[others])
        near = across >= _ATTACHED * np.minimum(width[piece], width[others])
        near &= down < np.where(is_small, _NEAR, _SPLIT) * tallest
        near |= is_small & (np.maximum(-across, down) < _SPLIT * tallest)
        group = np.append(others[near], piece)
        top, bottom = y[group].min(), (y + height)[group].max()
        if len(group) > 1 and _BODY * tallest <= bottom - top <= tallest / _LIKE_MAIN:
            y[group], height[group] = top, bottom - top
    return y, height


def _height(boxes: Array) -> float:
    """Of the digits in a line, from the boxes and areas of its pieces."""
    heights = boxes[:, 3]
    return float(np.median(heights[heights >= _BODY * heights.max()]))


def _width_in_heights(boxes: Array) -> float:
    width = (boxes[:, 0] + boxes[:, 2]).max() - boxes[:, 0].min()
    return float(width) / _height(boxes)


def _line(
    ink: Ink, labels: Array, stats: Array, members: list[int], marks: list[int], origin: tuple[int, int], prune: bool
) -> Line | None:
    boxes = stats[members]
    height = _height(boxes)
    pad = max(2, round(0.08 * height))
    left, top = max(0, boxes[:, 0].min() - pad), max(0, boxes[:, 1].min() - pad)
    right, bottom = (boxes[:, 0] + boxes[:, 2]).max() + pad, (boxes[:, 1] + boxes[:, 3]).max() + pad
    if bottom - top > 6 * height:
        return None
    area = slice(top, bottom), slice(left, right)
    member = np.zeros(len(stats), np.bool_)
    member[members] = True
    own = member[labels[area]]
    amount = ink.amount[area]
    solid = float(np.quantile(amount[own], 0.6))
    near = cv2.dilate(own.astype(np.uint8), np.ones((2 * (pad // 2) + 1,) * 2, np.uint8)) > 0
    amount = np.where(near & (own | (labels[area] == 0)), np.clip(amount / np.float32(solid), 0, 1), np.float32(0))
    scale = _HEIGHT / height
    size = (max(1, round(amount.shape[1] * scale)), max(1, round(amount.shape[0] * scale)))
    grey = cv2.resize(amount, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    grey = np.asarray(np.clip(grey, 0, 1) * 255, np.uint8)
    thick = _thickened(np.asarray(grey, np.uint8))
    mask = grey > _VISIBLE * 255
    if not mask.any():  # traces so thin that they vanish at this size
        return None
    seams, costs = _cuts(np.asarray(grey, np.float32) / np.float32(255))
    first, last, outlines = _pairs(mask, seams, costs)
    if prune:
        likely = score(outlines, "prior") > 0
        first, last, outlines = first[likely], last[likely], outlines[likely]
    features = np.zeros((len(first), FEATURES), np.float32)
    to_image = ink.scale / scale
    x0 = origin[0] + (left - ink.margin) * ink.scale
    y0 = origin[1] + (top - ink.margin) * ink.scale
    columns = np.arange(mask.shape[1])
    kept: list[int] = []
    images, found_boxes = [], []
    for index, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        start, stop = max(0, int(seams[a].min())), int(seams[b].max()) + 1
        here = columns[start:stop]
        region = (here >= seams[a][:, None]) & (here < seams[b][:, None])
        rendered = _rendered(thick[:, start:stop], mask[:, start:stop] & region, region)
        if rendered is None:
            continue
        pixels, (x, y, width, high), pieces = rendered
        features[index] = (high / _HEIGHT, width / _HEIGHT, width / high, *outlines[index, 3:], pieces)
        if high < _MIN_HEIGHT * _HEIGHT or width > _MAX_WIDTH * _HEIGHT or width > _MAX_ASPECT * high:
            continue
        kept.append(index)
        images.append(pixels)
        corners = (x + start, y, x + start + width, y + high)
        found_boxes.append([round(v * to_image + o) for v, o in zip(corners, (x0, y0, x0, y0), strict=True)])
    if not kept:
        return None
    middles = ((stats[marks, 0] + stats[marks, 2] / 2 - ink.margin) * ink.scale + origin[0]).tolist()
    return Line(
        len(seams), first[kept], last[kept], np.stack(images), np.array(found_boxes), features[kept],
        height * ink.scale, tuple(sorted(middles)), outlines[kept],
    )  # fmt: skip


def _thickened(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Strokes at least as wide as MNIST's thin ones."""
    growth = round(_MIN_STROKE - stroke_width(grey))
    if growth < 1:
        return grey
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (growth + 1, growth + 1))
    return np.asarray(cv2.dilate(grey, brush), np.uint8)


def _cuts(ink: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Ways from top to bottom through little ink: int32 `(K, H)` columns per row, and the ink they cross, `(K,)`.

    The first and last are the line's ends. Ink crossed is a share of the line's height.
    """
    height, width = ink.shape
    down, up = _accumulated(ink), _accumulated(ink[::-1])[::-1]
    steps = _steps(down), _steps(up)
    ways, costs = [], []
    for anchor in _ANCHORS:
        row = min(height - 1, round(anchor * height))
        ways.append(_followed(*steps, row))
        costs.append(down[row] + up[row] - ink[row])
    every, cost = np.concatenate(ways), np.concatenate(costs)
    inked = np.flatnonzero(ink.max(axis=0) > _VISIBLE)
    start, stop = int(inked[0]), int(inked[-1])
    middle = every.mean(axis=1)
    usable = (cost <= _MAX_COST * _HEIGHT) & (middle > start + 2) & (middle < stop - 2)
    every, cost = every[usable], cost[usable]
    order = np.argsort(cost, kind="stable")
    every, cost = every[order], cost[order]
    most = max(4, round(_MAX_CUTS * (stop - start) / _HEIGHT))
    solid = _sums(ink > _VISIBLE)
    before = solid[np.arange(height), every]  # pixels of ink on the left of each cut, per row
    chosen: list[int] = []
    is_open = np.ones(len(every), np.bool_)
    while len(chosen) < most and is_open.any():
        best = int(is_open.argmax())
        chosen.append(best)
        is_open &= np.abs(before - before[best]).sum(axis=1) >= _MIN_BETWEEN * _HEIGHT**2
        is_open[best] = False
    picked = sorted(chosen, key=lambda index: float(every[index].mean()))
    ends = np.array([[0] * height, [width] * height], np.int32)
    seams = np.concatenate([ends[:1], every[picked], ends[1:]])
    return seams, np.concatenate([[0], cost[picked] / _HEIGHT, [0]]).astype(np.float32)


def _followed(down: Array, up: Array, row: int) -> npt.NDArray[np.int32]:
    """int32 `(W, H)`: for each column the cheapest way through it at `row`."""
    height, width = down.shape
    columns = np.arange(width)
    ways = np.empty((height, width), np.int32)
    ways[row] = columns
    for rows, table in ((range(row - 1, -1, -1), down), (range(row + 1, height), up)):
        x = columns
        for y in rows:
            x = x + table[y, x]
            ways[y] = x
    return ways.T


def _steps(total: Array) -> npt.NDArray[np.int32]:
    """For each pixel the cheapest step sideways in its row, -1, 0 or 1: of equal ones 0, then -1."""
    padded = np.pad(total, ((0, 0), (1, 1)), constant_values=np.inf)
    left, right = padded[:, :-2] + _DIAGONAL, padded[:, 2:] + _DIAGONAL
    steps = np.where(left < total, -1, 0)
    steps[right < np.minimum(left, total)] = 1
    return steps.astype(np.int32)


def _accumulated(ink: Array) -> Array:
    """The ink on the cheapest way from the top to each pixel; steps go down, or down and sideways."""
    total = np.empty_like(ink)
    total[0] = ink[0]
    for row in range(1, len(ink)):
        above = total[row - 1]
        best = above.copy()
        best[1:] = np.minimum(best[1:], above[:-1] + _DIAGONAL)
        best[:-1] = np.minimum(best[:-1], above[1:] + _DIAGONAL)
        total[row] = best + ink[row]
    return total


def _pairs(mask: Array, seams: Array, costs: Array) -> tuple[Array, Array, npt.NDArray[np.float32]]:
    """Pairs of cuts with ink of a digit's size between them: first cut, last cut, and the outline of the ink.

    An outline is `(C, OUTLINE)`: height, width, width / height, ink crossed on the left and on the right, share of ink,
    upper and lower end below the line's middle, and for each band its share of ink and its strokes per row.
    """
    height, width = mask.shape
    rows = np.arange(height)
    middle = seams.mean(axis=1)
    a, b = np.triu_indices(len(seams), 1)
    span = middle[b] - middle[a]
    inked = np.flatnonzero(mask.any(axis=0))  # a cut in a wide gap may be far from the ink on either side
    begin = np.append(inked, width)[np.searchsorted(inked, middle)]
    end = np.append(inked, -1)[np.searchsorted(inked, middle) - 1]
    near = (span < 2 * _HEIGHT) | (end[b] - begin[a] < _MAX_WIDTH * _HEIGHT)
    likely = (span > 0.03 * _HEIGHT) & (near | (a == 0) | (b == len(seams) - 1))
    a, b = a[likely], b[likely]
    left, right = seams[a], seams[b]
    ordered = (left <= right).all(axis=1)
    a, b, left, right = a[ordered], b[ordered], left[ordered], right[ordered]
    counts = _sums(mask)
    inside = counts[rows, right] - counts[rows, left]
    area = inside.sum(axis=1)
    index = np.where(mask, np.arange(width), width)
    following = np.minimum.accumulate(np.pad(index, ((0, 0), (0, 1)), constant_values=width)[:, ::-1], axis=1)[:, ::-1]
    index = np.where(mask, np.arange(width), -1)
    preceding = np.maximum.accumulate(np.pad(index, ((0, 0), (1, 0)), constant_values=-1), axis=1)
    has_ink = inside > 0
    x0 = np.where(has_ink, following[rows, left], width).min(axis=1)
    x1 = np.where(has_ink, preceding[rows, right], -1).max(axis=1)
    y0, below = has_ink.argmax(axis=1), height - has_ink[:, ::-1].argmax(axis=1)
    high, wide = below - y0, x1 - x0 + 1
    fits = (area >= _MIN_AREA * _HEIGHT**2) & (high >= _MIN_HEIGHT * _HEIGHT)
    fits &= (wide <= _MAX_WIDTH * _HEIGHT) & (wide <= _MAX_ASPECT * high)
    a, b, left, right, inside = a[fits], b[fits], left[fits], right[fits], inside[fits]
    area, x0, x1, y0, high, wide = area[fits], x0[fits], x1[fits], y0[fits], high[fits], wide[fits]
    before = np.pad(mask, ((0, 0), (1, 1)))
    starts = _sums(mask & ~before[:, :-2])
    strokes = starts[rows, right] - starts[rows, np.minimum(left + 1, right)]
    strokes += (inside > 0) & before[:, 1:][rows, left]
    edges = y0[:, None] + np.rint(high[:, None] * np.linspace(0, 1, _BANDS + 1)).astype(np.int32)
    each = np.arange(len(a))[:, None]
    band = np.maximum(np.diff(edges, axis=1), 1)
    ink = np.diff(_sums(inside)[each, edges], axis=1) / (band * wide[:, None])
    crossed = np.diff(_sums(strokes)[each, edges], axis=1) / band
    slope, row = _centre_line(mask)
    line = row + slope * (x0 + wide / 2)
    outlines = np.column_stack(
        [high / _HEIGHT, wide / _HEIGHT, wide / high, costs[a], costs[b], area / (high * wide),
         (y0 - line) / _HEIGHT, (y0 + high - line) / _HEIGHT, ink, crossed]
    )  # fmt: skip
    return a, b, outlines.astype(np.float32)


def _sums(values: Array) -> npt.NDArray[np.int32]:
    """`(N, W)` → `(N, W + 1)`: in each row the sum of the values before each position."""
    return np.pad(np.cumsum(values, axis=1, dtype=np.int32), ((0, 0), (1, 0)))


def _centre_line(mask: Array) -> tuple[float, float]:
    """Slope and row at column 0 of the straight line along the ink's middle; the line of few digits is level."""
    moments = cv2.moments(mask.astype(np.uint8))
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    slope = moments["mu11"] / max(1.0, moments["mu20"])
    slope /= 1 + (_SHORT * _HEIGHT / mask.shape[1]) ** 3
    return slope, y - slope * x


def _rendered(
    grey: npt.NDArray[np.uint8], mask: Array, region: Array
) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int, int], int] | None:
    """A candidate in MNIST's form, its box and how many pieces it has; without specks."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = np.maximum(stats[:, 2], stats[:, 3])
    keep = sizes >= _MIN_PIECE * _HEIGHT
    keep[0] = False
    pieces = int(keep.sum())
    if not pieces:
        return None
    boxes = stats[keep]
    x, y = int(boxes[:, 0].min()), int(boxes[:, 1].min())
    x1, y1 = int((boxes[:, 0] + boxes[:, 2]).max()), int((boxes[:, 1] + boxes[:, 3]).max())
    crop = slice(max(0, y - 2), y1 + 2), slice(max(0, x - 2), x1 + 2)
    own = region[crop]
    if pieces < count - 1:
        own = own & ((labels[crop] == 0) | keep[labels[crop]])
    digit = np.where(own, grey[crop], np.uint8(0))
    bx, by, width, height = cv2.boundingRect((digit > 60).astype(np.uint8))
    if not width:
        return None
    digit = digit[by : by + height, bx : bx + width]
    factor = BOX / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    digit = cv2.resize(digit, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    digit = cv2.convertScaleAbs(digit, alpha=255 / max(1, int(digit.max())))
    return place(digit), (x, y, x1 - x, y1 - y), pieces


def score(values: Array, name: str) -> npt.NDArray[np.float64]:
    """What the network of one hidden layer with that name makes of `(C, inputs)`: `(C,)`."""
    weights = _weights()[name]
    hidden = np.maximum(values @ weights["hidden"] + weights["hidden_bias"], 0)
    return np.asarray(hidden @ weights["output"] + weights["output_bias"], np.float64)


@cache
def _weights() -> dict[str, dict[str, Array]]:
    content = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: {key: np.array(value) for key, value in layer.items()} for name, layer in content.items()}
