"""A picture of two levels under smooth light, whose ink may touch the frame: which of the two is the ink?

Where ink touches the frame, neither what lies at the border nor what is rarer says what the paper is. So the picture is
split into two levels first, without preferring either, and then the shape of both decides: ink is one piece of strokes
of even width, and paper covers the border and the corners.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

SMALL = 96  # pixels a side of the reduced picture: light changes slowly, and thin strokes are still seen
_DARK = 32.0  # grey levels added before the logarithm, in which light is a summand; keeps noise in black small
_SPAN = float(np.log((255 + _DARK) / _DARK))
LOG_LIGHT = (np.log((np.arange(256) + _DARK) / _DARK) / _SPAN).astype(np.float32)  # of a grey level, 0 to 1

WIDEST_STROKE = 0.45  # of the shorter side: what is wider than this is paper, table or shadow
_GREY = 0.5  # sum of the axis: a mix that light changes; in others, as of red against green, light cancels out
_ROUNDS = 10  # of fitting levels and light in turn; three to five are usual
_RIDGE = np.array([3e-4, 3e-4, 3e-4, 1e-6, 1e-6], np.float32)  # keeps light from bending within narrow pictures
_BETTER = 0.6  # of the variance that two plain levels leave: uneven light has to explain the rest
# Whether two levels are all there is. The bounds lie between what 3,400 tight digits have (MNIST's training images,
# printed and drawn ones, even ones of scikit-learn's) and what 1,000 shadows, sheets on tables and blank sheets have.
_EXPLAINED = 0.72  # of the variance that light leaves; two levels explain 2 / π of normal noise, 0.75 of most digits
_MARGIN_EXPLAINED = 0.8  # the same where the ink does not touch the frame
_MARGIN_THICK = 0.2  # of the shorter side: thinner ink with a margin is found as well without knowing the levels
_CLEAR = 1.5  # of the score and its lead over the other level's, less twice the width; 0.5 % of the digits have less
_SURE = 1.8  # the same: what has less is doubtful
_NARROW = 0.35  # width / height of a picture of a one and nothing else, in which either level may look like strokes
_ONE_RUN = 0.25  # of the border: a digit that covers more touches it in several places, a shadow in one
_WIDEST = 2.5  # width / height of the ink; a digit has at most 2.3
_CLOUDED = 0.2  # of the contrast: how much half of the paper may differ from its purer half
# What is further from the ink than paper, or from paper than ink, is a third level: by how much, of the contrast, and
# how long its pieces are, of the longer side. Ink that few pixels show varies more than paper.
_BEYOND_PAPER, _BEYOND_INK = (0.3, 0.1), (0.4, 0.22)
_WITHIN = 0.25  # of the contrast: what differs from a level by more may be a fainter one
_INNER = 0.15  # of the longer side: a longer piece away from the border, and from the rest of the ink, is a digit
_INNER_DOT = 0.3  # the same inside the rest of the ink: the dot or bar of a zero
_HOLES, _HOLE = 4, 0.05  # how many holes of which length, of the longer side: squared paper has more
# Ink that is a sheet of paper, and its hole a digit: how wide (of the longer side) and how long (area / width²).
_SHEETS = ((0.25, 6.4), (0.33, 3.2))
_RECTANGLE = 0.895  # of the smallest rectangle around the ink and its holes: a sheet; printed zeros fill 0.85
_RECTANGLE_HOLE = 1.6  # as long as a hole in a rectangle has to be


@dataclass(frozen=True)
class Levels:
    """amount: float32 `(H, W)`, 0 for paper, `contrast` for ink. contrast: of full scale, 0 to 1.

    dark: is the ink the darker level. sure: is its shape clearly that of ink, and the other's not.
    """

    amount: npt.NDArray[np.float32]
    contrast: float
    dark: bool
    sure: bool


def two_levels(channels: Array, small: Array, axis: Array) -> Levels | None:
    """The ink of a picture whose ink may touch the frame.

    Args:
        channels: uint8 `(H, W, 1 or 3)`. small: the same, `reduced` to `SMALL`. axis: its `main_axis`.
    Returns:
        None where two levels and smooth light do not explain the picture: shadows, the edge of a table, thin lines.
    """
    split = _split(small, axis)
    if split is None:
        return None
    light, dark = _Shape.of(split.upper), _Shape.of(~split.upper)
    ink, shape = (split.upper, light) if light.score > dark.score else (~split.upper, dark)
    clear = shape.score + abs(light.score - dark.score) - 2 * shape.thick
    height, width = small.shape[:2]
    if shape.rim == 0:
        thick = shape.thick * max(height, width) / min(height, width)
        if split.explained < _MARGIN_EXPLAINED or thick < _MARGIN_THICK:
            return None
    elif split.explained < _EXPLAINED or (clear < _CLEAR and width > _NARROW * height):
        return None
    elif shape.rim > _ONE_RUN and np.count_nonzero(np.diff(_rim(ink))) <= 2:
        return None
    total = float(axis.sum())
    gain = split.light / np.float32(total) if abs(total) > _GREY else np.zeros(3, np.float32)
    flat = _flattened(small, gain)
    paper, full = _purer_halves(flat, ink)
    towards = full - paper
    along = towards / max(1.0, float(towards @ towards))
    if not _is_all(ink, (flat - paper) @ along, shape):
        return None
    contrast = float(np.abs(towards).max()) / 255
    amount = (_flattened(channels, gain) - paper) @ (along * np.float32(contrast))
    return Levels(np.asarray(amount, np.float32), contrast, dark.score > light.score, clear >= _SURE)


def median(values: Array) -> Any:
    """The upper median along the first axis; np.median imports numpy.ma, which costs the command 10 ms at its start."""
    return np.partition(values, len(values) // 2, axis=0)[len(values) // 2]


def reduced(channels: Array, side: int) -> Array:
    """`(H, W, C)`, made smaller where its longer side is more than so many pixels."""
    height, width = channels.shape[:2]
    if max(height, width) <= side:
        return channels
    size = max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width)))
    return cv2.resize(channels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)


def _rim(mask: Mask) -> Mask:
    """The pixels along the border, once around it and the first one again."""
    return np.concatenate([mask[0], mask[1:, -1], mask[-1, -2::-1], mask[-2::-1, 0]])


def main_axis(light: Array) -> npt.NDArray[np.float32]:
    """The mix of channels in which the ink stands out most: the main axis of the colours (PCA).

    Ink is what changes within a stroke's width, so the slow part is taken away first.

    Args:
        light: float32 `(H, W, C)`.
    Returns:
        float32 `(C,)`, whose sum is not negative.
    """
    colours = (light - slow_part(light)).reshape(-1, light.shape[2])
    _, axes = np.linalg.eigh(colours.T @ colours)
    axis = axes[:, -1].astype(np.float32)
    return np.asarray(axis if axis.sum() >= 0 else -axis)


def slow_part(light: Array) -> Array:
    """The mean of what surrounds each pixel of `(H, W)` or `(H, W, C)`, over a window wider than a stroke."""
    window = max(3, round(WIDEST_STROKE * min(light.shape[:2])) | 1)
    return cv2.blur(light, (window, window), borderType=cv2.BORDER_REFLECT).reshape(light.shape)


@dataclass(frozen=True)
class _Split:
    """upper: the mask of the lighter level. light: what the light adds to the logarithm, times x, y and x² + y²
    from `_places` (a slope and a lens's vignette). explained: share of the variance, without that of the light, 0 to 1.
    """

    upper: Mask
    light: npt.NDArray[np.float32]
    explained: float


def _split(small: Array, axis: Array) -> _Split | None:
    """Two levels (N. Otsu: A threshold selection method from gray-level histograms, 1979) of a mix of channels; or of
    its logarithm under smooth light, fitted in turn with them, where this explains the picture much better.
    """
    height, width = small.shape[:2]
    upper, explained = _otsu(small.reshape(height * width, -1) @ axis)
    if not explained:
        return None
    plain = _Split(upper.reshape(height, width), np.zeros(3, np.float32), explained)
    across, down = _places(height, width)
    x, y = np.tile(across, height), np.repeat(down, width)
    smooth = np.stack([x, y, x * x + y * y])
    values = LOG_LIGHT[small].reshape(height * width, -1) @ axis
    light = np.zeros(3, np.float32)
    lit = plain
    for _ in range(_ROUNDS):
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
        left = float(np.mean((values - fit @ terms) ** 2)) / max(float(values.var()), 1e-9)
    return lit if left < _BETTER * (1 - plain.explained) else plain


def _places(height: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """x `(W,)` and y `(H,)` of the pixels from the centre, in longer sides: -0.5 to 0.5 and less."""
    side = max(height, width)
    x, y = (np.linspace(-0.5, 0.5, size, dtype=np.float32) * np.float32(size / side) for size in (width, height))
    return x, y


def _otsu(values: Array) -> tuple[Mask, float]:
    """The upper one of Otsu's two levels of float32 `(P,)`, and the share of the variance between them."""
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
    """What speaks for one level being ink: all but `thick` are shares, 0 to 1.

    main: of it, in one piece. rim, corners: of the border and the corners, that it covers. uneven: deviation of its
    strokes' width, of the mean. thick: its widest place, of the picture's longer side.
    """

    main: float
    rim: float
    corners: float
    uneven: float
    thick: float

    @property
    def score(self) -> float:
        """At most 2. Fitted weights (logistic regression on 8,364 crops) are 9.1, -3.8, -4.3 and -4.9: about these."""
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


def _is_all(ink: Mask, share: Array, shape: _Shape) -> bool:
    """Whether nothing but the two levels stands in the picture: no third one, and no digit that is not the ink.

    share: float32 `(h, w)`, 0 for paper and 1 for ink, and less or more where there is a third level.
    """
    side = max(ink.shape)
    _, _, width, height = cv2.boundingRect(ink.astype(np.uint8))
    if width > _WIDEST * height or float(median(share[~ink])) > _CLOUDED:
        return False
    for beyond, (least, length) in ((-share, _BEYOND_PAPER), (share - 1, _BEYOND_INK)):
        if _Pieces.of(beyond > least).lengths.max(initial=0) > length * side:
            return False
    pieces = _Pieces.of(share > _WITHIN)
    longest = np.where(pieces.within(pieces.largest_at_border()), _INNER_DOT, _INNER) * side
    if shape.rim and (pieces.inside & (pieces.lengths > longest)).any():
        return False
    holes = _Pieces.of(share < 1 - _WITHIN)
    lengths = np.where(holes.inside, holes.lengths, 0)
    if (lengths > _HOLE * side).sum() > _HOLES:
        return False
    return lengths.max(initial=0) < _INNER * side or not _is_sheet(ink, holes, int(lengths.argmax()), shape.thick)


def _is_sheet(ink: Mask, holes: _Pieces, longest: int, thick: float) -> bool:
    """Whether what seems to be ink is a sheet of paper on a table, and its longest hole a digit on it."""
    hole = (holes.labels == longest + 1).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(hole, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 3)
    length = int(hole.sum()) / float(2 * depth.max()) ** 2
    if any(thick >= least and length >= long for least, long in _SHEETS):
        return True
    if thick < _SHEETS[0][0] or length < _RECTANGLE_HOLE:
        return False
    whole = (ink | (holes.labels > 0) & holes.inside[holes.labels - 1]).astype(np.uint8)
    _, (width, height), _ = cv2.minAreaRect(cv2.findNonZero(whole))
    return cv2.countNonZero(whole) > _RECTANGLE * (width + 1) * (height + 1)


@dataclass(frozen=True)
class _Pieces:
    """labels: int32 `(h, w)`, 0 for none. boxes: int32 `(P, 4)`, x, y, right and bottom of each.

    inside: which do not touch the border.
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
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=0))

    def largest_at_border(self) -> Array:
        """int32 `(4,)`: its box, or an empty one."""
        lengths = np.where(self.inside, 0, self.lengths)
        return np.asarray(self.boxes[lengths.argmax()] if lengths.any() else np.zeros(4, np.int32))

    def within(self, box: Array) -> Mask:
        return np.asarray((self.boxes[:, :2] >= box[:2]).all(axis=1) & (self.boxes[:, 2:] <= box[2:]).all(axis=1))


def _flattened(channels: Array, light: Array) -> npt.NDArray[np.float32]:
    """float32 `(H, W, C)` as under even light; `light` as in `_Split`."""
    if not light.any():
        return channels.astype(np.float32)
    height, width = channels.shape[:2]
    x, y = _places(height, width)
    across, down = (
        np.exp(-_SPAN * (light[0] * x + light[2] * x * x)),
        np.exp(-_SPAN * (light[1] * y + light[2] * y * y)),
    )
    even = (channels + np.float32(_DARK)) * (down[:, None] * across)[:, :, None] - np.float32(_DARK)
    return np.asarray(even, np.float32)


def _purer_halves(flat: Array, ink: Mask) -> tuple[Array, Array]:
    """float32 `(C,)` of paper and of ink: the mean of each one's purer half, since blurred edges lie between."""
    along = flat @ (flat[ink].mean(axis=0) - flat[~ink].mean(axis=0))
    paper = flat[~ink & (along <= median(along[~ink]))].mean(axis=0)
    full = flat[ink & (along >= median(along[ink]))].mean(axis=0)
    return paper, full
