"""Where an answer comes from, on the image itself: maps of the network's inputs, and where these inputs lie.

A digit or a photograph has one input. A number has one for each digit, with a map of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from zoo.card import Input
from zoo.classification import CHUNK
from zoo.images.decode import Pixels
from zoo.images.digits import to_mnist
from zoo.images.geometry import Geometry
from zoo.images.numbers import Number
from zoo.images.photos import Fit, visible_part
from zoo.inspection.attribution import Method, attributions
from zoo.model import Model, onnx_bytes
from zoo.reading import Digit, read_lines
from zoo.rows import Prepared, Row
from zoo.scores import Scores

INK = 60  # of 255: from this value on, a pixel of an input belongs to its digit's box, as in `zoo/images/numbers.py`
AROUND_INK = 2  # pixels of a number's input around a digit's box that its map may cover: beyond it are its neighbours


class Seen(NamedTuple):
    """One input of the network, uint8 `(H, W, C)`, and where it lies in the image."""

    pixels: Pixels
    geometry: Geometry


class Placed(NamedTuple):
    """A map, float32 `(h, w)`, 0 to 1, and where it lies in an image."""

    heat: npt.NDArray[np.float32]
    geometry: Geometry

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in the image."""
        return self.geometry.box(*self.heat.shape)


class Evidence(NamedTuple):
    """What speaks for one answer: a label or, of a number, all its digits.

    Attributes:
        label: of the first or the second guess.
        maps: one for each input of the network, each with its own scale.
    """

    label: str
    method: Method
    maps: tuple[Placed, ...]


def inputs_of(model: Model, image: Pixels, prepared: Prepared, row: Row, fit: Fit = "crop") -> list[Seen]:
    """The network's inputs for an image, with their places: of a number one for each digit, in the row's order.

    The correction is made again, because only then does it record its geometry.

    Args:
        image: the decoded, upright image.
        prepared, row: what was made of it, without an error.
        fit: with which it was prepared.
    """
    if prepared.pixels is not None and not row.digits:
        return [Seen(prepared.pixels, geometry_of(image, model.card.input, fit))]
    assert prepared.number is not None
    return _digits(model, prepared.number, row.digits)


def evidence(model: Model, seen: Sequence[Seen], guesses: Sequence[str]) -> list[Evidence]:
    """What speaks for each of the guesses.

    Args:
        guesses: labels; of a number texts, with one label for each of its inputs and spaces between some of them.
    """
    content, labels = onnx_bytes(model), model.card.labels
    chosen = [
        [labels.index(guess)] if len(seen) == 1 else [labels.index(each) for each in guess if each != " "]
        for guess in guesses
    ]
    found = [
        attributions(content, pixels, [indices[number] for indices in chosen])
        for number, (pixels, _) in enumerate(seen)
    ]
    return [
        Evidence(
            guess,
            found[0][order].method,
            tuple(_placed(own[order].heat, one, len(seen) > 1) for own, one in zip(found, seen, strict=True)),
        )
        for order, guess in enumerate(guesses)
    ]


def _placed(heat: npt.NDArray[np.float32], seen: Seen, is_digit_of_number: bool) -> Placed:
    """The map of an input; of a digit of a number only around its ink, because the next digit is in its margin."""
    geometry = Geometry(*vars(seen.geometry).values())
    if not is_digit_of_number:
        return Placed(heat, geometry)
    x, y, width, height = _ink_box(seen.pixels)
    top, left = max(0, y - AROUND_INK), max(0, x - AROUND_INK)
    geometry.cut(left, top)
    return Placed(heat[top : y + height + AROUND_INK, left : x + width + AROUND_INK], geometry)


def geometry_of(image: Pixels, expected: Input, fit: Fit = "crop") -> Geometry:
    """Where the network's input lies in an image, which is corrected again for it: 3 to 20 ms for a digit.

    Args:
        image: uint8 `(H, W, C)`, decoded and upright, of one digit or a photograph.
        fit: for photographs, as in `zoo.images.prepare.prepare`.
    Raises:
        BadInput: as `prepare` does.
    """
    if expected.form == "digit":
        geometry = Geometry()
        to_mnist(image, geometry)
        return geometry
    height, width = image.shape[:2]
    if fit == "whole" and (height, width) != (expected.height, expected.width):
        scale = min(expected.height / height, expected.width / width)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        geometry = Geometry(0.0, 0.0, width / columns, height / rows)
        geometry.cut(-((expected.width - columns) // 2), -((expected.height - rows) // 2))
        return geometry
    part = visible_part(height, width, expected)
    return Geometry(part.left, part.top, part.width / expected.width, part.height / expected.height)


def _digits(model: Model, number: Number, digits: tuple[Digit, ...]) -> list[Seen]:
    """The inputs of a number's digits; of the digit that is read in a number without any if it has several strokes."""
    lines = number.lines()
    images, boxes = np.concatenate([line.pixels for line in lines]), np.concatenate([line.boxes for line in lines])
    scores = Scores.joined([model.run(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])
    if not digits:
        readings = read_lines(lines, scores.probabilities, scores.known)
        digits = tuple(digit for reading in readings for digit in reading.digits)
    seen = []
    for digit in digits:
        same = np.flatnonzero((boxes == digit.box).all(axis=1))
        shares = scores.probabilities[same, model.card.labels.index(digit.label)]
        pixels = images[same[shares.argmax()]]
        seen.append(Seen(pixels, _from_box(pixels, digit.box)))
    return seen


def _from_box(pixels: Pixels, box: tuple[int, int, int, int]) -> Geometry:
    """Where the input of a digit lies whose ink fills that box of the image.

    The box is that of the ink before strokes were thickened, so places are off by up to a third of a stroke.
    """
    x, y, width, height = _ink_box(pixels)
    x0, y0, x1, y1 = box
    geometry = Geometry(x0, y0, (x1 - x0) / width, (y1 - y0) / height)
    geometry.cut(-x, -y)
    return geometry


def _ink_box(pixels: Pixels) -> tuple[int, int, int, int]:
    """x, y, width and height of the ink in an input."""
    x, y, width, height = cv2.boundingRect((pixels > INK).astype(np.uint8))
    return x, y, max(1, width), max(1, height)
