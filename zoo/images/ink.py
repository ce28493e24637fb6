"""An image → its ink map: how much each pixel differs from the paper around it, for any colours and lighting.

Pen on white, chalk on black, white ink on transparency and red on blue all become light ink on black.
`zoo/images/digits.py` finds the digit in the map.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput
from zoo.images.geometry import Geometry
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

INK_MAP_SIDE = 512  # pixels per side: at this size a 7-pixel pen line of a 12-megapixel photo is still one pixel wide
_WIDEST_STROKE = 0.33  # of a drawing's longer side: a stroke that fills a third of it leaves no room for a digit
_SAME_COLOUR = 12  # grey levels of 255: JPEG and sensor noise on flat paper stay within them
_PLAIN_BORDER = 24  # grey levels: a border that varies less has one colour
_MIN_CONTRAST = 0.06  # of full contrast: grey 200 on paper of 235 differs by 0.064
_SIGNAL_TO_NOISE = 4.0  # of ink; of 200,000 normally distributed values about six exceed it
_STROKE_EDGE = 0.4  # of full ink: where a blurred stroke ends
_HALF_INK = 0.5  # of full ink: the high threshold where two levels are known
_MIN_BARRED = 64  # pixels: the shortest side of an image that may have bars; a smaller one is a digit of a data set
_MIN_LEFT = 0.2  # of each side, between the bars: less is a stroke
_MIN_BESIDE_BAR = 0.92  # of the line beside a bar
FADED = 0.2  # of full ink: how faint a stroke may become that is connected to a solid one


@dataclass(frozen=True)
class Ink:
    """The ink map of an image.

    Attributes:
        amount: float32 `(h, w)`, about 0 for paper and at most about 1.
        thresholds: amounts from which on a pixel is ink. The low one keeps faint parts of strokes. The high one,
            Otsu's, also separates the ink from fainter lines that are printed on the paper.
        faintest: amount above the paper's noise, from which on a pixel may belong to a fading stroke.
        scale: pixels of the image per pixel of the map, along one side.
        margin: pixels of paper that were added on each side of the map, because the ink may touch the frame.
        blank: pixels at the map's top, bottom, left and right that hold no ink: the margin, or a window's frame.
        uneven: whether it is a photograph whose uneven background was subtracted.
        sure: whether it is clear which of two levels is the ink.
        corrections: the corrections that were made, in words.
    """

    amount: npt.NDArray[np.float32]
    thresholds: tuple[float, float]
    faintest: float
    scale: int
    margin: int
    blank: tuple[int, int, int, int]
    uneven: bool
    sure: bool
    corrections: tuple[str, ...]


def find_ink(pixels: npt.NDArray[np.uint8]) -> Ink:
    """Make the ink map of an image.

    Args:
        pixels: uint8 `(H, W, C)`, C 1, 3 or 4 (RGBA, alpha not premultiplied).
    Returns:
        Ink whose map has at most 512 pixels per side.
    Raises:
        BadInput: nothing in the image stands out from its background.
    """
    height, width = pixels.shape[:2]
    scale = -(-max(height, width) // INK_MAP_SIDE)
    channels, corrections = _visible(reduce_pixels(pixels, scale) if scale > 1 else pixels)
    drawing = _drawing(channels) if _has_plain_border(channels) else None
    if drawing is None:
        small = reduced(channels, SMALL)
        axis = main_axis(LOG_LIGHT[small])
        levels = two_levels(channels, small, axis)
        if levels is not None and levels.contrast > _MIN_CONTRAST:
            return _from_levels(levels, scale, corrections)
        drawing = _drawing(channels)
    amount, dark, blank = drawing or (*_photograph(channels, axis), (0, 0, 0, 0))
    if dark and not corrections:
        corrections.append("inverted: the ink was dark")
    if drawing is None:
        corrections.append("flattened the uneven background")
    thresholds, faintest = _thresholds(amount, drawing is None, height, width)
    return Ink(amount, thresholds, faintest, scale, 0, blank, drawing is None, True, tuple(corrections))


def without_bars(pixels: npt.NDArray[np.uint8], geometry: Geometry | None = None) -> npt.NDArray[np.uint8] | None:
    """The image without bars of one colour, which programs add to make it square; None where there are none.

    A bar ends in a straight line, beyond which nearly everything has another colour. The image between the bars must
    have a contrast of its own, because otherwise it is a stroke.
    """
    if pixels.shape[2] == 4 or min(pixels.shape[:2]) < _MIN_BARRED:
        return None
    step = -(-max(pixels.shape[:2]) // (INK_MAP_SIDE // 2))
    middle = pixels.shape[2] // 2
    seen = np.ascontiguousarray(pixels[::step, ::step, middle : middle + 1])
    for corner in (seen[0, 0], seen[-1, -1]):
        other = (_distance(seen, corner) > _SAME_COLOUR).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(other)
        if (width, height) == (seen.shape[1], seen.shape[0]):
            continue
        if width < _MIN_LEFT * seen.shape[1] or height < _MIN_LEFT * seen.shape[0]:
            continue
        inner = other[y : y + height, x : x + width]
        sides = (  # pixels of a bar, and how much of the line beside it has another colour
            (y, inner[1]),
            (seen.shape[0] - y - height, inner[-2]),
            (x, inner[:, 1]),
            (seen.shape[1] - x - width, inner[:, -2]),
        )
        if any(bar and line.mean() < _MIN_BESIDE_BAR for bar, line in sides):
            continue
        cut = [(1 + (bar > 0)) * step if bar else 0 for bar, _ in sides]
        rows = slice(y * step + cut[0], (y + height) * step - cut[1])
        columns = slice(x * step + cut[2], (x + width) * step - cut[3])
        part = pixels[rows, columns]
        green = part[::step, ::step, part.shape[2] // 2]
        few = green.size // 50
        ordered = np.sort(green.ravel())
        if green.size and int(ordered[-1 - few]) - int(ordered[few]) >= _MIN_CONTRAST * 255:
            if geometry is not None:
                geometry.cut(columns.start, rows.start)
            return part
    return None


def _from_levels(levels: Levels, scale: int, corrections: list[str]) -> Ink:
    margin = max(2, max(levels.amount.shape) // 8)
    amount = cv2.copyMakeBorder(levels.amount, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    if levels.dark and not corrections:
        corrections.append("inverted: the ink was dark")
    low, high = (max(_MIN_CONTRAST, share * levels.contrast) for share in (_STROKE_EDGE, _HALF_INK))
    faintest = max(_MIN_CONTRAST, FADED * levels.contrast)
    return Ink(
        np.asarray(amount, np.float32),
        (low, high),
        faintest,
        scale,
        margin,
        (margin,) * 4,
        False,
        levels.sure,
        tuple(corrections),
    )


def _has_plain_border(channels: Array) -> bool:
    """Whether the border has one colour."""
    border = np.concatenate([channels[0], channels[-1], channels[:, 0], channels[:, -1]])
    return int(np.ptp(border, axis=0).max()) <= _PLAIN_BORDER


def reduce_pixels(pixels: Array, factor: int) -> Array:
    """The image made smaller by a whole factor.

    INTER_AREA makes a thin line fainter instead of dropping it, and is fast for whole factors.
    """
    while factor % 2 == 0 and min(pixels.shape[:2]) > 1:  # halving repeatedly is twice as fast
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        halved = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        pixels, factor = halved.reshape(height, width, -1), factor // 2
    height, width = max(1, pixels.shape[0] // factor), max(1, pixels.shape[1] // factor)
    whole = pixels[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)


def _visible(pixels: Array) -> tuple[Array, list[str]]:
    """The channels that carry the drawing (colours or transparency), uint8 `(H, W, 1 or 3)`, and corrections."""
    if pixels.shape[2] < 4:
        return pixels, []
    colours, alpha = np.ascontiguousarray(pixels[:, :, :3]), np.ascontiguousarray(pixels[:, :, 3])
    low, high, _, _ = cv2.minMaxLoc(alpha)
    if high < 16:  # at most 6 % opaque, which is invisible
        raise BadInput("The image is fully transparent: draw a digit, or flatten the image.")
    if high - low < 16:
        return colours, []
    opaque = (alpha > (low + high) / 2).astype(np.uint8)
    _, _, box_width, box_height = cv2.boundingRect(opaque)
    _, deviation = cv2.meanStdDev(colours, mask=opaque)
    # A photograph with cut corners fills most of its box (a disc fills 79 %) and has several colours; ink does not.
    if cv2.countNonZero(opaque) > 0.6 * box_width * box_height and float(deviation.max()) > _SAME_COLOUR:
        paper = median(colours[opaque > 0])
        weight = alpha[:, :, None].astype(np.float32) / np.float32(high)
        return np.asarray(np.rint(colours * weight + paper * (1 - weight)), np.uint8), []
    return alpha[:, :, None], ["used the transparency as ink"]


def _drawing(channels: Array) -> tuple[npt.NDArray[np.float32], bool, tuple[int, int, int, int]] | None:
    """Distance of each pixel from a paper of one colour, float32 `(H, W)`, 0 to 1, whether the ink is dark, `_frame`.

    None for a photograph, in which light and noise spread the paper's colours.
    """
    top, bottom, left, right = _frame(channels)
    channels = channels[top : channels.shape[0] - bottom, left : channels.shape[1] - right]
    first = _common_colour(channels)
    paper, distance = first, _distance(channels, first)
    shares = np.cumsum(np.bincount(distance.ravel(), minlength=256)) / distance.size
    if shares[_SAME_COLOUR] < 0.4 or shares[3] < 0.9 * shares[_SAME_COLOUR]:
        return None
    if shares[_SAME_COLOUR] < 0.8:
        # A bold digit may cover more than its paper. Then the colour that covers more of the border is the paper: true
        # for all of 600 MNIST digits cropped to their ink, also where they are bold and cover most of the image.
        second = _common_colour(channels[distance > _SAME_COLOUR])
        from_second = _distance(channels, second)
        if _at_border(from_second <= _SAME_COLOUR) > _at_border(distance <= _SAME_COLOUR):
            paper, distance = second, from_second
    if _widest(distance > max(_SAME_COLOUR, int(distance.max()) // 4)) > _WIDEST_STROKE:
        return None  # not a stroke, but a shadow on smooth paper
    ink = (distance > max(_SAME_COLOUR, int(distance.max()) // 2)).astype(np.uint8)
    dark = bool(ink.any()) and sum(cv2.mean(channels, mask=ink)) < float(paper.sum())
    whole = cv2.copyMakeBorder(distance, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return whole.astype(np.float32) / np.float32(255), dark, (top, bottom, left, right)


def _widest(mask: Array) -> float:
    """Diameter of the largest disc inside a mask, as a share of the longer side."""
    height, width = mask.shape
    shrink = min(1.0, SMALL / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    small = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return float(2 * cv2.distanceTransform(small, cv2.DIST_L2, 3).max() / max(size))


def _frame(channels: Array) -> tuple[int, int, int, int]:
    """Pixels of a window frame around a canvas: top, bottom, left, right.

    A frame is a line, or a change of colour, along two opposite borders.
    """
    widths: list[int] = []
    green = np.ascontiguousarray(channels[:, :, channels.shape[2] // 2])
    for lines in (green, green.T):
        reach = min(len(lines) // 8, 64)
        ends = [_last_change(lines[: reach + 1]), _last_change(lines[::-1][: reach + 1])] if reach else [0, 0]
        widths += ends if all(ends) else [0, 0]
    return widths[0], widths[1], widths[2], widths[3]


def _last_change(lines: Array) -> int:
    """How many rows the frame has: up to the last row that has one colour and differs from its neighbour."""
    middle = median(lines.T).astype(np.int16)
    uniform = np.mean(np.abs(lines - middle[:, None]) <= _SAME_COLOUR, axis=1) > 0.9
    change = (np.abs(np.diff(middle)) > _SAME_COLOUR) & uniform[:-1]
    places = np.flatnonzero(change)
    return int(places[-1]) + 2 if places.size else 0


def _common_colour(colours: Array) -> Array:
    """uint8 `(C,)`: roughly the most frequent colour of `(H, W, C)` or `(P, C)`, from a sample of 4,096 pixels."""
    sample = colours.reshape(-1, colours.shape[-1])
    sample = sample[:: max(1, len(sample) // 4096)]
    green = sample[:, sample.shape[1] // 2]
    most_frequent = int(np.argmax(np.bincount(green, minlength=256)))
    return np.asarray(median(sample[np.abs(green.astype(int) - most_frequent) <= _SAME_COLOUR]), np.uint8)


def _distance(channels: Array, colour: Array) -> npt.NDArray[np.uint8]:
    """uint8 `(H, W)`: the largest difference of any channel from a colour."""
    height, width, count = channels.shape
    row = channels.reshape(1, height * width, count)  # OpenCV takes an array of four rows and one column for a colour
    planes = cv2.split(cv2.absdiff(row, np.array([*colour, *[0] * (4 - count)], np.float64)))
    largest = planes[0]
    for plane in planes[1:]:
        largest = cv2.max(largest, plane)
    return np.asarray(largest.reshape(height, width), np.uint8)


def _at_border(mask: Array) -> float:
    """Share of the border plus share of the corners that a mask covers, 0 to 2. A corner is an eighth of a side."""
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    size = max(1, min(mask.shape) // 8)
    corners = [
        mask[rows, columns].mean()
        for rows in (slice(size), slice(-size, None))
        for columns in (slice(size), slice(-size, None))
    ]
    return float(rim.mean() + np.mean(corners))


def _photograph(channels: Array, axis: Array) -> tuple[npt.NDArray[np.float32], bool]:
    """Distance of each pixel from the paper around it, float32 `(H, W)`, 0 to about 1, and whether the ink is dark.

    Of light and dark, the one that is rarer within a stroke's width is ink.

    Args:
        axis: the mix of channels from `main_axis`.
    """
    height, width = channels.shape[:2]
    light = cv2.LUT(np.ascontiguousarray(channels), LOG_LIGHT).reshape(height, width, -1)
    grey = light @ axis
    detail = grey - slow_part(grey)
    dark = float(np.mean(detail * detail * detail)) < 0
    grey = -grey if dark else grey
    amount: Array = grey - cv2.resize(_background(grey), (width, height), interpolation=cv2.INTER_LINEAR)
    amount -= median(amount[::3, ::3].ravel())
    if max(height, width) > SMALL:
        amount = cv2.GaussianBlur(amount, (3, 3), 0)  # noise of single pixels
    return np.asarray(amount, np.float32), dark


def _background(grey: Array) -> Array:
    """The background without the ink, at most 96 pixels per side: a morphological opening, which keeps shadows.

    The border is replicated outwards, so that a strip of table or a dark corner is wide enough to be background.
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
    floor = max(_MIN_CONTRAST, _SIGNAL_TO_NOISE * noise) if photograph else _MIN_CONTRAST
    above = amount[amount > floor]
    if above.size == 0:
        raise BadInput(
            f"The image ({width}x{height}) seems blank, because no ink stands out from the background: "
            "draw a digit with more contrast."
        )
    levels = np.asarray(np.minimum(above * 255, 255), np.uint8)
    otsu, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    full = float(levels[levels > otsu].mean()) if otsu < levels.max() else float(otsu)
    low, high = max(floor, _STROKE_EDGE * full / 255), max(floor, min((otsu + 0.5) / 255, float(above.max())))
    return (low, high), max(floor, FADED * full / 255)
