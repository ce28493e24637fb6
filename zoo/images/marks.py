"""Ink that is not a stroke of the digit: rings, boxes and underlines. And outlines, which are filled to strokes."""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from zoo.images.levels import Array

_SECTORS = 36  # of the directions around a digit
_MIN_SECTORS = 32  # a ring covers so many: one that is drawn by hand may have a gap of 40 degrees
_MIN_INNER = 0.3  # of a ring's longer side: what is inside is the digit; the dot of a dotted zero is smaller
_LARGE = 0.12  # of the longest stroke: smaller pieces are specks
_MAX_LARGE = 24  # more pieces are no digit with a mark, and are refused later

# An underline, relative to the height and width of what is above it.
_MAX_THICK = 0.2  # mean thickness of a line / its length
_MAX_TILTED = 0.3  # height of a line's box / its width
_MIN_LENGTH = 0.4  # length of the line / the larger side of what is above it
_MIN_GAP, _MAX_GAP = 0.035, 0.6  # of the height above: the foot of a broken two is closer, the next row further away

# Lines of the paper, which cross the image from border to border.
_MAX_LINE = 0.05  # thickness / the image's longer side
_MAX_LINES = 24  # line ends per border; squared paper with more is left to the thresholds of the ink
_MAX_SLOPE = 0.12  # of a line relative to the border
_MIN_COVERED = 0.9  # of a line's length
_THINNER = 0.75  # thickness / stroke width of the digit, for a single line: the bar of a tight four is as thick
_MIN_CLEAR = 0.06  # of the side: between the digit and the ends of a line

# An outline, at `_SIDE` pixels.
_SIDE = 112  # pixels of the longer side while an outline is searched for
_MIN_ELONGATION = 4.0  # area / width² of the space inside a stroke; of 6,000 MNIST images four have a hole with more
_MIN_SPACE = 0.5  # of the ink's area: the space inside an outlined stroke
_MAX_SPACE = 0.22  # of the digit's size: the width of the space inside an outlined stroke
_MAX_UNEVEN = 0.3  # deviation of the space's width; the space between a digit and a ring around it has more


def extra_marks(labels: Array, stats: Array) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Which pieces of ink are a ring or box around the digit, or a line below it.

    Args:
        labels: int32 `(h, w)`, 1 to P in the pieces, 0 elsewhere.
        stats: int32 `(P, 5)`, x, y, width, height and area of each piece.
    Returns:
        bool `(P,)`, and the corrections in words.
    """
    extra = np.zeros(len(stats), np.bool_)
    sizes = np.maximum(stats[:, 2], stats[:, 3])
    large = np.flatnonzero(sizes >= _LARGE * sizes.max())
    corrections: list[str] = []
    if not 2 <= len(large) <= _MAX_LARGE:
        return extra, ()
    boxes = np.concatenate([stats[:, :2], stats[:, :2] + stats[:, 2:4]], axis=1)
    for piece in large[np.argsort(-sizes[large])][:3]:
        inside = large[
            (boxes[large, :2] > boxes[piece, :2]).all(axis=1) & (boxes[large, 2:] < boxes[piece, 2:]).all(axis=1)
        ]
        if inside.size and _is_ring(labels, piece, boxes, inside, int(sizes[piece])):
            x0, y0, x1, y1 = boxes[piece]
            within = (boxes[:, :2] >= (x0, y0)).all(axis=1) & (boxes[:, 2:] <= (x1, y1)).all(axis=1)
            extra |= ~within
            extra[piece] = True
            large = inside
            corrections = ["removed a ring or box around the digit"]
    lines = [piece for piece in large if _is_line(stats[piece])]
    others = [piece for piece in large if piece not in lines]
    if lines and others:
        above = _union(boxes[others])
        below = [piece for piece in lines if _is_below(boxes[piece], above)]
        extra[below] = True
        corrections += ["removed an underline"] if below else []
    return extra, tuple(corrections)


def _union(boxes: Array) -> tuple[int, int, int, int]:
    x0, y0 = boxes[:, :2].min(axis=0)
    x1, y1 = boxes[:, 2:].max(axis=0)
    return int(x0), int(y0), int(x1), int(y1)


def _is_ring(labels: Array, piece: int, boxes: Array, inside: Array, size: int) -> bool:
    """Whether a piece surrounds the pieces inside its box, in nearly all directions."""
    x0, y0, x1, y1 = _union(boxes[inside])
    if max(x1 - x0, y1 - y0) < _MIN_INNER * size:
        return False
    left, top, right, bottom = boxes[piece]
    ys, xs = np.nonzero(labels[top:bottom, left:right] == piece + 1)
    angles = np.arctan2(ys - ((y0 + y1) / 2 - top), xs - ((x0 + x1) / 2 - left))
    sectors = np.asarray((angles / (2 * np.pi) + 0.5) * _SECTORS, np.int64)
    return bool(np.count_nonzero(np.bincount(sectors, minlength=_SECTORS)[:_SECTORS]) >= _MIN_SECTORS)


def _is_line(stat: Array) -> bool:
    _, _, width, height, area = (int(value) for value in stat)
    return height <= _MAX_TILTED * width and area <= _MAX_THICK * width * width


def _is_below(line: Array, above: tuple[int, int, int, int]) -> bool:
    x0, y0, x1, y1 = above
    height, length = y1 - y0, int(line[2] - line[0])
    overlap = min(int(line[2]), x1) - max(int(line[0]), x0)
    gap = int(line[1]) - y1
    return (
        _MIN_GAP * height <= gap <= _MAX_GAP * height
        and length >= _MIN_LENGTH * max(height, x1 - x0)
        and overlap >= 0.5 * (x1 - x0)
        and height >= 0.3 * length
    )


def paper_lines(mask: Array, margin: int) -> Array | None:
    """Ruled lines and edges of cells, uint8 `(h, w)`, 1 in lines from border to border, where they cross no stroke.

    Args:
        mask: uint8 `(h, w)`, 1 in ink.
        margin: pixels of the mask's border that are not part of the image.
    Returns:
        None where there are none, or where they may belong to the digit.
    """
    height, width = mask.shape
    image = np.ascontiguousarray(mask[margin : height - margin, margin : width - margin])
    if min(image.shape) < 16:
        return None
    found = np.zeros_like(image)
    count, thickest = 0, 0.0
    for part, result in ((image, found), (image.T, found.T)):
        for places, thick in _crossing_lines(part):
            _mark_line(part, result, places, thick)
            count, thickest = count + 1, max(thickest, thick)
    if not count:
        return None
    rest = image & (1 - found)
    if count == 1:
        depth = cv2.distanceTransform(rest, cv2.DIST_L2, 3)
        if thickest > _THINNER * 2 * float(np.quantile(depth[depth > 0], 0.9)) if depth.any() else True:
            return None
    _, _, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=8)
    if len(stats) < 2:
        return None
    x, y, wide, high, _ = (int(value) for value in stats[1 + int(stats[1:, 4].argmax())])
    rows, columns = image.shape
    if max(wide, high) < _LARGE * max(rows, columns):
        return None
    clear = min(x, columns - x - wide) / columns if found.any(axis=1).sum() < rows else 0.0
    if max(clear, min(y, rows - y - high) / rows) < _MIN_CLEAR:
        return None
    return cv2.copyMakeBorder(found, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)


def _crossing_lines(image: Array) -> list[tuple[Array, float]]:
    """The row of each column, int64 `(w,)`, and the thickness of lines from the left to the right border."""
    height, width = image.shape
    inset = max(1, width // 100)
    ends = [_runs(image[:, column]) for column in (inset, width - 1 - inset)]
    thickest = max(3.0, _MAX_LINE * max(image.shape))
    left, right = (runs[(runs[:, 1] - runs[:, 0]) <= thickest] for runs in ends)
    if not len(left) or not len(right) or max(len(left), len(right)) > _MAX_LINES:
        return []
    padded = cv2.dilate(image, np.ones((3, 1), np.uint8))
    across = np.arange(width)
    lines: list[tuple[Array, float]] = []
    for start in left.mean(axis=1):
        for end in right.mean(axis=1):
            if abs(end - start) > _MAX_SLOPE * width:
                continue
            places = np.rint(start + (end - start) * (across - inset) / (width - 1 - 2 * inset)).astype(np.int64)
            places = np.clip(places, 0, height - 1)
            if padded[places, across].mean() < _MIN_COVERED:
                continue
            thick = float(np.median(_thickness(image, places)))
            if 0 < thick <= thickest and thick * 1.5 < places.mean() < height - thick * 1.5:
                lines.append((places, thick))
    return lines


def _runs(values: Array) -> Array:
    """int64 `(R, 2)`: first and last position of each run of ones."""
    steps = np.diff(np.concatenate([[0], values.astype(np.int8), [0]]))
    return np.stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1], axis=1)


def _extents(image: Array, places: Array) -> tuple[Array, Array]:
    """For each column, how many pixels of ink lie above and below a row without a gap, at most 24 each."""
    height, width = image.shape
    reach = np.arange(25)
    across = np.arange(width)
    padded = np.concatenate([image, np.zeros((1, width), np.uint8)])
    up = padded[np.where(places - reach[:, None] >= 0, places - reach[:, None], height), across]
    down = padded[np.minimum(places + reach[:, None], height), across]
    return np.asarray(up.cumprod(axis=0).sum(axis=0)), np.asarray(down.cumprod(axis=0).sum(axis=0))


def _thickness(image: Array, places: Array) -> Array:
    up, down = _extents(image, places)
    total = np.maximum(up + down - 1, 0)
    return np.asarray(total[total > 0] if total.any() else total)


def _mark_line(image: Array, result: Array, places: Array, thick: float) -> None:
    """Set the pixels of a line in `result`, except where a stroke crosses it."""
    height = len(image)
    reach = round(thick) + 1
    near = np.clip(places + np.arange(-reach, reach + 1)[:, None], 0, height - 1)
    up, down = _extents(image, places)
    alone = (up + down - 1) <= 2 * thick + 1
    across = np.broadcast_to(np.arange(image.shape[1]), near.shape)
    result[near[:, alone], across[:, alone]] = 1


def outline_space(mask: Array, box: Sequence[int]) -> Array | None:
    """The space inside the strokes of an outlined digit, uint8 `(h, w)`, 1 in the space; None for other digits.

    Args:
        mask: uint8 `(h, w)`, 1 in ink.
        box: x, y, width and height of the digit.
    """
    x, y, width, height = box
    part = mask[y : y + height, x : x + width]
    factor = min(1.0, _SIDE / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = (cv2.resize(part * 255, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    ink = cv2.countNonZero(small)
    paper = 1 - cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(paper, connectivity=4)
    outside = labels[0, 0]
    candidates = [k for k in range(1, len(stats)) if k != outside and stats[k, 4] >= _MIN_SPACE * ink]
    for label in candidates:
        space = (labels == label).astype(np.uint8)
        depth = cv2.distanceTransform(space, cv2.DIST_L2, 3)
        width_inside = 2 * float(depth.max())
        if stats[label, 4] < _MIN_ELONGATION * width_inside**2 or width_inside > _MAX_SPACE * max(size):
            continue
        middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
        if float(middle.std()) <= _MAX_UNEVEN * float(middle.mean()):
            wide = cv2.dilate(space, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
            result = np.zeros(mask.shape, np.uint8)
            result[y : y + height, x : x + width] = cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST)
            return result
    return None
