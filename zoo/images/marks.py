"""Ink that is not a stroke of the digit: rings, boxes and underlines. And outlines, which are filled to strokes."""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from zoo.images.levels import Array

_SECTORS = 36  # of the directions around a digit
_MIN_SECTORS = 32  # a ring covers so many: one that is drawn by hand may have a gap of 40 degrees
_MIN_INNER = 0.4  # of the longer side of a ring: what is inside is the digit; the hole of an outlined nine is smaller
_MIN_AROUND = 0.8  # width and height of a cell's edges / those of the digit
_MAX_BAND = 0.08  # of the longer side: how far tilted edges leave the sides of their box
_MAX_INSIDE = 0.03  # of the ink of a cell's edges: what is not along the sides
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
_MIN_REST = 0.04  # of the longer side: smaller ink beside lines is no digit
_MIN_CUT_REST = 0.25  # the same for ink that touches the border, such as a stroke of a four that is cropped tightly
_RULED, _MIN_CUT_WIDTH = 3, 0.1  # lines that no digit has; and the same for the shorter side of ink beside so many
_NARROW, _MAX_THIN = 0.7, 0.02  # width / height of an image whose only line may be a one; and thickness / height

# Cells of a table, and boxes to fill in.
_MAX_INK = 0.5  # of the box of all cells
_MIN_RECTANGLE = 0.85  # area of a cell / the smallest rectangle around it; an ellipse has 0.79
_MIN_CELLS = 3  # one more than a digit has holes
_MOST = 0.8  # of the holes
_MAX_THICKER = 1.6  # the largest thickness / the median one: where two lines cross it is 1.4
_MIN_BOX_ASPECT = 0.8  # width / height of a single box; a zero or eight of straight lines is narrower
_SAME_BOX = 0.15  # difference in width, height and ink between an empty box of a form and one with a digit
_MAX_BOX_LINE = 0.06  # thickness of its edges / its longer side

# An outline, at `_SIDE` pixels.
_SIDE = 112  # pixels of the longer side while an outline is searched for
_MIN_ELONGATION = 4.0  # area / width² of the space inside a stroke; of 6,000 MNIST images four have a hole with more
_MIN_SPACE = 0.5  # of the ink's area: the space inside an outlined stroke
_MAX_SPACE = 0.22  # of the digit's size: the width of the space inside an outlined stroke
_MAX_UNEVEN = 0.3  # deviation of the space's width; the space between most digits and a ring around them has more
_MIN_RINGED = 0.4  # of the longer side: a piece inside is an outline's inner edge, or a digit in a ring
_MAX_TAIL = 0.05  # of the ink of such a piece: what is not along its largest hole; the inner edge of a zero has none
_MAX_EDGE = 0.12  # thickness of an inner edge / the longer side of the digit


def extra_marks(labels: Array, stats: Array, blank: Sequence[int]) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Which pieces of ink are a ring or box around the digit, edges of its cell, or a line below it.

    Args:
        labels: int32 `(h, w)`, 1 to P in the pieces, 0 elsewhere.
        stats: int32 `(P, 5)`, x, y, width, height and area of each piece.
        blank: as in `paper_lines`.
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
        inside = _inside(boxes, piece, large)
        if inside.size and _is_ring(labels, piece, boxes, inside, int(sizes[piece])):
            x0, y0, x1, y1 = boxes[piece]
            framed = frames(labels, stats)
            if (framed & ((boxes[:, 0] >= x1) | (boxes[:, 2] <= x0) | (boxes[:, 1] >= y1) | (boxes[:, 3] <= y0))).any():
                return framed, ("removed rings or boxes around the digits",)  # a form of several boxes
            within = (boxes[:, :2] >= (x0, y0)).all(axis=1) & (boxes[:, 2:] <= (x1, y1)).all(axis=1)
            extra |= ~within
            extra[piece] = True
            large = inside
            corrections = ["removed a ring or box around the digit"]
    top, bottom, left, right = blank
    frame = left + 2, top + 2, labels.shape[1] - right - 2, labels.shape[0] - bottom - 2
    is_cut = np.asarray((boxes[:, :2] <= frame[:2]).any(axis=1) | (boxes[:, 2:] >= frame[2:]).any(axis=1))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for piece in large[np.argsort(-sizes[large])][:3]:
        x0, y0, x1, y1 = boxes[piece]
        inside = large[((centres[large] > (x0, y0)) & (centres[large] < (x1, y1))).all(axis=1) & ~is_cut[large]]
        if is_cut[piece] and inside.size and _is_along_box(labels, piece, boxes, inside):
            extra[piece] = True
            large = large[large != piece]
            corrections.append("removed the edges of a cell")
    lines = [piece for piece in large if _is_line(stats[piece])]
    others = [piece for piece in large if piece not in lines]
    if lines and others:
        above = _union(boxes[others])
        below = [piece for piece in lines if _is_below(boxes[piece], above)]
        extra[below] = True
        corrections += ["removed an underline"] if below else []
    return extra, tuple(corrections)


def frames(labels: Array, stats: Array) -> npt.NDArray[np.bool_]:
    """Which pieces of ink surround others: rings, and the boxes of a form with its empty ones.

    Args:
        labels, stats: as for `extra_marks`.
    Returns:
        bool `(P,)`.
    """
    result = np.zeros(len(stats), np.bool_)
    boxes = np.concatenate([stats[:, :2], stats[:, :2] + stats[:, 2:4]], axis=1)
    sizes = np.maximum(stats[:, 2], stats[:, 3])
    for piece in np.argsort(-sizes, kind="stable")[:_MAX_LARGE]:
        inside = _inside(boxes, piece, np.flatnonzero(sizes >= _LARGE * stats[piece, 2:4].min()))
        result[piece] = inside.size > 0 and _is_ring(labels, piece, boxes, inside, int(sizes[piece]))
    for frame in np.flatnonzero(result):
        result |= (np.abs(stats[:, 2:] - stats[frame, 2:]) <= _SAME_BOX * stats[frame, 2:]).all(axis=1)
    return result


def _inside(boxes: Array, piece: int, others: Array) -> Array:
    """Those of the other pieces whose boxes lie inside the box of a piece."""
    x0, y0, x1, y1 = boxes[others].T
    left, top, right, bottom = boxes[piece]
    return np.asarray(others[(x0 > left) & (y0 > top) & (x1 < right) & (y1 < bottom)])


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


def _is_along_box(labels: Array, piece: int, boxes: Array, inside: Array) -> bool:
    """Whether a piece consists of thin lines along the sides of its box, which is as large as what is inside."""
    x0, y0, x1, y1 = (int(value) for value in boxes[piece])
    left, top, right, bottom = _union(boxes[inside])
    width, height = x1 - x0, y1 - y0
    if width < _MIN_AROUND * (right - left) or height < _MIN_AROUND * (bottom - top):
        return False
    part = labels[y0:y1, x0:x1] == piece + 1
    band = max(2, round(_MAX_BAND * max(width, height)))
    area = np.count_nonzero(part)
    if area > 2 * _MAX_LINE * max(width, height) * (width + height):
        return False
    return bool(np.count_nonzero(part[band:-band, band:-band]) <= _MAX_INSIDE * area)


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


def paper_lines(mask: Array, blank: Sequence[int]) -> Array | None:
    """Ruled lines and edges of cells, uint8 `(h, w)`, 1 in lines from border to border, where they cross no stroke.

    Where there is nothing else, all ink is lines.

    Args:
        mask: uint8 `(h, w)`, 1 in ink.
        blank: pixels at the mask's top, bottom, left and right that are not part of the image.
    Returns:
        None where there are none, or where they may belong to the digit.
    """
    top, bottom, left, right = blank
    image = np.ascontiguousarray(mask[top : mask.shape[0] - bottom, left : mask.shape[1] - right])
    if min(image.shape) < 16:
        return None
    lines = np.zeros_like(image)
    level, upright = _crossing_lines(image), _crossing_lines(np.ascontiguousarray(image.T))
    for part, result, crossing in ((image, lines, level), (image.T, lines.T, upright)):
        for places, thick in crossing:
            _mark_line(part, result, places, thick)
    thicknesses = [thick for _, thick in (*level, *upright)]
    if not thicknesses:
        return None
    rest = image & (1 - lines)
    rows, columns = image.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=8)
    if not _is_any_digit(stats[1:], image.shape, max(thicknesses), len(thicknesses)):
        if not level and len(upright) == 1 and columns < _NARROW * rows and thicknesses[0] > _MAX_THIN * rows:
            return None  # a one that touches the border above and below
        return mask
    if len(thicknesses) == 1:
        depth = cv2.distanceTransform(rest, cv2.DIST_L2, 3)
        if thicknesses[0] > _THINNER * 2 * float(np.quantile(depth[depth > 0], 0.9)):
            return None
    x, y, wide, high, _ = (int(value) for value in stats[1 + int(stats[1:, 4].argmax())])
    if max(wide, high) < _LARGE * max(rows, columns):
        return None
    clear = 0.0 if upright else min(x, columns - x - wide) / columns
    if max(clear, min(y, rows - y - high) / rows) < _MIN_CLEAR:
        return None
    return cv2.copyMakeBorder(lines, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)


def _is_any_digit(stats: Array, shape: tuple[int, ...], thick: float, count: int) -> bool:
    """Whether any piece is too large for what is left of a line, where it crosses another or fades.

    Args:
        stats: int32 `(P, 5)`, x, y, width, height and area of each piece.
        thick: of the lines.
        count: of the lines.
    """
    longer, shorter, side = np.maximum(stats[:, 2], stats[:, 3]), np.minimum(stats[:, 2], stats[:, 3]), max(shape)
    ends = stats[:, :2] + stats[:, 2:4]
    is_cut = (stats[:, :2] <= 1).any(axis=1) | (ends[:, 0] >= shape[1] - 1) | (ends[:, 1] >= shape[0] - 1)
    is_large = longer >= max(_MIN_REST * side, 4 * thick)
    if count < _RULED:
        is_large_cut = longer >= _MIN_CUT_REST * side
    else:  # a line along the border is no stroke of a four that is cropped tightly
        is_large_cut = shorter >= max(_MIN_CUT_WIDTH * side, 4 * thick)
    return bool(np.where(is_cut, is_large_cut, is_large).any())


def _crossing_lines(image: Array) -> list[tuple[Array, float]]:
    """The row of each column, int64 `(w,)`, and the thickness of lines from the left to the right border."""
    height, width = image.shape
    inset = max(1, width // 100)
    reach = max(inset + 1, width // 20)
    counts = image.sum(axis=0, dtype=np.int32)
    first = inset + int(counts[inset:reach].argmin())  # beside a line along the border, not on it
    last = width - 1 - inset - int(counts[::-1][inset:reach].argmin())
    thickest = max(3.0, _MAX_LINE * max(image.shape))
    left, right = (
        runs[(runs[:, 1] - runs[:, 0]) <= thickest] for runs in map(_runs, (image[:, first], image[:, last]))
    )
    if not len(left) or not len(right) or max(len(left), len(right)) > _MAX_LINES:
        return []
    padded = cv2.dilate(image, np.ones((3, 1), np.uint8))
    across = np.arange(width)
    lines: list[tuple[Array, float]] = []
    for start in left.mean(axis=1):
        for end in right.mean(axis=1):
            if abs(end - start) > _MAX_SLOPE * width:
                continue
            places = np.rint(start + (end - start) * (across - first) / (last - first)).astype(np.int64)
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
    padded = np.concatenate([image, np.zeros((1, width), np.uint8)]).astype(np.int8)  # signed, for -1 in a gap below
    up = padded[np.where(places - reach[:, None] >= 0, places - reach[:, None], height), across]
    down = padded[np.minimum(places + reach[:, None], height), across]
    return np.asarray(up.cumprod(axis=0).sum(axis=0)), np.asarray(down.cumprod(axis=0).sum(axis=0))


def _thickness(image: Array, places: Array) -> Array:
    up, down = _extents(image, places)
    total = np.maximum(up + down - 1, 0)
    return np.asarray(total[total > 0] if total.any() else total)


def _mark_line(image: Array, result: Array, places: Array, thick: float) -> None:
    """Set the pixels of a line and of its gaps in `result`, except where a stroke crosses it."""
    height = len(image)
    reach = round(thick) + 1
    near = np.clip(places + np.arange(-reach, reach + 1)[:, None], 0, height - 1)
    up, down = _extents(image, places)
    alone = (up + down - 1) <= 2 * thick + 1
    across = np.broadcast_to(np.arange(image.shape[1]), near.shape)
    result[near[:, alone], across[:, alone]] = 1


def are_empty_cells(mask: Array, stats: Array, main: int) -> bool:
    """Whether the ink is an empty table, squared paper, or empty boxes.

    Args:
        mask: uint8 `(h, w)`, 1 in ink.
        stats: int32 `(P, 5)`, x, y, width, height and area of each piece.
        main: the piece that is most likely the digit.
    """
    if not _is_empty_cell(mask, stats[main]):
        return False
    sizes = np.maximum(stats[:, 2], stats[:, 3])
    others = [piece for piece in np.flatnonzero(sizes >= _LARGE * sizes[main]) if piece != main]
    if len(others) > _MAX_LARGE:
        return False
    return all(_is_line(stats[piece]) or _is_empty_cell(mask, stats[piece]) for piece in others)


def _is_empty_cell(mask: Array, stat: Array) -> bool:
    """Whether a piece encloses rectangles of paper and nothing else: several, or one that is no zero."""
    x, y, width, height, area = (int(value) for value in stat)
    size = max(width, height)
    if area > _MAX_INK * width * height:
        return False
    part = mask[y : y + height, x : x + width]
    contours, hierarchy = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cells, outer = [], 0.0
    for contour, parent in zip(contours, hierarchy[0, :, 3].tolist(), strict=True):
        _, _, wide, high = cv2.boundingRect(contour)
        if parent >= 0:
            cells.append((min(wide, high), contour))
        elif wide == width and high == height:
            outer = _rectangularity(contour)
        elif max(wide, high) >= _LARGE * size:
            return False  # another piece inside
    if not cells:
        return False
    depth = cv2.distanceTransform(cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 3)
    middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
    usual, thick = 2 * float(np.median(middle)), 2 * float(depth.max())
    if thick > _MAX_THICKER * usual + 2:
        return False  # the strokes of a digit on the lines
    count = sum(side > 1.5 * usual and _rectangularity(contour) >= _MIN_RECTANGLE for side, contour in cells)
    if count < _MOST * len(cells):
        return False
    if count >= _MIN_CELLS:
        return True
    return width >= _MIN_BOX_ASPECT * height and thick <= _MAX_BOX_LINE * size and outer >= _MIN_RECTANGLE


def _rectangularity(contour: Array) -> float:
    """Its area as a share of the smallest rectangle around it, of any angle."""
    _, (width, height), _ = cv2.minAreaRect(contour)
    return float(cv2.contourArea(contour) / max(1.0, width * height))


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
        if float(middle.std()) <= _MAX_UNEVEN * float(middle.mean()) and not _is_ringed(part):
            wide = cv2.dilate(space, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
            result = np.zeros(mask.shape, np.uint8)
            result[y : y + height, x : x + width] = cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST)
            return result
    return None


def _is_ringed(mask: Array) -> bool:
    """Whether a large piece inside, uint8 `(h, w)` cropped to the ink, is a digit and no inner edge of an outline.

    An inner edge is one closed line. A six or nine has a tail as well, an eight a second hole.
    """
    height, width = mask.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for piece, (x, y, wide, high, area) in enumerate(stats[1:].tolist(), 1):
        is_inside = x > 0 and y > 0 and x + wide < width and y + high < height
        if not is_inside or max(wide, high) < _MIN_RINGED * max(width, height):
            continue
        ink = np.pad((labels[y : y + high, x : x + wide] == piece).astype(np.uint8), 1)
        _, holes, sizes, _ = cv2.connectedComponentsWithStats(1 - ink, connectivity=4)
        inner = [k for k in range(1, len(sizes)) if k != holes[0, 0]]
        thick = 2 * float(cv2.distanceTransform(ink, cv2.DIST_L2, 3).max())
        if not inner or thick > _MAX_EDGE * max(width, height):
            return True
        hole = (holes == max(inner, key=lambda k: int(sizes[k, 4]))).astype(np.uint8)
        reach = int(np.ceil(thick)) + 1
        along = cv2.dilate(hole, np.ones((2 * reach + 1,) * 2, np.uint8))
        if cv2.countNonZero(ink & (1 - along)) > _MAX_TAIL * area:
            return True
    return False
