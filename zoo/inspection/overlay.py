"""Draws maps of what an answer comes from over the image, at the places that `evidence.py` gives them."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from zoo.images.decode import Pixels
from zoo.images.geometry import Geometry
from zoo.images.photos import Box
from zoo.inspection.evidence import Placed

RGB = npt.NDArray[np.uint8]  # (H, W, 3)

# From no evidence to the most: orange to a pale yellow, which differ in brightness too, over the darkened image.
_RAMP = np.array([[122, 34, 12], [214, 92, 10], [252, 176, 36], [255, 240, 140]], np.float32)
_STRENGTH = 0.75  # share of the colour where the evidence is largest
_INSIDE, _OUTSIDE = 0.55, 0.3  # brightness of the image where a map lies, and elsewhere

# The part of a large image that is drawn around a small digit.
_ROOM = 1.7  # sides of all maps together
_SMALL = 0.8  # of the image's longer side: a larger part is no gain, and the whole image is drawn


class Canvas:
    """An image, or the part of it around its maps, at the size of a figure.

    Attributes:
        picture: uint8 `(h, w, 3)`.
        is_part: whether it shows a part only, because the maps would be too small on all of the image.
        is_covered: whether the maps cover all of it.
    """

    def __init__(self, pixels: Pixels, maps: Sequence[Placed], side: int) -> None:
        """Cut and scale an image.

        Args:
            pixels: uint8 `(H, W, C)`, C 1, 3 or 4: the image, or the network's input.
            maps: all that `draw` will get.
            side: pixels of the figure's longer side.
        """
        self._view = _view(pixels.shape[0], pixels.shape[1], maps)
        top, left, height, width = self._view
        self.is_part = (height, width) != pixels.shape[:2]
        x0, y0, x1, y1 = _around(maps)
        self.is_covered = x0 <= left and y0 <= top and x1 >= left + width and y1 >= top + height
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA  # enlarged to blocks, or averaged
        part = np.ascontiguousarray(rgb(pixels[top : top + height, left : left + width]))
        self.picture: RGB = np.asarray(cv2.resize(part, size, interpolation=method), np.uint8)

    def draw(self, maps: Sequence[Placed]) -> RGB:
        """The picture with maps over it."""
        top, left, height, width = self._view
        down, across = self.picture.shape[0] / height, self.picture.shape[1] / width
        moved = [
            Placed(
                heat,
                Geometry(
                    (place.left - left) * across, (place.top - top) * down, place.across * across, place.down * down
                ),
            )
            for heat, place in maps
        ]
        return overlay(self.picture, moved)


def _view(height: int, width: int, maps: Sequence[Placed]) -> Box:
    """The whole image, or the part around maps that are small."""
    x0, y0, x1, y1 = _around(maps)
    side = max(1, round(_ROOM * max(x1 - x0, y1 - y0)))
    if side >= _SMALL * max(height, width):
        return Box(0, 0, height, width)
    rows, columns = min(height, side), min(width, side)
    top, left = round((y0 + y1 - rows) / 2), round((x0 + x1 - columns) / 2)
    return Box(min(max(0, top), height - rows), min(max(0, left), width - columns), rows, columns)


def _around(maps: Sequence[Placed]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 around all maps."""
    left, top, right, bottom = zip(*(each.box for each in maps), strict=True)
    return min(left), min(top), max(right), max(bottom)


def overlay(pixels: Pixels, maps: Sequence[Placed] | npt.NDArray[np.float32]) -> RGB:
    """Draw maps over an image.

    Args:
        pixels: uint8 `(H, W, C)`, C 1, 3 or 4.
        maps: with their places in the image; or one float32 `(h, w)`, 0 to 1, for all of it.
    Returns:
        uint8 `(H, W, 3)`: the image in dark grey, coloured where the evidence is, and darker where there is no map.
    """
    colour = rgb(pixels)
    height, width = colour.shape[:2]
    if isinstance(maps, np.ndarray):
        maps = [Placed(maps, Geometry(0.0, 0.0, width / maps.shape[1], height / maps.shape[0]))]
    heat, inside = np.zeros((height, width), np.float32), np.zeros((height, width), np.bool_)
    for each in maps:
        values, covered = warped(each, height, width)
        heat, inside = np.maximum(heat, values), inside | covered
    grey = cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = (grey * np.where(inside, _INSIDE, _OUTSIDE).astype(np.float32))[..., np.newaxis]
    places = heat[..., np.newaxis] * (len(_RAMP) - 1)
    low = np.minimum(places.astype(int), len(_RAMP) - 2)[..., 0]
    warm = _RAMP[low] + (_RAMP[low + 1] - _RAMP[low]) * (places - low[..., np.newaxis])
    share = _STRENGTH * heat[..., np.newaxis]
    return np.asarray(np.rint(grey * (1 - share) + warm * share), np.uint8)


def warped(placed: Placed, height: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A map at its place in an image of that size, float32 `(H, W)`, and which pixels it covers, bool `(H, W)`.

    Linear between the centres of the map's pixels.
    """
    heat, geometry = placed
    method = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inverse = cv2.invertAffineTransform(geometry.matrix)
    values = cv2.warpAffine(heat, inverse, (width, height), flags=method, borderMode=cv2.BORDER_REPLICATE)
    x0, y0, x1, y1 = placed.box
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    covered = ((rows >= y0) & (rows < y1))[:, np.newaxis] & ((columns >= x0) & (columns < x1))
    return np.where(covered, np.clip(values, 0, 1), np.float32(0)), covered


def rgb(pixels: Pixels) -> RGB:
    """uint8 `(H, W, C)`, C 1, 3 or 4, as RGB; transparent pixels are placed on white."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    weight = pixels[:, :, 3:].astype(np.float32) / 255
    return np.asarray(np.rint(pixels[:, :, :3] * weight + 255 * (1 - weight)), np.uint8)
