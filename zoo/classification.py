"""From images to rows: `prepare_all` → a session call → `read_numbers` → `make_rows`.

Every interface takes these steps, so the same bytes give the same row in Python, the command, batches and the server.
`Model.predict` and `Model.rows` take them together in `classify_prepared`; batches and the server take each apart.

There are two fast paths with the same results: batches use `zoo/columns.py` instead of `make_rows`, and `prepare_all`
decodes plain PNG files of the network's size in `zoo/images/ready.py` instead of `zoo/images/prepare.py`.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.card import Card, Input
from zoo.errors import BadInput
from zoo.images.digits import DOUBT, NO_WRITING
from zoo.images.numbers import Line, is_likely_number
from zoo.images.photos import Fit
from zoo.images.prepare import prepare_image
from zoo.images.read import describe
from zoo.images.ready import ready_pixels
from zoo.reading import DIGITS, Reading, read_lines
from zoo.rows import Prepared, Row, make_rows
from zoo.scores import Outputs, Scores

if TYPE_CHECKING:
    from zoo.model import Model

CHUNK = 16  # images per session call: 8 to 32 of them fit a core's cache (docs/decisions/0003-runtime.md)
_SURE = 0.9  # an image whose probability and `known` are at least this high is one digit

Run = Callable[[npt.NDArray[np.uint8]], Outputs | Scores]  # the network


def prepare_all(sources: Iterable[Any], expected: Input, fit: Fit = "crop", single: bool = False) -> list[Prepared]:
    """Decode and correct images for a network's input. An image that fails does not affect the others.

    Args:
        single: whether an image of several digits is an error.
    """
    if not isinstance(sources, (list, tuple)):  # an iterator decides how far it is read
        return [_prepared(source, expected, fit, single) for source in sources]
    ready = ready_pixels(sources, expected)
    return [
        Prepared(describe(source), ready[position]) if position in ready else _prepared(source, expected, fit, single)
        for position, source in enumerate(sources)
    ]


def _prepared(source: Any, expected: Input, fit: Fit, single: bool) -> Prepared:
    name = describe(source)
    try:
        return Prepared(name, *prepare_image(source, expected, fit, single))
    except BadInput as error:
        return Prepared(name, None, error=str(error))


def stack_pixels(prepared: list[Prepared]) -> npt.NDArray[np.uint8] | None:
    """uint8 `(N, H, W, C)` of the inputs without an error; None where there are none."""
    arrays = [image.pixels for image in prepared if image.pixels is not None]
    if len(arrays) == 1:
        return arrays[0][np.newaxis]  # no copy
    return np.stack(arrays) if arrays else None


def classify_prepared(
    model: Model,
    prepared: list[Prepared],
    top_k: int = 3,
    run: Run | None = None,
) -> list[Row]:
    """Run all prepared images in one session call; a row for each, in order.

    Args:
        run: replaces `model.run`, such as `zoo.runtime.Bound.run`.
    """
    images = stack_pixels(prepared)
    scores = None if images is None else Scores(*(run or model.run)(images))
    readings = read_numbers(model.card, prepared, scores, run or model.run)
    _, probabilities, known = scores or (None, None, None)
    return make_rows(model.card, prepared, probabilities, top_k, known, readings)


def reads_numbers(card: Card) -> bool:
    return card.input.form == "digit" and card.labels == DIGITS


def read_numbers(
    card: Card,
    prepared: list[Prepared],
    scores: Scores | None,
    run: Run,
) -> dict[int, list[Reading]]:
    """Read the images that have several digits, or that may have and are unsure as one.

    Args:
        scores: of the images that have pixels.
        run: classifies their candidates, `CHUNK` at a time.
    Returns:
        position in `prepared` → its lines, from top to bottom.
    """
    if not any(image.number for image in prepared) or not reads_numbers(card):
        return {}
    positions = []
    rows: dict[int, int | None] = {}  # position → row of the scores; None where the image is no single digit
    row = -1
    for position, image in enumerate(prepared):
        row += image.pixels is not None
        rows[position] = row if image.pixels is not None else None
        if image.number is not None and (image.pixels is None or scores is None or _is_doubtful(image, scores, row)):
            positions.append(position)
    lines = [number.lines() if (number := prepared[position].number) else [] for position in positions]
    result = {}
    for position, readings in zip(positions, read_all(lines, run), strict=True):
        own = rows[position]
        if readings if own is None or scores is None else _is_surer(readings, _certainty(scores, own)):
            result[position] = readings
    return result


def _is_doubtful(image: Prepared, scores: Scores, row: int) -> bool:
    """Whether an image that may have two digits is to be read as a number.

    A network may be sure of one digit where two touch: only the output `known` tells.
    """
    if any(correction.startswith(NO_WRITING) for correction in image.corrections):
        return False
    if any(correction.startswith(DOUBT) for correction in image.corrections):
        return True
    if not float(scores[1][row].max()) >= _SURE:
        return True
    if scores.known is not None:
        return not float(scores.known[row]) >= _SURE
    return image.pixels is not None and is_likely_number(image.pixels)


def _certainty(scores: Scores, row: int) -> float:
    """How certain it is that an image shows its most probable digit: the network's probability is that of a digit."""
    known = 1.0 if scores.known is None else float(scores.known[row])
    return known * float(scores.probabilities[row].max())


def _is_surer(readings: list[Reading], single: float) -> bool:
    """Whether several digits in one line are more certain than one digit of that certainty."""
    if len(readings) != 1 or len(readings[0].digits) < 2:
        return False
    return readings[0].probability >= _SURE or readings[0].probability > single


def read_all(numbers: list[list[Line]], run: Run) -> list[list[Reading]]:
    """The readings of the lines of several images; all their candidates share the calls of the network."""
    pixels = [line.pixels for lines in numbers for line in lines]
    if not pixels:
        return [[] for _ in numbers]
    images = np.concatenate(pixels)
    parts = [Scores(*run(images[start : start + CHUNK])) for start in range(0, len(images), CHUNK)]
    _, probabilities, known = Scores.joined(parts)
    result, start = [], 0
    for lines in numbers:
        own = slice(start, start := start + sum(len(line.first) for line in lines))
        result.append(read_lines(lines, probabilities[own], None if known is None else known[own]))
    return result
