"""A person's picture of one digit → a picture as MNIST has them, and in words what was done for it.

MNIST's digits (Y. LeCun, C. Cortes, C. Burges: the MNIST database) are light on black, scaled into a 20x20 box with
their proportions kept, anti-aliased, and put into 28x28 so that their centre of mass is in the centre.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput
from zoo.images.ink import FADED, LONGEST, Ink, find_ink
from zoo.images.levels import Array, median

DOUBT = "doubtful: "  # begins a correction that makes the answer unsure, whatever its probability

SIDE, BOX = 28, 20  # MNIST's picture and the box a digit is scaled into
_CENTRE = 14.0  # where MNIST's centres of mass are, in pixel indices: all 60,000 from 13.48 to 14.50
_OFF_CENTRE = 0.52
_FINE = 80  # pixels a digit's longest side has while it is worked on: four a pixel of the result
_TINIEST = 0.02  # of the picture's longer side: 10 pixels of 512; noise makes smaller spots
_FEWEST = 8  # blocks a side, of at least 3 pixels each
_PIECE = 0.12  # of the longest piece of stroke: what is shorter is a speck
_FAR = 0.4  # of the longest piece: what is this far away and shorter than `_WHOLE` of it is dirt
_WHOLE = 0.6  # of the tallest: in a number all digits are about as tall, the bar of a 5 is not
_GAP = 0.08  # of the longest piece, sideways: digits 0.1 apart are refused, strokes of one are closer
_ROW_GAP = 0.25  # the same downwards, where the pieces of a broken stroke lie, and rows are further apart
_WIDEST = 2.3  # width / height; the widest of the 60,000 training images has 2.22
_TEXTURE = 12  # digits: more are noise or squared paper, not a number
_MOST = 48  # pieces of stroke: more are refused before they are put together, which takes their square
_FULL = 0.6  # of the strokes' pixels have less ink than what counts as solid; 0.5 to 0.9 read the same
_THIN = 0.11  # stroke width / digit size; of 3,000 MNIST images the median is 0.125, the 5th percentile 0.09
_NEAR = 0.06  # of the digit's size: how far around its strokes their soft edges reach
_FAINT = 0.05  # of the strokes' area: how much must be fainter than them and hang on them to be followed
_CLEAN = 0.5  # of that: how much may be as faint elsewhere, or it is the paper's
_STROKE = 4.0  # length / width of what is followed in a picture of two levels
_VISIBLE = 60  # of 255: from where on a soft edge belongs to the digit's box; 30 to 90 read the same
_LEFT_OUT = 0.2  # of the ink; 100 photographs and drawings with 4 to 24 specks each have at most 0.19
_DUST = 2  # pixels: noise, which counts half
_LENGTH = 5.0  # strokes' length / digit size: of 1,500 MNIST images at most 3.4, of 800 printed digits 4.7
_HOLES = 3  # enclosed places; a digit has at most two, and so have all of 1,500 MNIST images
_HOLE = 0.003  # of the box: smaller ones are gaps within a stroke
_PIXELS = 8  # the same in a small picture, where noise makes holes
_SOLID = 0.5  # stroke width / digit size: of 800 printed digits, bold ones too, at most 0.33


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
    notes: list[str] = []
    blocks = _blocks(pixels)
    if blocks is not None:
        pixels = blocks
        notes.append(f"took {pixels.shape[1]}x{pixels.shape[0]} blocks for pixels")
        exact = _as_it_is(pixels)
        if exact is not None:
            return exact[0], (*notes, *exact[1])
    ink = find_ink(pixels)
    notes += ink.notes
    strokes = _strokes(ink)
    if max(strokes.box[2:]) < max(_TINIEST * max(ink.amount.shape), 3):
        raise BadInput(
            f"The picture ({pixels.shape[1]}x{pixels.shape[0]}) holds specks and no digit: it seems blank. "
            "Draw a digit with more contrast, or crop closer to it."
        )
    specks, left_out = strokes.specks, strokes.left_out
    if ink.scale > 1 and max(strokes.box[2:]) < _FINE:
        ink = find_ink(_closer(pixels, ink, strokes.box))
        strokes = _strokes(ink)
        specks, left_out = max(specks, strokes.specks), max(left_out, strokes.left_out)
    _check_single(strokes.pieces, strokes.box)
    x, y, width, height = strokes.box
    if specks:
        notes.append(f"removed {specks} speck{'s' if specks > 1 else ''}")
    if (height, width) != tuple(side - 2 * ink.margin for side in strokes.digit.shape):
        notes.append(f"cropped to {width * ink.scale}x{height * ink.scale}")
    digit, stroke = _normalised(ink.amount, strokes)
    if round((_THIN - stroke) * _FINE) >= 1:
        notes.append("thickened thin strokes")
    notes.append("centred")
    if not ink.sure:
        notes.append(f"{DOUBT}ink and paper may be taken for each other")
    if left_out > _LEFT_OUT:
        notes.append(f"{DOUBT}{left_out:.0%} of the ink was left out")
    if stroke > _SOLID or _is_tangled(strokes.digit[y : y + height, x : x + width], len(strokes.pieces)):
        notes.append(f"{DOUBT}its lines are not those of a digit")
    return _placed(digit), tuple(notes)


def _closer(pixels: Array, ink: Ink, box: tuple[int, int, int, int]) -> Array:
    """What surrounds a small digit in a large picture; box: of the digit in the map."""
    x, y, width, height = box
    x, y, reach = x - ink.margin, y - ink.margin, max(width, height)
    rows = slice(max(0, y - reach) * ink.scale, max(1, y + height + reach) * ink.scale)
    columns = slice(max(0, x - reach) * ink.scale, max(1, x + width + reach) * ink.scale)
    return pixels[rows, columns]


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


def _blocks(pixels: Array) -> Array | None:
    """One pixel of each block, where a picture was enlarged to blocks of equal pixels; None for other pictures.

    Its few grey pixels say more than the blocks' edges, and may be MNIST's.
    """
    shape = height, width = pixels.shape[:2]
    if max(shape) > LONGEST or min(shape) < 3 * _FEWEST:
        return None
    green = np.ascontiguousarray(pixels[:, :, pixels.shape[2] // 2])
    rows = np.flatnonzero((green[1:] != green[:-1]).any(axis=1)) + 1
    if not 3 <= len(rows) <= height // 3:
        return None
    columns = np.flatnonzero((green[:, 1:] != green[:, :-1]).any(axis=0)) + 1
    counts = np.arange(_FEWEST, height // 3 + 1)
    across = np.rint(counts * (width / height)).astype(int)
    found = np.flatnonzero(_meet(rows, height, counts) & _meet(columns, width, across))
    if not found.size:
        return None
    sizes = zip(shape, (counts[found[0]], across[found[0]]), strict=True)
    return np.ascontiguousarray(pixels[np.ix_(*((2 * np.arange(n) + 1) * side // (2 * n) for side, n in sizes))])


def _meet(changes: Array, side: int, counts: Array) -> npt.NDArray[np.bool_]:
    """For each count, whether all changes are where so many equal blocks of a side meet, to the pixel.

    Programs round differently.
    """
    places = changes * (counts[:, None] / side)
    return np.asarray((np.abs(places - np.rint(places)) * side <= counts[:, None] * 1.001).all(axis=1))


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
    """digit, other: uint8 `(h, w)`, 1 where the digit's strokes are, and where ink is that was left out.

    box: x, y, width, height of the digit. pieces: int32 `(P, 5)`, box and area of each stroke. full: amount of solid
    ink. specks: how many pieces were left out. left_out: their share of the ink, 0 to 1. faded: do strokes go on where
    they are fainter than the threshold.
    """

    digit: Array
    other: Array
    box: tuple[int, int, int, int]
    pieces: Array
    full: float
    specks: int
    left_out: float
    faded: bool


def _strokes(ink: Ink) -> _Strokes:
    """The digit's strokes, without specks and without what reaches in from the border."""
    for threshold in ink.thresholds:
        mask = (ink.amount >= threshold).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        stats = stats[1:]
        sizes, areas = np.maximum(stats[:, 2], stats[:, 3]), stats[:, 4]
        on_edge = _touches(stats, mask.shape)
        main = int(np.argmax(sizes * np.sqrt(areas) * np.where(on_edge, 0.3, 1.0)))
        if not on_edge[main]:  # else the low threshold may have joined the digit to the paper's lines
            break
    keep = (sizes >= _PIECE * sizes[main]) & (~on_edge | on_edge[main])
    keep &= (sizes >= _WHOLE * sizes[main]) | (_gaps(stats, stats[main, :4]) <= _FAR * sizes[main])
    digit = mask if keep.all() else np.concatenate([[False], keep]).astype(np.uint8)[labels]
    amounts = ink.amount[digit > 0]
    full = float(np.partition(amounts, int(_FULL * amounts.size))[int(_FULL * amounts.size)])
    around = (_gaps(stats, cv2.boundingRect(digit)) <= sizes[main]) & ~on_edge
    weights = np.where(sizes <= _DUST, 0.5, 1.0) * areas
    left_out = float(weights[~keep & around].sum() / weights[keep | around].sum())
    whole = _with_faint_ends(ink, digit)
    faded = whole is not None
    digit = digit if whole is None else whole
    x, y, width, height = cv2.boundingRect(digit)
    other = mask & (1 - digit)
    return _Strokes(digit, other, (x, y, width, height), stats[keep], full, int((~keep).sum()), left_out, faded)


def _with_faint_ends(ink: Ink, digit: Array) -> Array | None:
    """The digit with what is fainter and hangs on its strokes (hysteresis), where a pen ran dry; else None."""
    mask = (ink.amount > ink.faintest).astype(np.uint8)
    brush = 2 * round(_NEAR * max(cv2.boundingRect(digit)[2:])) + 3
    beyond = cv2.dilate(digit, np.ones((brush, brush), np.uint8)) == 0  # the soft edges of its strokes
    least = _FAINT * cv2.countNonZero(digit)
    if np.count_nonzero(mask[beyond]) < least:
        return None
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    joined = np.zeros(len(stats), np.uint8)
    joined[labels[digit > 0]] = 1
    joined[0] = 0
    whole = np.asarray(joined[labels] | digit)
    ends = np.count_nonzero(whole[beyond])
    elsewhere = cv2.countNonZero(mask) - cv2.countNonZero(whole)  # lines of the paper, shadows, noise
    if ends < least or elsewhere > _CLEAN * ends or _touches(stats[joined > 0], mask.shape).any():
        return None
    added = np.where(beyond, whole, np.uint8(0))
    width = 2 * float(_depth(added).max())
    longest = np.count_nonzero(added) / width**2
    if width > 2 * _depth(digit).max() or (ink.margin and longest < _STROKE):
        return None  # what two levels leave of uneven light is wider and shorter than strokes
    return whole


def _depth(mask: Array) -> npt.NDArray[np.float32]:
    """Pixels from each one of a mask to its edge, where the border is an edge; one row and column more on each side."""
    solid = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, 3), np.float32)


def _is_tangled(digit: Array, pieces: int) -> bool:
    """Whether the strokes, uint8 `(h, w)`, are longer, or enclose more places, than those of any digit.

    Their length is half their outline, whose steps along rows and columns are 4 / π as long as itself on average.
    """
    height, width = digit.shape
    solid: Array = cv2.copyMakeBorder(digit, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    across, down = solid[:, 1:] != solid[:, :-1], solid[1:] != solid[:-1]
    if (np.count_nonzero(across) + np.count_nonzero(down)) * np.pi / 8 > _LENGTH * max(height, width):
        return True
    # Euler's number from all squares of four pixels (S. Gray: Local properties of binary images, 1971): it counts the
    # tiny holes too, which is quick and mostly enough.
    four = solid[1:, 1:] + solid[1:, :-1] + solid[:-1, 1:] + solid[:-1, :-1]
    crossed = (four == 2) & across[1:] & down[:, 1:]
    euler = (np.count_nonzero(four == 1) - np.count_nonzero(four == 3) - 2 * np.count_nonzero(crossed)) // 4
    if pieces - euler <= _HOLES:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(1 - solid, connectivity=4)
    outside = 2  # the rest of the mask, and what surrounds the digit
    return int((stats[:, 4] >= max(_HOLE * height * width, _PIXELS)).sum()) - outside > _HOLES


def _check_single(pieces: Array, box: tuple[int, int, int, int]) -> None:
    """Raise BadInput where the pieces, whose boxes (x, y, width, height, area) these are, seem to be several digits."""
    if len(pieces) > _MOST:
        raise BadInput(f"The picture holds {len(pieces)} separate marks and no single digit: crop it to one digit.")
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
        raise BadInput(f"The picture holds {count} separate marks and no single digit: crop it to one digit.")
    if count > 1:
        raise BadInput(f"The picture seems to hold {count} digits: crop it to one.")
    if box[2] > _WIDEST * box[3]:
        raise BadInput(
            f"What is drawn is {box[2] / box[3]:.1f} times as wide as high, wider than any digit: crop it to one digit."
        )


def _gaps(stats: Array, box: Sequence[int] | Array) -> Array:
    """Pixels between a box, x, y, width, height, and those of all pieces."""
    x, y, width, height = box
    across = np.maximum(stats[:, 0] - (x + width), x - (stats[:, 0] + stats[:, 2]))
    down = np.maximum(stats[:, 1] - (y + height), y - (stats[:, 1] + stats[:, 3]))
    return np.asarray(np.maximum(np.maximum(across, down), 0))


def _touches(stats: Array, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    x, y, width, height = stats[:, 0], stats[:, 1], stats[:, 2], stats[:, 3]
    return np.asarray((x == 0) | (y == 0) | (x + width == shape[1]) | (y + height == shape[0]))


def _normalised(amount: Array, strokes: _Strokes) -> tuple[npt.NDArray[np.uint8], float]:
    """The digit scaled into 20x20, and how wide its strokes were before, of its size.

    Grey levels stay, as MNIST's do: they carry the shape of a digit that has few pixels. Strokes become at least as
    wide as MNIST's thin ones.
    """
    x, y, width, height = strokes.box
    reach = round(_NEAR * max(width, height)) + 1
    crop = slice(max(0, y - reach), y + height + reach), slice(max(0, x - reach), x + width + reach)
    grey = np.where(strokes.other[crop] > 0, np.float32(0), np.clip(amount[crop] / np.float32(strokes.full), 0, 1))
    grey = np.clip(_scaled(grey, _FINE / max(width, height)), 0, 1)
    if strokes.faded:
        window = np.ones((round(2 * _THIN * _FINE) + 1,) * 2, np.uint8)
        solid = cv2.blur(cv2.dilate(grey, window), window.shape)
        grey = np.minimum(grey / np.maximum(solid, FADED), 1)
    near = cv2.resize(strokes.digit[crop] * 255, grey.shape[::-1], interpolation=cv2.INTER_AREA)
    near = cv2.dilate((near > 0).astype(np.uint8), np.ones((2 * round(_NEAR * _FINE) + 1,) * 2, np.uint8))
    fine = _full_range(np.asarray(grey * 255 * near, np.uint8))
    stroke = stroke_width(fine)
    grow = round(_THIN * _FINE - stroke)
    if grow >= 1:
        pad = grow // 2 + 1
        room = cv2.copyMakeBorder(fine, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
        brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow + 1, grow + 1))
        fine = np.asarray(cv2.dilate(room, brush), np.uint8)
    fine = _cropped(fine)
    return _full_range(_scaled(fine, BOX / max(fine.shape))), stroke / _FINE


def _full_range(digit: Array) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.convertScaleAbs(digit, alpha=255 / max(1, int(digit.max()))), np.uint8)


def _scaled(digit: Array, factor: float) -> Array:
    size = (max(1, round(digit.shape[1] * factor)), max(1, round(digit.shape[0] * factor)))
    return cv2.resize(digit, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _cropped(digit: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    x, y, width, height = cv2.boundingRect((digit > _VISIBLE).astype(np.uint8))
    return digit[y : y + height, x : x + width] if width else digit


def stroke_width(digit: npt.NDArray[np.uint8]) -> float:
    """Pixels: twice the median distance to the edge along the strokes' middle lines."""
    depth = _depth((digit > 127).astype(np.uint8))
    middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
    return 2 * float(median(middle)) if middle.size else 0.0
