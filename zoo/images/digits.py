"""A user's image of one digit → an image in MNIST's form, and the corrections in words.

MNIST's digits (Y. LeCun, C. Cortes, C. Burges: the MNIST database) are light on black, scaled into a 20x20 box with
their proportions kept, anti-aliased, and put into 28x28 so that their centre of mass is in the centre.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput, SeveralDigits
from zoo.images.geometry import Geometry
from zoo.images.ink import FADED, INK_MAP_SIDE, Ink, find_ink, without_bars
from zoo.images.levels import Array, median
from zoo.images.marks import are_empty_cells, extra_marks, outline_space, paper_lines
from zoo.images.writing import SOFT_EDGES, signs_against_writing

DOUBT = "doubtful: "  # begins a correction that makes the answer unsure, whatever its probability
NO_WRITING = f"{DOUBT}no writing, "  # begins one that makes it "none of the classes" too

SIDE, BOX = 28, 20  # pixels per side of MNIST's images, and of the box that a digit is scaled into
_CENTRE = 14.0  # pixel index of the centre of mass; in all 60,000 training images it is from 13.48 to 14.50
_MAX_OFF_CENTRE = 0.52  # pixels
_POSITIONS = np.arange(SIDE)
_WORK_SIZE = 80  # pixels of a digit's longest side during processing: four per pixel of the result

# Specks, strokes and digits. Sizes are those of the longer side of a bounding box.
_MIN_DIGIT = 0.02  # of the image's longer side: 10 pixels of 512; noise makes smaller spots
_MIN_BLOCKS = 8  # blocks per side of an enlarged image, of at least 3 pixels each
_MIN_STROKE = 0.12  # of the longest stroke: a shorter one that is no part of a broken one is a speck
_MAX_DISTANCE = 0.4  # of the longest stroke: one further away and shorter than `_SAME_HEIGHT` of it is dirt
_SAME_HEIGHT = 0.6  # of the tallest stroke: the digits of a number are about equally tall, the bar of a 5 is not
_MAX_GAP = 0.08  # of the longest stroke, sideways: digits 0.1 apart are refused, strokes of one digit are closer
_MAX_ROW_GAP = 0.25  # the same downwards, for the pieces of a broken stroke; rows of text are further apart
_MAX_ASPECT = 2.3  # width / height; the widest of the 60,000 training images has 2.22
_MAX_DIGITS = 12  # more are noise or squared paper, not a number
_MAX_STROKES = 48  # more are refused before they are grouped into digits, which takes quadratic time

_MAX_BREAK = 0.07  # of the digit's size: how wide the gaps of a dry pen are
_MIN_PART = 0.05  # of the longest stroke: a shorter piece of a broken one is a speck
_MIN_JOINED = 0.05  # of the digit's ink lies beyond such gaps: less is specks

# Amount of ink and stroke width.
_SOLID_QUANTILE = 0.6  # of the amounts of ink in the strokes: this one counts as solid; 0.5 to 0.9 read the same
_MIN_STROKE_WIDTH = 0.11  # of the digit's size; in 3,000 MNIST images the median is 0.125, the 5th percentile 0.09
_SOFT_EDGE = 0.06  # of the digit's size: how far the soft edges reach around its strokes
_MIN_FAINT = 0.05  # of the strokes' area: smaller faint ends are ignored
_MAX_FAINT_ELSEWHERE = 0.5  # of the area of faint ends: with more faint pixels elsewhere, they belong to the paper
_MAX_WIDER = 1.5  # width of faint ends / that of the digit's strokes: a lower threshold widens soft edges
_MIN_ELONGATION = 4.0  # length / width of faint ends in an image of two levels
_VISIBLE = 60  # of 255: from this value on, a soft edge belongs to the digit's box; 30 to 90 read the same

# When a result is doubtful.
_MAX_LEFT_OUT = 0.2  # of the ink; in 100 photographs and drawings with 4 to 24 specks each, at most 0.19
_NOISE_SIZE = 2  # pixels: specks up to this size count half
_MAX_STROKE_LENGTH = 5.0  # of the digit's size; of 1,500 MNIST images at most 3.4, of 800 printed digits 4.7
_MAX_HOLES = 3  # a digit encloses at most two, as do all of 1,500 MNIST images
_MIN_HOLE = 0.003  # of the box's area: smaller holes are gaps within a stroke
_MIN_HOLE_PIXELS = 8  # the same for small images, where noise makes holes
_MAX_STROKE_WIDTH = 0.5  # of the digit's size; of 800 printed digits, bold ones included, at most 0.33


def to_mnist(
    pixels: npt.NDArray[np.uint8], geometry: Geometry | None = None
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Bring an image of one digit into MNIST's form. An image that already has it is returned unchanged to the bit.

    Args:
        pixels: uint8 `(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied).
        geometry: a new one, which is set to where the result lies in the image.
    Returns:
        uint8 `(28, 28, 1)`, light on black, and the corrections that were made, in words and in order.
    Raises:
        BadInput: the image is blank.
        SeveralDigits: it seems to contain more than one digit.
    """
    exact = _in_mnist_form(pixels)
    if exact is not None:
        return exact
    corrections: list[str] = []
    geometry = geometry or Geometry()
    shrunk = _one_pixel_per_block(pixels)
    if shrunk is not None:
        geometry.resize(pixels, shrunk)
        pixels = shrunk
        corrections.append(f"reduced {pixels.shape[1]}x{pixels.shape[0]} blocks to one pixel each")
        exact = _in_mnist_form(pixels)
        if exact is not None:
            return exact[0], (*corrections, *exact[1])
    inner = without_bars(pixels, geometry)
    if inner is not None:
        pixels = inner
        corrections.append(f"removed bars around {pixels.shape[1]}x{pixels.shape[0]}")
    ink = find_ink(pixels)
    corrections += ink.corrections
    strokes = _strokes(ink)
    if max(strokes.box[2:]) < max(_MIN_DIGIT * max(ink.amount.shape), 3):
        raise BadInput(
            f"The image ({pixels.shape[1]}x{pixels.shape[0]}) seems blank, with only specks: "
            "draw a digit with more contrast, or crop closer to it."
        )
    specks, left_out = strokes.specks, strokes.left_out
    if ink.scale > 1 and max(strokes.box[2:]) < _WORK_SIZE:  # a small digit in a large image: use its full resolution
        ink = find_ink(_crop_around(pixels, ink, strokes.box, geometry))
        strokes = _strokes(ink)
        specks, left_out = max(specks, strokes.specks), max(left_out, strokes.left_out)
    left = strokes.count if strokes.is_lined else 0
    signs = signs_against_writing(
        ink.amount, strokes.digit, strokes.marks, strokes.box, strokes.solid, ink.blank, ink.uneven, left
    )
    if signs.nothing and signs.nothing != SOFT_EDGES:
        raise BadInput(
            f"The image ({pixels.shape[1]}x{pixels.shape[0]}) seems blank, with {signs.nothing}: "
            "draw a digit with more contrast, or crop closer to it."
        )
    if not signs.nothing:
        _check_single(strokes.pieces, strokes.box)
    x, y, width, height = strokes.box
    corrections += strokes.corrections
    if specks:
        corrections.append(f"removed {specks} speck{'s' if specks > 1 else ''}")
    if (height, width) != tuple(side - 2 * ink.margin for side in strokes.digit.shape):
        corrections.append(f"cropped to {width * ink.scale}x{height * ink.scale}")
    geometry.reduce(ink.scale)
    geometry.cut(-ink.margin, -ink.margin)
    digit, stroke = _normalised(ink.amount, strokes, geometry)
    if round((_MIN_STROKE_WIDTH - stroke) * _WORK_SIZE) >= 1:
        corrections.append("thickened thin strokes")
    corrections.append("centred")
    if not ink.sure:
        corrections.append(f"{DOUBT}ink and paper may be swapped")
    if signs.nothing:
        corrections.append(f"{NO_WRITING}{signs.nothing}")
    corrections += [DOUBT + doubt for doubt in signs.doubts]
    if left_out > _MAX_LEFT_OUT:
        corrections.append(f"{DOUBT}{left_out:.0%} of the ink was left out")
    if stroke > _MAX_STROKE_WIDTH or _is_tangled(strokes.digit[y : y + height, x : x + width], strokes.count):
        corrections.append(f"{DOUBT}the strokes do not look like a digit")
    return place(digit, geometry), tuple(corrections)


def found_ink(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    """Where `to_mnist` sees ink, as a picture of its first steps. It takes as long as `to_mnist`: 3 to 20 ms.

    Args:
        pixels: as for `to_mnist`.
    Returns:
        uint8 `(h, w)`: 0 for paper, 255 in the digit's strokes, 128 in ink that is left out, such as specks and lines
        of the paper. None for an image in MNIST's form, whose ink is not looked for.
    Raises:
        BadInput: the image is blank.
    """
    if _in_mnist_form(pixels) is not None:
        return None
    shrunk = _one_pixel_per_block(pixels)
    pixels = pixels if shrunk is None else shrunk
    inner = without_bars(pixels)
    ink = find_ink(pixels if inner is None else inner)
    strokes = _strokes(ink)
    picture = np.where(strokes.digit > 0, 255, np.where(strokes.excluded > 0, 128, 0)).astype(np.uint8)
    height, width = picture.shape
    return picture[ink.margin : height - ink.margin, ink.margin : width - ink.margin]


def _crop_around(pixels: Array, ink: Ink, box: tuple[int, int, int, int], geometry: Geometry) -> Array:
    """The part of the image around a digit.

    Args:
        box: x, y, width and height of the digit in the ink map.
    """
    x, y, width, height = box
    x, y, reach = x - ink.margin, y - ink.margin, max(width, height)
    rows = slice(max(0, y - reach) * ink.scale, max(1, y + height + reach) * ink.scale)
    columns = slice(max(0, x - reach) * ink.scale, max(1, x + width + reach) * ink.scale)
    geometry.cut(columns.start, rows.start)
    return pixels[rows, columns]


def _in_mnist_form(pixels: Array) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]] | None:
    """The image and its corrections where at most its colours must be inverted; else None."""
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


def _one_pixel_per_block(pixels: Array) -> Array | None:
    """One pixel of each block, for an image that was enlarged to blocks of equal pixels; None for other images.

    The original grey pixels carry more information than the edges of the blocks, and may be MNIST's own.
    """
    shape = height, width = pixels.shape[:2]
    if max(shape) > INK_MAP_SIDE or min(shape) < 3 * _MIN_BLOCKS:
        return None
    green = np.ascontiguousarray(pixels[:, :, pixels.shape[2] // 2])
    rows = np.flatnonzero((green[1:] != green[:-1]).any(axis=1)) + 1
    if not 3 <= len(rows) <= height // 3:
        return None
    columns = np.flatnonzero((green[:, 1:] != green[:, :-1]).any(axis=0)) + 1
    counts = np.arange(_MIN_BLOCKS, height // 3 + 1)
    across = np.rint(counts * (width / height)).astype(int)
    matches = np.flatnonzero(_are_block_edges(rows, height, counts) & _are_block_edges(columns, width, across))
    if not matches.size:
        return None
    sizes = zip(shape, (counts[matches[0]], across[matches[0]]), strict=True)
    return np.ascontiguousarray(pixels[np.ix_(*((2 * np.arange(n) + 1) * side // (2 * n) for side, n in sizes))])


def _are_block_edges(changes: Array, side: int, counts: Array) -> npt.NDArray[np.bool_]:
    """For each count of equal blocks along a side, whether all changes lie on edges between two blocks.

    Up to one pixel off, because programs round differently.
    """
    places = changes * (counts[:, None] / side)
    return np.asarray((np.abs(places - np.rint(places)) * side <= counts[:, None] * 1.001).all(axis=1))


def is_mnist_form(image: npt.NDArray[np.uint8]) -> bool:
    """Whether uint8 `(28, 28, 1)` has MNIST's form; all 60,000 training images do."""
    x, y, width, height = cv2.boundingRect(image)
    if max(width, height) not in (BOX - 1, BOX):  # 19 in 13 of the 60,000 images
        return False
    if cv2.minMaxLoc(image)[1] < 254:  # 254 in 5,999 of them
        return False
    top, left = _corner(image[y : y + height, x : x + width, 0])
    return abs(y - top) <= _MAX_OFF_CENTRE and abs(x - left) <= _MAX_OFF_CENTRE


def are_mnist_form(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """`is_mnist_form` of each of uint8 `(N, 28, 28, 1)`, N at least 1. All sums are exact, so the results are equal."""
    grey = images[:, :, :, 0]
    by_row, by_column = grey.sum(axis=2, dtype=np.int32), grey.sum(axis=1, dtype=np.int32)
    y, height = _extent(by_row > 0)
    x, width = _extent(by_column > 0)
    size = np.maximum(height, width)
    is_large_and_light: npt.NDArray[np.bool_] = ((size == BOX) | (size == BOX - 1)) & (
        grey.reshape(len(grey), -1).max(axis=1) >= 254
    )
    mass = np.maximum(by_row.sum(axis=1), 1)
    centre_y = (by_row @ _POSITIONS - y * mass) / mass  # within the digit's box, as `cv2.moments` of it
    centre_x = (by_column @ _POSITIONS - x * mass) / mass
    top = np.clip(_CENTRE - centre_y, 0, SIDE - height)
    left = np.clip(_CENTRE - centre_x, 0, SIDE - width)
    is_centred: npt.NDArray[np.bool_] = (np.abs(y - top) <= _MAX_OFF_CENTRE) & (np.abs(x - left) <= _MAX_OFF_CENTRE)
    return np.logical_and(is_large_and_light, is_centred)


def _extent(ink: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """First position and length of the true values in each row of bool `(N, 28)`."""
    first = ink.argmax(axis=1)
    return first, SIDE - ink[:, ::-1].argmax(axis=1) - first


def _corner(digit: Array) -> tuple[float, float]:
    """Row and column of the digit's top left corner that centre its mass in 28x28, as far as the digit fits."""
    moments = cv2.moments(digit)
    top = _CENTRE - moments["m01"] / moments["m00"]
    left = _CENTRE - moments["m10"] / moments["m00"]
    return min(max(top, 0), SIDE - digit.shape[0]), min(max(left, 0), SIDE - digit.shape[1])


def place(digit: Array, geometry: Geometry | None = None) -> npt.NDArray[np.uint8]:
    """The digit in a black image, uint8 `(28, 28, 1)`."""
    top, left = (round(edge) for edge in _corner(digit))
    if geometry is not None:
        geometry.cut(-left, -top)
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    image[top : top + digit.shape[0], left : left + digit.shape[1], 0] = digit
    return image


@dataclass(frozen=True)
class _Strokes:
    """The digit in an ink map.

    Attributes:
        digit: uint8 `(h, w)`, 1 in the digit's strokes.
        excluded: uint8 `(h, w)`, 1 in ink that was left out.
        box: x, y, width and height of the digit.
        pieces: int32 `(P, 5)`, box and area of each stroke; those that a dry pen broke are one.
        count: how many connected pieces the digit has.
        solid: amount of solid ink.
        specks: how many pieces of ink were left out.
        left_out: their share of the ink, 0 to 1.
        faded: whether the digit includes strokes fainter than the threshold.
        marks: uint8 `(h, w)`, 1 in marks that were removed, such as a ring; None for none.
        is_lined: whether lines of the paper were removed.
        space: uint8 `(h, w)`, 1 in the space inside outlined strokes, which counts as ink; None for other digits.
        corrections: in words: marks that were removed, and outlines that were filled.
    """

    digit: Array
    excluded: Array
    box: tuple[int, int, int, int]
    pieces: Array
    count: int
    solid: float
    specks: int
    left_out: float
    faded: bool
    marks: Array | None
    is_lined: bool
    space: Array | None
    corrections: tuple[str, ...]


def _strokes(ink: Ink) -> _Strokes:
    """The digit's strokes, without specks and without ink that reaches in from the border."""
    for threshold in ink.thresholds:
        mask = (ink.amount >= threshold).astype(np.uint8)
        labels, stats, on_edge = _pieces(mask)
        lines = paper_lines(mask, ink.blank) if _crosses(stats, mask.shape, ink.blank) else None
        if lines is not None:
            mask &= 1 - lines
            labels, stats, on_edge = _pieces(mask)
        if not len(stats) or are_empty_cells(mask, stats, main := _main(stats, on_edge)):
            raise BadInput(
                f"The image ({ink.amount.shape[1] * ink.scale}x{ink.amount.shape[0] * ink.scale}) seems blank, "
                "with only lines of the paper: draw a digit, or crop closer to it."
            )
        box = (*stats[main, :4].tolist(),)
        space = None if on_edge[main] else outline_space(mask, box)
        if space is not None:
            mask |= space
            labels, stats, on_edge = _pieces(mask)
        extra, corrections = extra_marks(labels, stats, ink.blank)
        if lines is not None:  # what is left of lines at the border
            cut = _touches(stats, mask.shape, ink.margin + 2)
            if (~cut & (np.maximum(stats[:, 2], stats[:, 3]) >= _MIN_STROKE * max(mask.shape))).any():
                extra |= cut
        main = _main(np.where(extra[:, None], 0, stats), on_edge)
        if not on_edge[main]:  # otherwise the low threshold may have joined the digit to lines on the paper
            break
    sizes, areas = np.maximum(stats[:, 2], stats[:, 3]), stats[:, 4]
    keep = (sizes >= _MIN_STROKE * sizes[main]) & (~on_edge | on_edge[main])
    keep &= (sizes >= _SAME_HEIGHT * sizes[main]) | (_gaps(stats, stats[main, :4]) <= _MAX_DISTANCE * sizes[main])
    keep &= ~extra
    digit = mask if keep.all() else np.concatenate([[False], keep]).astype(np.uint8)[labels]
    whole = _with_faint_ends(ink, digit) if space is None and lines is None and not extra.any() else None
    faded = whole is not None
    pieces = stats[keep]
    dry = None if faded else _joined(mask, labels, stats, keep, extra | on_edge)
    if dry is not None:
        keep, pieces = dry
        digit = np.concatenate([[False], keep]).astype(np.uint8)[labels]
    amounts = ink.amount[(digit if space is None else digit & (1 - space)) > 0]
    quantile = int(_SOLID_QUANTILE * amounts.size)
    solid = float(np.partition(amounts, quantile)[quantile])
    around = (_gaps(stats, cv2.boundingRect(digit)) <= sizes[main]) & ~on_edge & ~extra
    weights = np.where(sizes <= _NOISE_SIZE, 0.5, 1.0) * areas
    left_out = float(weights[~keep & around].sum() / weights[keep | around].sum())
    digit = digit if whole is None else whole
    x, y, width, height = cv2.boundingRect(digit)
    excluded = mask & (1 - digit)
    if lines is not None:
        excluded |= lines & (1 - digit)
        corrections = (*corrections, "removed lines of the paper")
    specks = int(np.count_nonzero(~keep & ~extra))
    if space is not None:
        corrections = (*corrections, "filled an outline")
    box = (x, y, width, height)
    marks = np.concatenate([[False], extra]).astype(np.uint8)[labels] if extra.any() else None
    count = int(keep.sum())
    return _Strokes(
        digit,
        excluded,
        box,
        pieces,
        count,
        solid,
        specks,
        left_out,
        faded,
        marks,
        lines is not None,
        space,
        corrections,
    )


def _joined(
    mask: Array, labels: Array, stats: Array, keep: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], Array] | None:
    """The strokes of a digit with those that a dry pen left beyond narrow gaps, and their boxes and areas.

    Pieces across a narrow gap from each other are one stroke, if what was left out so far is too much to be specks.

    Args:
        keep: bool `(P,)`, the pieces that are strokes whatever the gaps.
        other: bool `(P,)`, pieces that are none.
    Returns:
        bool `(P,)`, and int32 `(S, 5)`, box and area of each stroke; None where the pen was not dry.
    """
    sizes = np.maximum(stats[:, 2], stats[:, 3])
    possible = keep | ~other & (sizes >= _MIN_PART * sizes[keep].max())
    least = (1 + _MIN_JOINED) * stats[keep, 4].sum()
    if stats[possible, 4].sum() < least or np.count_nonzero(keep) > _MAX_STROKES:
        return None
    ink = mask if possible.all() else np.concatenate([[False], possible]).astype(np.uint8)[labels]
    whole, reach, before = keep, _half_gap(stats[keep]), 0
    while reach > before:  # a digit of which more is found has wider gaps
        _, groups = cv2.connectedComponents(cv2.dilate(ink, np.ones((2 * reach + 1,) * 2, np.uint8)))
        numbers = np.zeros(len(stats) + 1, np.int32)
        numbers[labels] = groups  # of each piece, the group that its pixels are in
        group = numbers[1:]
        whole = possible & np.isin(group, group[keep])
        reach, before = _half_gap(stats[whole]), reach
    if stats[whole, 4].sum() < least:
        return None
    strokes = [stats[whole & (group == number)] for number in np.unique(group[whole])]
    return whole, np.array([(*_union(parts), parts[:, 4].sum()) for parts in strokes], np.int32)


def _half_gap(stats: Array) -> int:
    return round(_MAX_BREAK / 2 * max(_union(stats)[2:]))


def _union(stats: Array) -> tuple[int, int, int, int]:
    """x, y, width and height of the box around all pieces."""
    x, y = stats[:, :2].min(axis=0).tolist()
    right, bottom = (stats[:, :2] + stats[:, 2:4]).max(axis=0).tolist()
    return x, y, right - x, bottom - y


def _pieces(mask: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Labels of a mask's connected pieces, their boxes and areas, and whether each touches the border."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return labels, stats[1:], _touches(stats[1:], mask.shape)


def _crosses(stats: Array, shape: tuple[int, ...], blank: Sequence[int]) -> bool:
    """Whether a piece reaches from border to border."""
    top, bottom, left, right = blank
    x, y, x1, y1 = stats[:, 0], stats[:, 1], stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3]
    wide = (x <= left + 2) & (x1 >= shape[1] - right - 2)
    return bool((wide | (y <= top + 2) & (y1 >= shape[0] - bottom - 2)).any())


def _main(stats: Array, unlikely: npt.NDArray[np.bool_]) -> int:
    """The piece that is most likely the digit, or its longest stroke."""
    sizes = np.maximum(stats[:, 2], stats[:, 3])
    return int(np.argmax(sizes * np.sqrt(stats[:, 4]) * np.where(unlikely, 0.3, 1.0)))


def _with_faint_ends(ink: Ink, digit: Array) -> Array | None:
    """The digit with the fainter ends of its strokes, where a pen ran dry (hysteresis); None where there are none."""
    mask = (ink.amount > ink.faintest).astype(np.uint8)
    brush = 2 * round(_SOFT_EDGE * max(cv2.boundingRect(digit)[2:])) + 3
    beyond = cv2.dilate(digit, np.ones((brush, brush), np.uint8)) == 0  # outside the soft edges of its strokes
    least = _MIN_FAINT * cv2.countNonZero(digit)
    if np.count_nonzero(mask[beyond]) < least:
        return None
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    joined = np.zeros(len(stats), np.uint8)
    joined[labels[digit > 0]] = 1
    joined[0] = 0
    whole = np.asarray(joined[labels] | digit)
    ends = np.count_nonzero(whole[beyond])
    elsewhere = cv2.countNonZero(mask) - cv2.countNonZero(whole)  # lines of the paper, shadows, noise
    if ends < least or elsewhere > _MAX_FAINT_ELSEWHERE * ends or _touches(stats[joined > 0], mask.shape).any():
        return None
    added = np.where(beyond, whole, np.uint8(0))
    width = 2 * float(_depth(added).max())
    elongation = np.count_nonzero(added) / width**2
    if width > _MAX_WIDER * 2 * _depth(digit).max() or (ink.margin and elongation < _MIN_ELONGATION):
        return None  # remains of uneven light in an image of two levels: wider and shorter than strokes
    return whole


def _depth(mask: Array) -> npt.NDArray[np.float32]:
    """Distance in pixels from each pixel of a mask to the mask's edge; the border of the image is an edge too.

    The result has one row and one column more than the mask on each side.
    """
    solid = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, 3), np.float32)


def _is_tangled(digit: Array, pieces: int) -> bool:
    """Whether the strokes, uint8 `(h, w)`, are longer, or enclose more holes, than those of any digit.

    Their length is half their outline. The outline is counted in steps along rows and columns, which on average are
    4 / π as long as the outline itself.
    """
    height, width = digit.shape
    solid: Array = cv2.copyMakeBorder(digit, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    across, down = solid[:, 1:] != solid[:, :-1], solid[1:] != solid[:-1]
    if (np.count_nonzero(across) + np.count_nonzero(down)) * np.pi / 8 > _MAX_STROKE_LENGTH * max(height, width):
        return True
    # Euler's number from all squares of four pixels (S. Gray: Local properties of binary images, 1971). It also counts
    # tiny holes; it is fast, and in most cases decides.
    four = solid[1:, 1:] + solid[1:, :-1] + solid[:-1, 1:] + solid[:-1, :-1]
    crossed = (four == 2) & across[1:] & down[:, 1:]
    euler = (np.count_nonzero(four == 1) - np.count_nonzero(four == 3) - 2 * np.count_nonzero(crossed)) // 4
    if pieces - euler <= _MAX_HOLES:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(1 - solid, connectivity=4)
    not_holes = 2  # the strokes themselves, and the area around the digit
    return int((stats[:, 4] >= max(_MIN_HOLE * height * width, _MIN_HOLE_PIXELS)).sum()) - not_holes > _MAX_HOLES


def _check_single(pieces: Array, box: tuple[int, int, int, int]) -> None:
    """Raise SeveralDigits where the strokes seem to be several digits.

    Args:
        pieces: x, y, width, height and area of each stroke.
        box: x, y, width and height of all.
    """
    if len(pieces) > _MAX_STROKES:
        raise SeveralDigits(f"The image has {len(pieces)} separate marks, not a single digit: crop it to one digit.")
    boxes = [[int(v) for v in (x, y, x + w, y + h)] for x, y, w, h, _ in pieces]
    size = max(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes)
    digits: list[list[int]] = []
    for part in sorted(boxes):  # from left to right; strokes that touch or overlap are one digit
        near = [
            digit
            for digit in digits
            if max(digit[0], part[0]) - min(digit[2], part[2]) <= _MAX_GAP * size
            and max(digit[1], part[1]) - min(digit[3], part[3]) <= _MAX_ROW_GAP * size
        ]
        for digit in near:
            part = [*map(min, part[:2], digit[:2]), *map(max, part[2:], digit[2:])]
            digits.remove(digit)
        digits.append(part)
    tallest = int(pieces[:, 3].max())
    count = sum(y1 - y0 >= _SAME_HEIGHT * tallest for _, y0, _, y1 in digits)
    if count > _MAX_DIGITS:
        raise SeveralDigits(f"The image has {count} separate marks, not a single digit: crop it to one digit.")
    if count > 1:
        raise SeveralDigits(f"The image seems to contain {count} digits: crop it to one digit.")
    if box[2] > _MAX_ASPECT * box[3]:
        raise SeveralDigits(
            f"The drawing is {box[2] / box[3]:.1f} times as wide as it is high, wider than any digit: "
            "crop it to one digit."
        )


def _gaps(stats: Array, box: Sequence[int] | Array) -> Array:
    """Pixels between a box (x, y, width, height) and the box of each piece."""
    x, y, width, height = box
    across = np.maximum(stats[:, 0] - (x + width), x - (stats[:, 0] + stats[:, 2]))
    down = np.maximum(stats[:, 1] - (y + height), y - (stats[:, 1] + stats[:, 3]))
    return np.asarray(np.maximum(np.maximum(across, down), 0))


def _touches(stats: Array, shape: tuple[int, ...], margin: int = 0) -> npt.NDArray[np.bool_]:
    """For each piece, whether it reaches into the margin or touches the border."""
    left, top = stats[:, 0], stats[:, 1]
    right, bottom = shape[1] - left - stats[:, 2], shape[0] - top - stats[:, 3]
    return np.asarray(np.minimum(np.minimum(left, top), np.minimum(right, bottom)) <= margin)


def _normalised(amount: Array, strokes: _Strokes, geometry: Geometry) -> tuple[npt.NDArray[np.uint8], float]:
    """The digit scaled into 20x20, and the width of its original strokes as a share of its size.

    Grey levels are kept, as in MNIST, because they carry the shape of a digit that has few pixels. Strokes become at
    least as wide as MNIST's thin ones.
    """
    x, y, width, height = strokes.box
    reach = round(_SOFT_EDGE * max(width, height)) + 1
    crop = slice(max(0, y - reach), y + height + reach), slice(max(0, x - reach), x + width + reach)
    ink = np.clip(amount[crop] / np.float32(strokes.solid), 0, 1)
    if strokes.space is not None:
        ink = np.maximum(ink, strokes.space[crop])
    geometry.cut(crop[1].start, crop[0].start)
    grey = np.where(strokes.excluded[crop] > 0, np.float32(0), ink)
    grey = np.clip(_scaled(grey, _WORK_SIZE / max(width, height), geometry), 0, 1)
    if strokes.faded:  # brighten faint ends to the level of what surrounds them
        window = np.ones((round(2 * _MIN_STROKE_WIDTH * _WORK_SIZE) + 1,) * 2, np.uint8)
        solid = cv2.blur(cv2.dilate(grey, window), window.shape)
        grey = np.minimum(grey / np.maximum(solid, FADED), 1)
    near = cv2.resize(strokes.digit[crop] * 255, grey.shape[::-1], interpolation=cv2.INTER_AREA)
    near = cv2.dilate((near > 0).astype(np.uint8), np.ones((2 * round(_SOFT_EDGE * _WORK_SIZE) + 1,) * 2, np.uint8))
    digit = _full_range(np.asarray(grey * 255 * near, np.uint8))
    stroke = stroke_width(digit)
    growth = round(_MIN_STROKE_WIDTH * _WORK_SIZE - stroke)
    if growth >= 1:
        pad = growth // 2 + 1
        padded = cv2.copyMakeBorder(digit, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
        brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (growth + 1, growth + 1))
        digit = np.asarray(cv2.dilate(padded, brush), np.uint8)
        geometry.cut(-pad, -pad)
    digit = _cropped(digit, geometry)
    return _full_range(_scaled(digit, BOX / max(digit.shape), geometry)), stroke / _WORK_SIZE


def _full_range(digit: Array) -> npt.NDArray[np.uint8]:
    """Scaled so that its largest value is 255."""
    return np.asarray(cv2.convertScaleAbs(digit, alpha=255 / max(1, int(digit.max()))), np.uint8)


def _scaled(digit: Array, factor: float, geometry: Geometry) -> Array:
    size = (max(1, round(digit.shape[1] * factor)), max(1, round(digit.shape[0] * factor)))
    scaled: Array = cv2.resize(digit, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    geometry.resize(digit, scaled)
    return scaled


def _cropped(digit: npt.NDArray[np.uint8], geometry: Geometry) -> npt.NDArray[np.uint8]:
    x, y, width, height = cv2.boundingRect((digit > _VISIBLE).astype(np.uint8))
    geometry.cut(x, y)
    return digit[y : y + height, x : x + width] if width else digit


def stroke_width(digit: npt.NDArray[np.uint8]) -> float:
    """In pixels: twice the median distance to the edge along the middle lines of the strokes."""
    depth = _depth((digit > 127).astype(np.uint8))
    middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
    return 2 * float(median(middle)) if middle.size else 0.0
