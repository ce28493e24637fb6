"""The result for one input, and how it follows from the probabilities. The same in every interface."""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo.card import Card
from zoo.images.decode import Pixels
from zoo.images.digits import DOUBT, NO_WRITING
from zoo.images.numbers import Number
from zoo.reading import UNSURE_BELOW, Digit, Reading, joined


@dataclass(frozen=True)
class Guess:
    """One label and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True, repr=False)
class Row:
    """The result for one input, the same in every interface.

    Attributes:
        input: the path, or a short description of an input without one.
        model: the model's full name.
        label: the most probable label; of a number, all its digits; None with an `error`.
        probability: of that label, 0 to 1; None with an `error`.
        unsure: True where the probability is below `card.calibration.unsure_below` (of a number also below
            `zoo.reading.UNSURE_BELOW`), or where a correction begins with `zoo.images.digits.DOUBT`; None with an
            `error`.
        known: False where the image shows none of the classes: its output `known` is below
            `card.calibration.known_from`. `label` is then the nearest class. None with an `error`, or where the model
            has no such output.
        top_k: the most probable labels, best first.
        digits: the digits of a number, line by line from left to right; empty unless there are several.
        corrections: the changes that were made to the image, in words and in order.
        error: a sentence for an image that could not be classified, or None.
    """

    input: str
    model: str
    label: str | None = None
    probability: float | None = None
    unsure: bool | None = None
    known: bool | None = None
    top_k: tuple[Guess, ...] = ()
    digits: tuple[Digit, ...] = ()
    corrections: tuple[str, ...] = ()
    error: str | None = None

    def __repr__(self) -> str:
        if self.probability is None:
            return f"<zoo.Row {self.input!r}: error {self.error!r}>"
        if self.known is False:
            return f"<zoo.Row {self.input!r}: none of the classes (nearest: {self.label!r}, {self.probability:.2%})>"
        return f"<zoo.Row {self.input!r}: {self.label!r} ({self.probability:.2%}){', unsure' if self.unsure else ''}>"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, in their order. `dataclasses.asdict` takes as long as decoding an image."""
        top_k = [{"label": guess.label, "probability": guess.probability} for guess in self.top_k]
        digits = [digit.to_dict() for digit in self.digits]
        fields = {**vars(self), "top_k": top_k, "digits": digits, "corrections": list(self.corrections)}
        fields["input"] = as_utf8(self.input)
        if self.error is not None:
            fields["error"] = as_utf8(self.error)
        return fields


def as_utf8(text: str) -> str:
    """Text that every output format can hold.

    File names need not be UTF-8. Python keeps their other bytes as lone surrogates, which neither JSON parsers nor
    Arrow accept. Such a byte, for example E9, becomes the six characters `\\udce9`.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


class Prepared(NamedTuple):
    """One input in the network's form, uint8 `(H, W, C)`; or None and an error sentence.

    `number` is set for an image that has, or may have, several digits. With an error, it certainly has: the error is
    the result for models that do not read numbers.
    """

    name: str
    pixels: Pixels | None
    corrections: tuple[str, ...] = ()
    number: Number | None = None
    error: str | None = None


def make_rows(
    card: Card,
    prepared: list[Prepared],
    probabilities: npt.NDArray[np.float32] | None,
    top_k: int = 3,
    known: npt.NDArray[np.float32] | None = None,
    readings: Mapping[int, list[Reading]] = MappingProxyType({}),
) -> list[Row]:
    """A row for each input, in order.

    Args:
        probabilities: float32 `(N, K)` of the inputs without an error; None where there are none.
        known: float32 `(N,)` of the same inputs; None for a model without this output.
        readings: of numbers, as `read_numbers` returns them.
    """
    guesses = iter(() if probabilities is None else _guesses(card.labels, probabilities, top_k))
    decisions = iter(is_known(card, known).tolist()) if known is not None else repeat(None)
    rows = [
        Row(image.name, card.name, error=image.error)
        if image.pixels is None
        else _row(card, image, next(guesses), next(decisions))
        for image in prepared
    ]
    for position, lines in readings.items():
        rows[position] = _number_row(card, prepared[position], lines, top_k)
    return rows


def _number_row(card: Card, image: Prepared, lines: list[Reading], top_k: int) -> Row:
    guesses = tuple([Guess(text, probability) for text, probability in joined(lines, min(top_k, len(card.labels)))])
    digits = tuple([digit for reading in lines for digit in reading.digits])
    note = f"found {len(digits)} digits" if len(digits) > 1 else "found one digit in several strokes"
    if len(lines) > 1:
        note += f" in {len(lines)} lines"
    corrections = (*(image.number.corrections if image.number else ()), note)
    unsure = not guesses[0].probability >= max(card.calibration.unsure_below, UNSURE_BELOW)
    values = [reading.known for reading in lines if reading.known is not None]
    known = bool(is_known(card, np.asarray(values, np.float32)).all()) if values else None
    several = digits if len(digits) > 1 else ()
    best = guesses[0]
    return Row(image.name, card.name, best.label, best.probability, unsure, known, guesses, several, corrections)


def is_known(card: Card, known: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which values of the output `known` reach the card's bound, `(N,)`. NaN does not."""
    return known.astype(np.float64) >= (card.calibration.known_from or 0.0)


def _guesses(
    labels: tuple[str, ...], probabilities: npt.NDArray[np.float32], top_k: int
) -> Iterator[tuple[Guess, ...]]:
    """The best labels of each row of `(N, K)`, best first; of equal ones the first label."""
    for values in probabilities.tolist():  # Python sorts ten values faster than a NumPy call takes
        best = sorted(range(len(labels)), key=values.__getitem__, reverse=True)[:top_k]
        yield tuple([Guess(labels[index], values[index]) for index in best])


def _row(card: Card, prepared: Prepared, guesses: tuple[Guess, ...], known: bool | None) -> Row:
    best = guesses[0]
    doubtful = any(correction.startswith(DOUBT) for correction in prepared.corrections)
    unsure = doubtful or not best.probability >= card.calibration.unsure_below  # NaN is unsure too
    corrections = prepared.corrections
    known = known and not any(correction.startswith(NO_WRITING) for correction in corrections)
    return Row(prepared.name, card.name, best.label, best.probability, unsure, known, guesses, (), corrections)
