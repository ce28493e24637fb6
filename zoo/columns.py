"""Rows as columns: the results of many images in a few arrays and lists, for batches.

`Row` objects are made for people; making one, its guesses and its dictionary takes as long as reading a small file.
Batches keep the values in columns, from which `serve.batch.formats` writes text and Arrow directly. Both hold the same
values to the bit.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
import numpy.typing as npt

from zoo.card import Card
from zoo.classification import CHUNK, read_numbers, stack_pixels
from zoo.images.digits import DOUBT, NO_WRITING
from zoo.model import Model
from zoo.reading import Digit
from zoo.rows import Guess, Prepared, Row, is_known, make_rows
from zoo.scores import Outputs, Scores


@dataclass(frozen=True)
class Columns:
    """N results, in input order. Arrays have M rows: one for each result without an error, in the same order."""

    model: str
    labels: Sequence[str]
    names: list[str]  # N
    corrections: list[tuple[str, ...]]  # N
    errors: list[str | None]  # N
    top: npt.NDArray[np.intp]  # (M, k): indexes into `labels`, most probable first
    probabilities: npt.NDArray[np.float64]  # (M, k): of these labels
    unsure: npt.NDArray[np.bool_]  # (M,)
    known: npt.NDArray[np.bool_] | None = None  # (M,); None for a model without this output
    digits: dict[int, tuple[Digit, ...]] = field(default_factory=dict)  # of numbers, by their position of N

    def __len__(self) -> int:
        return len(self.names)

    def rows(self) -> list[Row]:
        """The same results as `Row` objects."""
        known = repeat(None, len(self.top)) if self.known is None else self.known.tolist()
        values = zip(self.top.tolist(), self.probabilities.tolist(), self.unsure.tolist(), known, strict=True)
        rows = []
        for position, name in enumerate(self.names):
            corrections, error, digits = (
                self.corrections[position],
                self.errors[position],
                self.digits.get(position, ()),
            )
            if error is not None:
                rows.append(Row(name, self.model, error=error))
                continue
            indexes, probabilities, unsure, is_known = next(values)
            guesses = tuple([Guess(self.labels[i], p) for i, p in zip(indexes, probabilities, strict=True)])
            best = guesses[0]
            rows.append(
                Row(name, self.model, best.label, best.probability, unsure, is_known, guesses, digits, corrections)
            )
        return rows

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Columns:
        """Columns of rows that one model gave with one `top_k`."""
        rows = list(rows)
        good = [row for row in rows if row.error is None]
        labels = list(dict.fromkeys(guess.label for row in good for guess in row.top_k))
        index = {label: position for position, label in enumerate(labels)}
        k = len(good[0].top_k) if good else 0
        return cls(
            rows[0].model if rows else "",
            labels,
            [row.input for row in rows],
            [row.corrections for row in rows],
            [row.error for row in rows],
            np.array([[index[guess.label] for guess in row.top_k] for row in good], np.intp).reshape(len(good), k),
            np.array([[guess.probability for guess in row.top_k] for row in good]).reshape(len(good), k),
            np.array([row.unsure for row in good], np.bool_),
            None if any(row.known is None for row in good) else np.array([row.known for row in good], np.bool_),
            {position: row.digits for position, row in enumerate(rows) if row.digits},
        )


def classify_columns(
    model: Model,
    prepared: list[Prepared],
    top_k: int = 3,
    run: Callable[[npt.NDArray[np.uint8]], Outputs | Scores] | None = None,
) -> Columns:
    """Run all prepared images, `CHUNK` per session call.

    Args:
        run: replaces `model.run` and takes all images in one call, such as `zoo.runtime.Bound.run`.
    """
    images = stack_pixels(prepared)
    if images is None:
        scores = Scores(*[np.empty((0, len(model.card.labels)), np.float32)] * 2)
    elif run is not None:
        scores = Scores(*run(images))
    else:
        scores = Scores.joined([model.run(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])
    readings = read_numbers(model.card, prepared, scores, run or model.run)
    if readings:  # their texts are no labels of the model
        rows = make_rows(model.card, prepared, scores.probabilities, top_k, scores.known, readings)
        return Columns.from_rows(rows)
    return make_columns(model.card, prepared, scores.probabilities, top_k, scores.known)


def make_columns(
    card: Card,
    prepared: list[Prepared],
    probabilities: npt.NDArray[np.float32],
    top_k: int = 3,
    known: npt.NDArray[np.float32] | None = None,
) -> Columns:
    """The same results as `zoo.rows.make_rows`.

    Args:
        probabilities: float32 `(M, K)` of the inputs without an error.
        known: float32 `(M,)` of the same inputs; None for a model without this output.
    """
    values = probabilities.astype(np.float64)
    if np.isnan(values).any():  # a network from elsewhere; what Python's sort makes of NaN is defined by Python alone
        order = [sorted(range(len(row)), key=row.__getitem__, reverse=True) for row in values.tolist()]
        ranking = np.array(order, np.intp)
    else:
        ranking = np.argsort(-values, axis=1, kind="stable")  # of equal ones the first label
    top = ranking[:, :top_k]
    best = np.take_along_axis(values, top, axis=1)
    corrections = [image.corrections for image in prepared]
    unsure = ~(best[:, 0] >= card.calibration.unsure_below)  # NaN is unsure too
    known_rows = None if known is None else is_known(card, known)
    if any(corrections):
        good = [image.corrections for image in prepared if image.pixels is not None]
        unsure |= np.array([any(text.startswith(DOUBT) for text in texts) for texts in good], np.bool_)
        if known_rows is not None:
            known_rows &= np.array([not any(text.startswith(NO_WRITING) for text in texts) for texts in good], np.bool_)
    return Columns(
        card.name,
        card.labels,
        [image.name for image in prepared],
        corrections,
        [image.error for image in prepared],
        top,
        best,
        unsure,
        known_rows,
    )
