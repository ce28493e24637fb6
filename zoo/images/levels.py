"""For an image of two levels under smooth light, whose ink may touch the frame: which of the two levels is the ink?

Where ink touches the frame, neither the border nor the rarer level shows what the paper is. So the image is first
split into two levels, without preferring either. Then the shape of both decides: ink is one piece of strokes of even
width, and paper covers the border and the corners.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from zoo.dataclass import dataclass

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

SMALL = 96  # pixels per side of the reduced image: light changes slowly, and thin strokes are still visible
_LOG_OFFSET = 32.0  # grey levels added before the logarithm, which makes light additive; keeps noise in black small
_LOG_SPAN = float(np.log((255 + _LOG_OFFSET) / _LOG_OFFSET))
LOG_LIGHT = (np.log((np.arange(256) + _LOG_OFFSET) / _LOG_OFFSET) / _LOG_SPAN).astype(np.float32)  # grey level → 0 to 1

WIDEST_STROKE = 0.45  # of the shorter side: anything wider is paper, table or shadow
_GREY_AXIS = 0.5  # sum of an axis that light changes; in a smaller one, such as red against green, light cancels out
_MAX_ROUNDS = 10  # of fitting levels and light in turn; three to five are usual
_RIDGE = np.array([3e-4, 3e-4, 3e-4, 1e-6, 1e-6], np.float32)  # keeps light from bending within narrow images
_UNEXPLAINED = 0.6  # of the variance that two plain levels leave: uneven light must leave less

# Whether the image has two levels and nothing else. The bounds lie between the values of 3,400 tight digits (MNIST's
# training images, printed and drawn digits, and scikit-learn's) and those of 1,000 shadows, sheets on tables and blank
# sheets.
_MIN_EXPLAINED = 0.72  # of the variance after light; two levels explain 2 / π of normal noise, 0.75 of most digits
_MIN_EXPLAINED_MARGIN = 0.8  # the same where the ink does not touch the frame
_MIN_THICK_MARGIN = 0.2  # of the shorter side: thinner ink with a margin is found without knowing the levels
_MIN_CLEAR = 1.5  # score, plus its lead over the other level, minus twice the width; 0.5 % of the digits have less
_MIN_SURE = 1.8  # the same: a result with less is doubtful
_NARROW = 0.35  # width / height of an image of a one and nothing else, in which either level may look like strokes
_ONE_CONTACT = 0.25  # of the border: a digit that covers more touches it in several places, a shadow in one
_MAX_ASPECT = 2.5  # width / height of the ink; a digit has at most 2.3
_MAX_CLOUDED = 0.2  # of the contrast: how much half of the paper may differ from its purer half

# A third level lies beyond paper or beyond ink: how far, as a share of the contrast, and how long its pieces are, as a
# share of the longer side. Ink that covers few pixels varies more than paper.
_BEYOND_PAPER, _BEYOND_INK = (0.3, 0.1), (0.4, 0.22)
_FAINTER_LEVEL = 0.25  # of the contrast: pixels that differ from a level by more may be a fainter level
_MIN_INNER = 0.15  # of the longer side: a longer piece that touches neither the border nor the other ink is a digit
_MIN_INNER_DOT = 0.3  # the same inside the other ink, where it may be the dot or bar of a zero
_MAX_HOLES = 4  # squared paper has more
_MIN_HOLE = 0.05  # of the longer side: shorter holes are not counted

# A sheet of paper that looks like ink, with a digit that looks like its hole: the sheet's width (share of the longer
# side) and the hole's length (area / width²).
_SHEETS = ((0.25, 6.4), (0.33, 3.2))
_MIN_RECTANGLE = 0.895  # of the smallest rectangle around the ink and its holes: a sheet; printed zeros fill 0.85
_MIN_RECTANGLE_HOLE = 1.6  # length of the hole in such a sheet


@dataclass(frozen=True)
class Levels:
    """The ink of an image of two levels.

    Attributes:
        amount: float32 `(H, W)`, 0 for paper, `contrast` for ink.
        contrast: between ink and paper, as a share of full scale, 0 to 1.
        dark: whether the ink is the darker level.
        sure: whether its shape is clearly that of ink, and the other level's shape is not.
    """

    amount: npt.NDArray[np.float32]
    contrast: float
    dark: bool
    sure: bool


def two_levels(channels: Array, small: Array, axis: Array) -> Levels | None:
    """The ink of an image whose ink may touch the frame.

    Args:
        channels: uint8 `(H, W, 1 or 3)`.
        small: `reduced(channels, SMALL)`.
        axis: the `main_axis` of `small`.
    Returns:
        None where two levels and smooth light do not explain the image: shadows, the edge of a table, thin lines.
    """
    split = _split(small, axis)
    if split is None:
        return None
    light, dark = _Shape.of(split.upper), _Shape.of(~split.upper)
    ink, shape = (split.upper, light) if light.score > dark.score else (~split.upper, dark)
    clarity = shape.score + abs(light.score - dark.score) - 2 * shape.thick
    height, width = small.shape[:2]
    if shape.rim == 0:
        thick = shape.thick * max(height, width) / min(height, width)
        if split.explained < _MIN_EXPLAINED_MARGIN or thick < _MIN_THICK_MARGIN:
            return None
    elif split.explained < _MIN_EXPLAINED or (clarity < _MIN_CLEAR and width > _NARROW * height):
        return None
    elif shape.rim > _ONE_CONTACT and np.count_nonzero(np.diff(_rim(ink))) <= 2:
        return None
    total = float(axis.sum())
    gain = split.light / np.float32(total) if abs(total) > _GREY_AXIS else np.zeros(3, np.float32)
    flat = _flattened(small, gain)
    paper, full = _purer_halves(flat, ink)
    difference = full - paper
    direction = difference / max(1.0, float(difference @ difference))
    if not _has_only_two_levels(ink, (flat - paper) @ direction, shape):
        return None
    contrast = float(np.abs(difference).max()) / 255
    amount = (_flattened(channels, gain) - paper) @ (direction * np.float32(contrast))
    return Levels(np.asarray(amount, np.float32), contrast, dark.score > light.score, clarity >= _MIN_SURE)


def median(values: Array) -> Any:
    """The upper median along the first axis. np.median would import numpy.ma, 10 ms of the command's start."""
    return np.partition(values, len(values) // 2, axis=0)[len(values) // 2]


def reduced(channels: Array, side: int) -> Array:
    """`(H, W, C)`, made smaller where its longer side has more than `side` pixels."""
    height, width = channels.shape[:2]
    if max(height, width) <= side:
        return channels
    size = max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width)))
    return cv2.resize(channels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)


def _rim(mask: Mask) -> Mask:
    """The pixels along the border, once around, with the first one repeated at the end."""
    return np.concatenate([mask[0], mask[1:, -1], mask[-1, -2::-1], mask[-2::-1, 0]])


def main_axis(light: Array) -> npt.NDArray[np.float32]:
    """The mix of channels in which the ink stands out most: the main axis of the colours (PCA).

    Ink changes within a stroke's width, so the slowly changing part is subtracted first.

    Args:
        light: float32 `(H, W, C)`.
    Returns:
        float32 `(C,)`, with a sum that is not negative.
    """
    colours = (light - slow_part(light)).reshape(-1, light.shape[2])
    _, axes = np.linalg.eigh(colours.T @ colours)
    axis = axes[:, -1].astype(np.float32)
    return np.asarray(axis if axis.sum() >= 0 else -axis)


def slow_part(light: Array) -> Array:
    """The mean around each pixel of `(H, W)` or `(H, W, C)`, over a window wider than a stroke."""
    window = max(3, round(WIDEST_STROKE * min(light.shape[:2])) | 1)
    return cv2.blur(light, (window, window), borderType=cv2.BORDER_REFLECT).reshape(light.shape)


@dataclass(frozen=True)
class _Split:
    """Two levels and the light on them.

    Attributes:
        upper: the mask of the lighter level.
        light: factors of x, y and x² + y² (`_coordinates`), which the light adds to the logarithm: a slope, and a
            lens's vignette.
        explained: share of the variance that the levels explain, without the variance of the light, 0 to 1.
    """

    upper: Mask
    light: npt.NDArray[np.float32]
    explained: float


def _split(small: Array, axis: Array) -> _Split | None:
    """The two levels of a mix of channels (N. Otsu: A threshold selection method from gray-level histograms, 1979).

    Where it explains the image much better, smooth light is fitted to the logarithm, in turn with the levels.
    None for an image of one level.
    """
    height, width = small.shape[:2]
    upper, explained = _otsu(small.reshape(height * width, -1) @ axis)
    if not explained:
        return None
    plain = _Split(upper.reshape(height, width), np.zeros(3, np.float32), explained)
    across, down = _coordinates(height, width)
    x, y = np.tile(across, height), np.repeat(down, width)
    smooth = np.stack([x, y, x * x + y * y])
    values = LOG_LIGHT[small].reshape(height * width, -1) @ axis
    light = np.zeros(3, np.float32)
    lit = plain
    for _ in range(_MAX_ROUNDS):
        before, (upper, explained) = upper, _otsu(values - light @ smooth)
        if not explained:
            return plain
        lit = _Split(upper.reshape(height, width), light, explained)
        if light.any() and (upper == before).all():
            break
        terms = np.concatenate([smooth, upper[None].astype(np.float32), np.ones((1, values.size), np.float32)])
        gram = terms @ terms.T + np.diag(_RIDGE * values.size)
        fit = np.linalg.solve(gram, terms @ values)
        light = fit[:3].astype(np.float32)
        unexplained = float(np.mean((values - fit @ terms) ** 2)) / max(float(values.var()), 1e-9)
    return lit if unexplained < _UNEXPLAINED * (1 - plain.explained) else plain


def _coordinates(height: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """x `(W,)` and y `(H,)` of the pixels relative to the centre; the longer side is 1, from -0.5 to 0.5."""
    side = max(height, width)
    x, y = (np.linspace(-0.5, 0.5, size, dtype=np.float32) * np.float32(size / side) for size in (width, height))
    return x, y


def _otsu(values: Array) -> tuple[Mask, float]:
    """The mask of the upper of Otsu's two levels of float32 `(P,)`, and the share of the variance between them."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return np.zeros(values.shape, np.bool_), 0.0
    steps = np.asarray((values - low) * (255 / (high - low)), np.uint8)
    threshold, _ = cv2.threshold(steps.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    upper = steps > threshold
    share = float(upper.mean())
    if not 0 < share < 1:
        return upper, 0.0
    step = float(values[upper].mean() - values[~upper].mean())
    return upper, share * (1 - share) * step**2 / max(float(values.var()), 1e-9)


@dataclass(frozen=True)
class _Shape:
    """The features of a level's shape that decide whether it is ink.

    Attributes:
        main: share of the level that is in one piece.
        rim: share of the border that it covers.
        corners: share of the corners that it covers.
        uneven: standard deviation of its stroke width, relative to the mean.
        thick: its largest width, as a share of the image's longer side.
    """

    main: float
    rim: float
    corners: float
    uneven: float
    thick: float

    @property
    def score(self) -> float:
        """At most 2. A logistic regression on 8,364 crops gives the weights 9.1, -3.8, -4.3 and -4.9: about these."""
        return 2 * self.main - self.rim - self.corners - self.uneven

    @classmethod
    def of(cls, mask: Mask) -> _Shape:
        height, width = mask.shape
        solid = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        areas = cv2.connectedComponentsWithStats(solid, connectivity=8)[2][1:, 4]
        depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)
        middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
        size = max(1, min(height, width) // 8)
        ends = slice(size), slice(-size, None)
        corners = [mask[rows, columns].mean() for rows in ends for columns in ends]
        return cls(
            float(areas.max() / areas.sum()),
            float(_rim(mask).mean()),
            float(np.mean(corners)),
            float(middle.std() / middle.mean()),
            float(2 * depth.max() / max(height, width)),
        )


def _has_only_two_levels(ink: Mask, share: Array, shape: _Shape) -> bool:
    """Whether the image has no third level, and no digit apart from the ink.

    Args:
        share: float32 `(h, w)`, 0 for paper, 1 for ink, and below 0 or above 1 for a third level.
    """
    side = max(ink.shape)
    _, _, width, height = cv2.boundingRect(ink.astype(np.uint8))
    if width > _MAX_ASPECT * height or float(median(share[~ink])) > _MAX_CLOUDED:
        return False
    for beyond, (least, length) in ((-share, _BEYOND_PAPER), (share - 1, _BEYOND_INK)):
        if _Pieces.of(beyond > least).lengths.max(initial=0) > length * side:
            return False
    pieces = _Pieces.of(share > _FAINTER_LEVEL)
    longest = np.where(pieces.within(pieces.largest_at_border()), _MIN_INNER_DOT, _MIN_INNER) * side
    if shape.rim and (pieces.inside & (pieces.lengths > longest)).any():
        return False
    holes = _Pieces.of(share < 1 - _FAINTER_LEVEL)
    lengths = np.where(holes.inside, holes.lengths, 0)
    if (lengths > _MIN_HOLE * side).sum() > _MAX_HOLES:
        return False
    return lengths.max(initial=0) < _MIN_INNER * side or not _is_sheet(ink, holes, int(lengths.argmax()), shape.thick)


def _is_sheet(ink: Mask, holes: _Pieces, longest: int, thick: float) -> bool:
    """Whether the ink is really a sheet of paper on a table, and its longest hole a digit on the sheet."""
    hole = (holes.labels == longest + 1).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(hole, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 3)
    length = int(hole.sum()) / float(2 * depth.max()) ** 2
    if any(thick >= least and length >= long for least, long in _SHEETS):
        return True
    if thick < _SHEETS[0][0] or length < _MIN_RECTANGLE_HOLE:
        return False
    whole = (ink | (holes.labels > 0) & holes.inside[holes.labels - 1]).astype(np.uint8)
    _, (width, height), _ = cv2.minAreaRect(cv2.findNonZero(whole))
    return cv2.countNonZero(whole) > _MIN_RECTANGLE * (width + 1) * (height + 1)


@dataclass(frozen=True)
class _Pieces:
    """The connected pieces of a mask.

    Attributes:
        labels: int32 `(h, w)`, the number of each pixel's piece, 0 for none.
        boxes: int32 `(P, 4)`, left, top, right and bottom of each piece.
        inside: bool `(P,)`, whether a piece does not touch the border.
    """

    labels: Array
    boxes: Array
    inside: Mask

    @classmethod
    def of(cls, mask: Mask) -> _Pieces:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        boxes = np.concatenate([stats[1:, :2], stats[1:, :2] + stats[1:, 2:4]], axis=1)
        height, width = mask.shape
        inside = (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2] < width) & (boxes[:, 3] < height)
        return cls(labels, boxes, inside)

    @property
    def lengths(self) -> Array:
        """int32 `(P,)`: the longer side of each box."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=0))

    def largest_at_border(self) -> Array:
        """int32 `(4,)`: the box of the largest piece that touches the border, or an empty box."""
        lengths = np.where(self.inside, 0, self.lengths)
        return np.asarray(self.boxes[lengths.argmax()] if lengths.any() else np.zeros(4, np.int32))

    def within(self, box: Array) -> Mask:
        """For each piece, whether it lies inside a box."""
        return np.asarray((self.boxes[:, :2] >= box[:2]).all(axis=1) & (self.boxes[:, 2:] <= box[2:]).all(axis=1))


def _flattened(channels: Array, light: Array) -> npt.NDArray[np.float32]:
    """float32 `(H, W, C)`: the image under even light. `light` is as in `_Split`."""
    if not light.any():
        return channels.astype(np.float32)
    height, width = channels.shape[:2]
    x, y = _coordinates(height, width)
    across = np.exp(-_LOG_SPAN * (light[0] * x + light[2] * x * x))
    down = np.exp(-_LOG_SPAN * (light[1] * y + light[2] * y * y))
    offset = np.float32(_LOG_OFFSET)
    even = (channels + offset) * (down[:, None] * across)[:, :, None] - offset
    return np.asarray(even, np.float32)


def _purer_halves(flat: Array, ink: Mask) -> tuple[Array, Array]:
    """The colours of paper and ink, float32 `(C,)`: the mean of each one's purer half, without blurred edges."""
    along = flat @ (flat[ink].mean(axis=0) - flat[~ink].mean(axis=0))
    paper = flat[~ink & (along <= median(along[~ink]))].mean(axis=0)
    full = flat[ink & (along >= median(along[ink]))].mean(axis=0)
    return paper, full
