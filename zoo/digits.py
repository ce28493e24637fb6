"""A person's picture of one digit → a picture as MNIST has them, and in words what was done for it.

MNIST's digits (Y. LeCun, C. Cortes, C. Burges: the MNIST database) are light on black, scaled into a 20x20 box with
their proportions kept, anti-aliased, and put into 28x28 so that their centre of mass is in the centre.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput
from zoo.ink import Array, Ink, find_ink, median

SIDE, BOX = 28, 20  # MNIST's picture and the box a digit is scaled into
_CENTRE = 14.0  # where MNIST's centres of mass are, in pixel indices: all 60,000 from 13.48 to 14.50
_OFF_CENTRE = 0.52
_FINE = 80  # pixels a digit's longest side has while it is worked on: four a pixel of the result
_TINIEST = 0.02  # of the picture's longer side: 10 pixels of 512; noise makes smaller spots
_PIECE = 0.12  # of the longest piece of stroke: what is shorter is a speck
_FAR = 0.4  # of the longest piece: what is this far away and shorter than `_WHOLE` of it is dirt
_WHOLE = 0.6  # of the tallest: in a number all digits are about as tall, the bar of a 5 is not
_GAP = 0.08  # of the longest piece, sideways: digits 0.1 apart are refused, strokes of one are closer
_ROW_GAP = 0.25  # the same downwards, where the pieces of a broken stroke lie, and rows are further apart
_WIDEST = 2.3  # width / height; the widest of the 60,000 training images has 2.22
_TEXTURE = 12  # pieces: more are noise or squared paper, not a number
_THIN = 0.11  # stroke width / digit size; of 3,000 MNIST images the median is 0.125, the 5th percentile 0.09


def to_mnist(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Bring a picture of one digit into MNIST's form; one that is in it comes back unchanged to the bit.

    Args:
        pixels: uint8 `(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
    Returns:
        uint8 `(28, 28, 1)`, light on black, and the corrections in words, in order: only what was really done.
    Raises:
        BadInput: the picture is blank, or holds several digits.
    """
    exact = _as_it_is(pixels)
    if exact is not None:
        return exact
    ink = find_ink(pixels)
    strokes = _strokes(ink)
    if max(strokes.box[2:]) < max(_TINIEST * max(ink.amount.shape), 3):
        raise BadInput(
            f"The picture ({pixels.shape[1]}x{pixels.shape[0]}) holds specks and no digit: it seems blank. "
            "Draw a digit with more contrast, or crop closer to it."
        )
    notes, specks = list(ink.notes), strokes.specks
    x, y, width, height = strokes.box
    if ink.scale > 1 and max(width, height) < _FINE:  # a small digit in a large picture: look closer
        margin = max(width, height)
        rows = slice(max(0, y - margin) * ink.scale, (y + height + margin) * ink.scale)
        columns = slice(max(0, x - margin) * ink.scale, (x + width + margin) * ink.scale)
        ink = find_ink(pixels[rows, columns])
        strokes = _strokes(ink)
        specks = max(specks, strokes.specks)
    _check_single(strokes.pieces, strokes.box)
    x, y, width, height = strokes.box
    if specks:
        notes.append(f"removed {specks} speck{'s' if specks > 1 else ''}")
    if (width, height) != strokes.level.shape[::-1]:
        notes.append(f"cropped to {width * ink.scale}x{height * ink.scale}")
    digit, thickened = _normalised(strokes.level[y : y + height, x : x + width])
    if thickened:
        notes.append("thickened thin strokes")
    notes.append("centred")
    return _placed(digit), tuple(notes)


def _as_it_is(pixels: Array) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]] | None:
    if pixels.shape[:2] != (SIDE, SIDE):
        return None
    if pixels.shape[2] == 4 and pixels[:, :, 3].min() < 255:
        return None
    grey = pixels[:, :, :1]
    if pixels.shape[2] > 1 and (pixels[:, :, 1:3] != grey).any():
        return None
    if is_mnist_form(grey):
        return np.array(grey), ()
    inverted = 255 - grey
    return (inverted, ("inverted: the ink was dark",)) if is_mnist_form(inverted) else None


def is_mnist_form(picture: npt.NDArray[np.uint8]) -> bool:
    """Whether uint8 `(28, 28, 1)` has MNIST's form; all 60,000 training images do."""
    x, y, width, height = cv2.boundingRect(picture)
    if (
        max(width, height) not in (BOX - 1, BOX) or cv2.minMaxLoc(picture)[1] < 254
    ):  # 19 in 13 of the 60,000; 254 in 5,999
        return False
    top, left = _corner(picture[y : y + height, x : x + width, 0])
    return abs(y - top) <= _OFF_CENTRE and abs(x - left) <= _OFF_CENTRE


def _corner(digit: Array) -> tuple[float, float]:
    """Row and column of the digit's corner that put its centre of mass in the centre, or as near as it fits."""
    moments = cv2.moments(digit)
    top = _CENTRE - moments["m01"] / moments["m00"]
    left = _CENTRE - moments["m10"] / moments["m00"]
    return min(max(top, 0), SIDE - digit.shape[0]), min(max(left, 0), SIDE - digit.shape[1])


def _placed(digit: Array) -> npt.NDArray[np.uint8]:
    top, left = (round(edge) for edge in _corner(digit))
    picture = np.zeros((SIDE, SIDE, 1), np.uint8)
    picture[top : top + digit.shape[0], left : left + digit.shape[1], 0] = digit
    return picture


@dataclass(frozen=True)
class _Strokes:
    """level: uint8 `(h, w)`, the digit alone with grey edges; box: its x, y, width, height.

    pieces: int32 `(P, 5)`, box and area of each stroke; specks: how many others were left out.
    """

    level: npt.NDArray[np.uint8]
    box: tuple[int, int, int, int]
    pieces: Array
    specks: int


def _strokes(ink: Ink) -> _Strokes:
    """The digit's strokes, without specks and without what reaches in from the border."""
    for threshold in ink.thresholds:
        mask = (ink.amount > threshold).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        stats = stats[1:]
        sizes, areas = np.maximum(stats[:, 2], stats[:, 3]), stats[:, 4]
        on_edge = _touches(stats, mask.shape)
        main = int(np.argmax(sizes * np.sqrt(areas) * np.where(on_edge, 0.3, 1.0)))
        if not on_edge[main]:  # else the low threshold may have joined the digit to the paper's lines
            break
    keep = (sizes >= _PIECE * sizes[main]) & (~on_edge | on_edge[main])
    keep &= (sizes >= _WHOLE * sizes[main]) | (_gaps(stats, main) <= _FAR * sizes[main])
    digit = np.concatenate([[False], keep]).astype(np.uint8)[labels]
    level = np.clip(ink.amount / threshold - 0.5, 0, 1) * 255 * cv2.dilate(digit, np.ones((3, 3), np.uint8))
    box = tuple(int(v) for v in cv2.boundingRect(digit))
    return _Strokes(level.astype(np.uint8), box, stats[keep], int((~keep).sum()))  # type: ignore[arg-type]


def _check_single(pieces: Array, box: tuple[int, int, int, int]) -> None:
    """Raise BadInput where the pieces, whose boxes (x, y, width, height, area) these are, seem to be several digits."""
    boxes = [[int(v) for v in (x, y, x + w, y + h)] for x, y, w, h, _ in pieces]
    size = max(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes)
    wholes: list[list[int]] = []
    for part in sorted(boxes):  # from left to right; what touches or overlaps is one digit
        near = [
            known
            for known in wholes
            if max(known[0], part[0]) - min(known[2], part[2]) <= _GAP * size
            and max(known[1], part[1]) - min(known[3], part[3]) <= _ROW_GAP * size
        ]
        for known in near:
            part = [*map(min, part[:2], known[:2]), *map(max, part[2:], known[2:])]
            wholes.remove(known)
        wholes.append(part)
    tallest = int(pieces[:, 3].max())
    count = sum(y1 - y0 >= _WHOLE * tallest for _, y0, _, y1 in wholes)
    if count > _TEXTURE:
        raise BadInput(f"The picture holds {count} separate marks and no digit: photograph or draw one digit alone.")
    if count > 1:
        raise BadInput(f"The picture seems to hold {count} digits: crop it to one.")
    if box[2] > _WIDEST * box[3]:
        raise BadInput(
            f"What is drawn is {box[2] / box[3]:.1f} times as wide as high, wider than any digit: crop it to one digit."
        )


def _gaps(stats: Array, main: int) -> Array:
    """Pixels between the box of one piece and those of all."""
    x, y, right, bottom = stats[:, 0], stats[:, 1], stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3]
    across = np.maximum(x, x[main]) - np.minimum(right, right[main])
    down = np.maximum(y, y[main]) - np.minimum(bottom, bottom[main])
    return np.asarray(np.maximum(np.maximum(across, down), 0))


def _touches(stats: Array, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    x, y, width, height = stats[:, 0], stats[:, 1], stats[:, 2], stats[:, 3]
    return np.asarray((x == 0) | (y == 0) | (x + width == shape[1]) | (y + height == shape[0]))


def _normalised(level: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], bool]:
    """The digit scaled into 20x20, its strokes at least as wide as MNIST's thin ones; were they thickened."""
    fine = _full_range(_scaled(level, _FINE / max(level.shape)))
    grow = round(_THIN * _FINE - stroke_width(fine))
    if grow >= 1:
        pad = grow // 2 + 1
        room = cv2.copyMakeBorder(fine, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
        brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow + 1, grow + 1))
        fine = np.asarray(cv2.dilate(room, brush), np.uint8)
    fine = _cropped(fine)
    return _full_range(_scaled(fine, BOX / max(fine.shape))), grow >= 1


def _full_range(digit: Array) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.convertScaleAbs(digit, alpha=255 / max(1, int(digit.max()))), np.uint8)


def _scaled(digit: Array, factor: float) -> Array:
    size = (max(1, round(digit.shape[1] * factor)), max(1, round(digit.shape[0] * factor)))
    return cv2.resize(digit, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _cropped(digit: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    x, y, width, height = cv2.boundingRect((digit > 127).astype(np.uint8))
    return digit[y : y + height, x : x + width] if width else digit


def stroke_width(digit: npt.NDArray[np.uint8]) -> float:
    """Pixels: twice the median distance to the edge along the strokes' middle lines."""
    solid = cv2.copyMakeBorder((digit > 127).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)
    middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
    return 2 * float(median(middle)) if middle.size else 0.0
