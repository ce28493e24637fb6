"""A picture → its ink map: how much each pixel differs from the paper around it, whatever the colours and the light.

Pen on white, chalk on black, white ink on transparency and red on blue all become the same thing here: light ink on a
black ground. `zoo/images/digits.py` finds the digit in it.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput
from zoo.images.levels import (
    LOG_LIGHT,
    SMALL,
    WIDEST_STROKE,
    Array,
    Levels,
    main_axis,
    median,
    reduced,
    slow_part,
    two_levels,
)

LONGEST = 512  # pixels a side: at this size a 7-pixel pen line of a 12-megapixel photo is still one pixel wide
_BOLDEST = 0.33  # of a drawing's longer side: a stroke that fills a third of it leaves no room for a digit
_SAME = 12  # grey levels, of 255, within which JPEG and sensor noise leave a flat paper
_STILL = 24  # grey levels: a border that varies less has one colour
_FAINTEST = 0.06  # of full contrast: grey 200 on paper of 235 differs by 0.064
_SIGNAL = 4.0  # ink exceeds the paper's noise this many times; of 200,000 normal values about six do
_EDGE = 0.4  # of full ink: where a blurred stroke ends
_HALF = 0.5  # of full ink, as the high threshold where two levels are known
FADED = 0.2  # of full ink: how faint a stroke may become that hangs on a solid one


@dataclass(frozen=True)
class Ink:
    """What differs from the paper.

    amount: float32 `(h, w)`, about 0 for paper and at most about 1.
    thresholds: from which amount on a pixel is ink. The low one keeps faint parts of strokes; the high one, Otsu's,
        also parts the ink from fainter lines that are printed on the paper.
    faintest: amount above the paper's noise, from which on a pixel may belong to a stroke that fades.
    scale: pixels of the picture a pixel of the map.
    margin: pixels of paper that were added on each side of the map, where the ink may touch the frame.
    sure: is it clear which of two levels is the ink.
    notes: what was done, in words.
    """

    amount: npt.NDArray[np.float32]
    thresholds: tuple[float, float]
    faintest: float
    scale: int
    margin: int
    sure: bool
    notes: tuple[str, ...]


def find_ink(pixels: npt.NDArray[np.uint8]) -> Ink:
    """The ink of a picture.

    Args:
        pixels: uint8 `(H, W, C)`, C 1, 3 or 4 (RGBA, alpha not premultiplied).
    Returns:
        Ink of a map whose longest side is at most 512 pixels.
    Raises:
        BadInput: nothing in the picture stands out from its ground.
    """
    height, width = pixels.shape[:2]
    scale = -(-max(height, width) // LONGEST)
    channels, notes = _visible(_reduced(pixels, scale) if scale > 1 else pixels)
    drawing = _drawing(channels) if _has_one_colour(channels) else None
    if drawing is None:
        small = reduced(channels, SMALL)
        axis = main_axis(LOG_LIGHT[small])
        levels = two_levels(channels, small, axis)
        if levels is not None and levels.contrast > _FAINTEST:
            return _of_levels(levels, scale, notes)
        drawing = _drawing(channels)
    amount, dark = drawing or _photograph(channels, axis)
    if dark and not notes:
        notes.append("inverted: the ink was dark")
    if drawing is None:
        notes.append("flattened the uneven background")
    thresholds, faintest = _thresholds(amount, drawing is None, height, width)
    return Ink(amount, thresholds, faintest, scale, 0, True, tuple(notes))


def _of_levels(levels: Levels, scale: int, notes: list[str]) -> Ink:
    margin = max(2, max(levels.amount.shape) // 8)
    amount = cv2.copyMakeBorder(levels.amount, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    if levels.dark and not notes:
        notes.append("inverted: the ink was dark")
    thresholds = (max(_FAINTEST, _EDGE * levels.contrast), max(_FAINTEST, _HALF * levels.contrast))
    faintest = max(_FAINTEST, FADED * levels.contrast)
    return Ink(np.asarray(amount, np.float32), thresholds, faintest, scale, margin, levels.sure, tuple(notes))


def _has_one_colour(channels: Array) -> bool:
    """Whether the border has."""
    border = np.concatenate([channels[0], channels[-1], channels[:, 0], channels[:, -1]])
    return int(np.ptp(border, axis=0).max()) <= _STILL


def _reduced(pixels: Array, factor: int) -> Array:
    """INTER_AREA, so that a thin line becomes a faint one and does not vanish; by a whole factor, which is fast."""
    while factor % 2 == 0 and min(pixels.shape[:2]) > 1:  # twice as fast in halves
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        halved = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        pixels, factor = halved.reshape(height, width, -1), factor // 2
    height, width = max(1, pixels.shape[0] // factor), max(1, pixels.shape[1] // factor)
    whole = pixels[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)


def _visible(pixels: Array) -> tuple[Array, list[str]]:
    """The channels that carry the drawing, uint8 `(H, W, 1 or 3)`: the colours, or the transparency."""
    if pixels.shape[2] < 4:
        return pixels, []
    colours, alpha = np.ascontiguousarray(pixels[:, :, :3]), np.ascontiguousarray(pixels[:, :, 3])
    low, high, _, _ = cv2.minMaxLoc(alpha)
    if high < 16:  # 6 % opaque: nobody sees it
        raise BadInput("The picture is fully transparent: there is no ink in it. Draw a digit, or flatten the picture.")
    if high - low < 16:
        return colours, []
    plate = (alpha > (low + high) / 2).astype(np.uint8)
    _, _, box_width, box_height = cv2.boundingRect(plate)
    _, deviation = cv2.meanStdDev(colours, mask=plate)
    # A photograph with cut corners fills its box (a disc 79 % of it) and has colours of its own; ink does not.
    if cv2.countNonZero(plate) > 0.6 * box_width * box_height and float(deviation.max()) > _SAME:
        paper = median(colours[plate > 0])
        weight = alpha[:, :, None].astype(np.float32) / np.float32(high)
        return np.asarray(np.rint(colours * weight + paper * (1 - weight)), np.uint8), []
    return alpha[:, :, None], ["used the transparency as ink"]


def _drawing(channels: Array) -> tuple[npt.NDArray[np.float32], bool] | None:
    """For a picture whose paper has one colour: float32 `(H, W)` distance from it, 0 to 1, and whether the ink is dark.

    None for a photograph: its light and noise spread the colours.
    """
    top, bottom, left, right = _frame(channels)
    channels = channels[top : channels.shape[0] - bottom, left : channels.shape[1] - right]
    first = _common_colour(channels)
    other = _far(channels, first)
    shares = np.cumsum(np.bincount(other.ravel(), minlength=256)) / other.size
    if shares[_SAME] < 0.4 or shares[3] < 0.9 * shares[_SAME]:
        return None
    paper, distance = first, other
    if shares[_SAME] < 0.8:  # a bold digit may cover more than its paper; then the border shows which is which:
        # so it does for all of 600 MNIST digits cropped to their ink, also where they are bold and cover most of it
        second = _common_colour(channels[other > _SAME])
        other = _far(channels, second)
        if _at_border(other <= _SAME) > _at_border(distance <= _SAME):
            paper, distance = second, other
    if _widest(distance > max(_SAME, int(distance.max()) // 4)) > _BOLDEST:
        return None  # no stroke: a shadow on smooth paper
    ink = (distance > max(_SAME, int(distance.max()) // 2)).astype(np.uint8)
    dark = bool(ink.any()) and sum(cv2.mean(channels, mask=ink)) < float(paper.sum())
    whole = cv2.copyMakeBorder(distance, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return whole.astype(np.float32) / np.float32(255), dark


def _widest(mask: Array) -> float:
    """Diameter of the largest disc in a mask, of the longer side; it ends at the border."""
    height, width = mask.shape
    shrink = min(1.0, SMALL / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    small = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return float(2 * cv2.distanceTransform(small, cv2.DIST_L2, 3).max() / max(size))


def _frame(channels: Array) -> tuple[int, int, int, int]:
    """Pixels of a window's frame around a canvas: top, bottom, left, right.

    A frame is a line along two opposite borders, or a change of colour there, before anything is drawn.
    """
    widths: list[int] = []
    green = np.ascontiguousarray(channels[:, :, channels.shape[2] // 2])
    for lines in (green, green.T):
        reach = min(len(lines) // 8, 64)
        ends = [_last_change(lines[: reach + 1]), _last_change(lines[::-1][: reach + 1])] if reach else [0, 0]
        widths += ends if all(ends) else [0, 0]
    return widths[0], widths[1], widths[2], widths[3]


def _last_change(lines: Array) -> int:
    """How many of the rows come before the last of them that is of one colour and differs from its neighbour."""
    middle = median(lines.T).astype(np.int16)
    uniform = np.mean(np.abs(lines - middle[:, None]) <= _SAME, axis=1) > 0.9
    change = (np.abs(np.diff(middle)) > _SAME) & uniform[:-1]
    places = np.flatnonzero(change)
    return int(places[-1]) + 2 if places.size else 0


def _common_colour(colours: Array) -> Array:
    """uint8 `(C,)`: the most frequent one of `(H, W, C)` or `(P, C)`, roughly; a sample of 4,096 pixels tells."""
    sample = colours.reshape(-1, colours.shape[-1])
    sample = sample[:: max(1, len(sample) // 4096)]
    green = sample[:, sample.shape[1] // 2]
    often = int(np.argmax(np.bincount(green, minlength=256)))
    return np.asarray(median(sample[np.abs(green.astype(int) - often) <= _SAME]), np.uint8)


def _far(channels: Array, colour: Array) -> npt.NDArray[np.uint8]:
    """uint8 `(H, W)`: the largest difference of a channel from a colour."""
    height, width, count = channels.shape
    row = channels.reshape(1, height * width, count)  # four rows of one pixel each look like a colour to OpenCV
    planes = cv2.split(cv2.absdiff(row, np.array([*colour, *[0] * (4 - count)], np.float64)))
    far = planes[0]
    for plane in planes[1:]:
        far = cv2.max(far, plane)
    return np.asarray(far.reshape(height, width), np.uint8)


def _at_border(mask: Array) -> float:
    """How much of the border and of the corners, an eighth of the shorter side each, a mask covers: 0 to 2."""
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    size = max(1, min(mask.shape) // 8)
    corners = [
        mask[rows, columns].mean()
        for rows in (slice(size), slice(-size, None))
        for columns in (slice(size), slice(-size, None))
    ]
    return float(rim.mean() + np.mean(corners))


def _photograph(channels: Array, axis: Array) -> tuple[npt.NDArray[np.float32], bool]:
    """Distance of every pixel from the paper around it, float32 `(H, W)`, 0 to about 1, and whether the ink is dark.

    axis: the mix of channels, as `main_axis` gives it. Ink is what is rarer within a stroke's width.
    """
    height, width = channels.shape[:2]
    light = cv2.LUT(np.ascontiguousarray(channels), LOG_LIGHT).reshape(height, width, -1)
    grey = light @ axis
    fast = grey - slow_part(grey)
    dark = float(np.mean(fast * fast * fast)) < 0
    grey = -grey if dark else grey
    amount: Array = grey - cv2.resize(_ground(grey), (width, height), interpolation=cv2.INTER_LINEAR)
    amount -= median(amount[::3, ::3].ravel())
    if max(height, width) > SMALL:
        amount = cv2.GaussianBlur(amount, (3, 3), 0)  # noise of single pixels
    return np.asarray(amount, np.float32), dark


def _ground(grey: Array) -> Array:
    """The ground without the ink, at most 96 pixels a side: a morphological opening, so shadows and tables stay.

    The border is continued outwards, so that a strip of table or a dark corner counts as wide.
    """
    small = reduced(grey[:, :, None], SMALL)[:, :, 0]
    kernel = max(3, round(WIDEST_STROKE * min(small.shape)) | 1)
    small = cv2.copyMakeBorder(small, kernel, kernel, kernel, kernel, cv2.BORDER_REPLICATE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel, kernel))
    opened = cv2.dilate(cv2.morphologyEx(small, cv2.MORPH_OPEN, disc), np.ones((3, 3), np.uint8))
    return cv2.blur(opened, (3, 3))[kernel:-kernel, kernel:-kernel]


def _thresholds(amount: Array, photograph: bool, height: int, width: int) -> tuple[tuple[float, float], float]:
    """`Ink.thresholds` and `Ink.faintest`."""
    noise = 1.4826 * float(median(np.abs(amount[::3, ::3]).ravel()))  # from the median of a normal distribution
    floor = max(_FAINTEST, _SIGNAL * noise) if photograph else _FAINTEST
    above = amount[amount > floor]
    if above.size == 0:
        raise BadInput(
            f"The picture ({width}x{height}) holds no ink that stands out from its ground: it seems blank. "
            "Draw a digit with more contrast."
        )
    levels = np.asarray(np.minimum(above * 255, 255), np.uint8)
    otsu, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    full = float(levels[levels > otsu].mean()) if otsu < levels.max() else float(otsu)
    low, high = max(floor, _EDGE * full / 255), max(floor, min((otsu + 0.5) / 255, float(above.max())))
    return (low, high), max(floor, FADED * full / 255)
