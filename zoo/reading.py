"""Numbers: from the candidates of `zoo/images/numbers.py` and the network's answers to the most probable digits.

Every way from a line's left end to its right end, from cut to cut, is a possible reading. A small network of 32 hidden
units gives each candidate a score, from its geometry, its image and what the classifier answers for it: how probable
it is that this ink is one whole digit. The probability of a way is the exponential of the sum of its scores, divided by
the sum over all ways (a conditional random field, as Y. LeCun et al., 1998, section VI train it). So the parts of
touching digits compete with the whole in one sum, and an image of one digit is read as one digit.

The weights are in `zoo/images/numbers.json`. `python -m bench.numbers fit` computes them from MNIST training digits.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.images.numbers import FEATURES, Line, score

Array = npt.NDArray[Any]
Text = tuple[str, float]  # a text and its probability

DIGITS = tuple("0123456789")  # the labels of models that can read numbers
UNSURE_BELOW = 0.8  # of a number, whatever the card says for one digit: cuts are less certain than digits
GAP = " "  # in a text: a mark that is no digit, or a wide distance between digits

_BLOCK = 4  # pixels: the scoring network sees a candidate's image reduced to the means of such blocks
_BLOCKS = 28 // _BLOCK
INPUTS = FEATURES + 12 + _BLOCKS**2  # of it: geometry, known, log of the highest probability, all ten, the blocks
_MAX_PIECES = 3  # more pieces of a candidate count as this many
_LEAST = 1e-4  # probabilities below it count as this
_WIDE_GAP = 1.0  # of the line's height: digits further apart are separated by a gap,
_UNUSUAL_GAP = 2.5  # if this is also so many times the median distance
_ALTERNATIVES = 10  # texts per reading
_WORST_SCORE = -12.0  # a line with a candidate below it is no number,
_MAX_DIGITS = 40  # nor is one of more digits: they are the strokes of a pattern


@dataclass(frozen=True)
class Digit:
    """One digit of a number.

    Attributes:
        label: the label with the highest probability.
        probability: 0 to 1, that this digit comes next, after the digits on its left.
        box: x0, y0, x1, y1 in pixels of the decoded, upright image.
    """

    label: str
    probability: float
    box: tuple[int, int, int, int]

    def to_dict(self) -> dict[str, Any]:
        return {"label": self.label, "probability": self.probability, "box": list(self.box)}


@dataclass(frozen=True)
class Reading:
    """One line of digits.

    Attributes:
        text: the digits; a gap is one space. Points, commas and dashes between digits are gaps; a slash is a one.
        probability: the product of the digits' probabilities.
        digits: from left to right.
        box: around all digits.
        alternatives: the most probable texts with these boxes, best first; the first one is `text`.
        known: the mean of the model's output `known` for these digits, but at most ten times the lowest: a single part
            that is no digit makes a word of letters. None if the model has no such output.
    """

    text: str
    probability: float
    digits: tuple[Digit, ...]
    box: tuple[int, int, int, int]
    alternatives: tuple[Text, ...] = ()
    known: float | None = None


def read_lines(lines: Sequence[Line], probabilities: Array, known: Array | None = None) -> list[Reading]:
    """A reading for each line that is a number, in the same order.

    Args:
        probabilities: float32 `(C, 10)`, the network's, of the candidates of all lines, joined.
        known: float32 `(C,)`, its output of that name.
    """
    readings = []
    start = 0
    for line in lines:
        own = slice(start, start := start + len(line.first))
        reading = _read_line(line, probabilities[own], None if known is None else known[own])
        if reading is not None:
            readings.append(reading)
    return readings


def joined(readings: Sequence[Reading], count: int) -> list[Text]:
    """The most probable texts of all lines together, best first; lines are separated by a gap."""
    return most_probable([reading.alternatives for reading in readings], count, GAP)


def _read_line(line: Line, probabilities: Array, known: Array | None) -> Reading | None:
    scores = candidate_scores(line, probabilities, known)
    path = best_path(line.cuts, line.first, line.last, scores)
    if not 0 < len(path) <= _MAX_DIGITS or scores[path].min() < _WORST_SCORE:
        return None
    chosen = np.array(path)
    boxes = line.boxes[chosen]
    best = probabilities[chosen].argmax(axis=1)
    shares = _text_probabilities(line, scores, probabilities, best.tolist())
    relative = probabilities[chosen].astype(np.float64)
    values = relative / relative.max(axis=1, keepdims=True) * shares[:, None]
    digits = tuple(
        Digit(DIGITS[label], float(row[label]), (int(x0), int(y0), int(x1), int(y1)))
        for label, row, (x0, y0, x1, y1) in zip(best.tolist(), values, boxes.tolist(), strict=True)
    )
    slots: list[Sequence[Text]] = []
    for index, row in enumerate(values.tolist()):
        gap = GAP if index and _is_gap(line, boxes, index) else ""
        slots.append([(gap + label, p) for label, p in zip(DIGITS, row, strict=True)])
    alternatives = most_probable(slots, _ALTERNATIVES)
    text, probability = alternatives[0]
    x0, y0 = boxes[:, :2].min(axis=0).tolist()
    x1, y1 = boxes[:, 2:].max(axis=0).tolist()
    certainty = None if known is None else float(min(known[chosen].mean(), 10 * known[chosen].min()))
    return Reading(text, probability, digits, (x0, y0, x1, y1), tuple(alternatives), certainty)


def _text_probabilities(line: Line, scores: Array, probabilities: Array, labels: list[int]) -> npt.NDArray[np.float64]:
    """For each label of a text, its probability given the labels before it; the product is that of the whole text.

    All ways that read the text count, because cuts that are close to each other give the same digits.
    """
    rest = log_sums(line.cuts, line.first, line.last, scores)
    logs = np.log(np.maximum(probabilities[:, labels], _LEAST))
    sums = np.full(line.cuts, -np.inf)
    sums[0] = 0.0
    totals = [float(rest[0])]
    for step in range(len(labels)):
        after = np.full(line.cuts, -np.inf)
        np.logaddexp.at(after, line.last, sums[line.first] + scores + logs[:, step])
        sums = after
        is_last = step == len(labels) - 1
        totals.append(float(sums[-1] if is_last else np.logaddexp.reduce(sums + rest)))
    return np.exp(np.minimum(np.diff(totals), 0))


def _is_gap(line: Line, boxes: Array, index: int) -> bool:
    """Whether a mark or an unusual distance is between a digit and the one before it."""
    end, start = float(boxes[index - 1, 2]), float(boxes[index, 0])
    if any(end - 0.15 * line.height <= mark <= start + 0.15 * line.height for mark in line.marks):
        return True
    gaps = boxes[1:, 0] - boxes[:-1, 2]
    usual = max(float(np.median(gaps)), 0.1 * line.height)
    return len(gaps) > 2 and start - end > max(_WIDE_GAP * line.height, _UNUSUAL_GAP * usual)


def most_probable(slots: Iterable[Sequence[Text]], count: int, separator: str = "") -> list[Text]:
    """The `count` most probable texts that take one part from each slot, best first; of equal ones the first."""
    best: list[Text] = []
    for slot in slots:
        if best:
            slot = [(f"{text}{separator}{part}", p * q) for text, p in best for part, q in slot]
        best = sorted(slot, key=lambda item: -item[1])[:count]
    return best


def candidate_scores(line: Line, probabilities: Array, known: Array | None) -> npt.NDArray[np.float64]:
    """The score of each candidate, `(C,)`: about the log odds that it is one whole digit."""
    return score(inputs(line, probabilities, known), "plain" if known is None else "known")


def inputs(line: Line, probabilities: Array, known: Array | None) -> npt.NDArray[np.float64]:
    """What the scoring network takes, `(C, INPUTS)`."""
    values = np.zeros((len(line.first), INPUTS))
    values[:, :FEATURES] = line.features
    values[:, FEATURES - 1] = np.minimum(values[:, FEATURES - 1], _MAX_PIECES)
    if known is not None:
        bounded = np.clip(np.asarray(known, np.float64), _LEAST, 1 - _LEAST)
        values[:, FEATURES] = np.log(bounded / (1 - bounded)) / 4
    values[:, FEATURES + 1] = np.log(np.maximum(probabilities.max(axis=1), _LEAST))
    values[:, FEATURES + 2 : FEATURES + 12] = probabilities
    blocks = line.pixels.reshape(-1, _BLOCKS, _BLOCK, _BLOCKS, _BLOCK).mean(axis=(2, 4)) / 255
    values[:, FEATURES + 12 :] = blocks.reshape(-1, _BLOCKS**2)
    return values


def best_path(cuts: int, first: Array, last: Array, scores: Array) -> list[int]:
    """The candidates, from left to right, of the way from cut 0 to the last cut with the highest sum; [] for none."""
    best = [-np.inf] * cuts
    origin = [-1] * cuts
    best[0] = 0.0
    ends, begins, values = last.tolist(), first.tolist(), scores.tolist()
    for index in sorted(range(len(ends)), key=ends.__getitem__):
        total = best[begins[index]] + values[index]
        if total > best[ends[index]]:
            best[ends[index]], origin[ends[index]] = total, index
    path: list[int] = []
    cut = cuts - 1
    while cut > 0 and origin[cut] >= 0:
        path.append(origin[cut])
        cut = begins[path[-1]]
    return path[::-1] if cut == 0 else []


def log_sums(cuts: int, first: Array, last: Array, scores: Array) -> npt.NDArray[np.float64]:
    """For each cut, the logarithm of the sum over all ways from it to the last cut of exp(sum of scores)."""
    sums = np.full(cuts, -np.inf)
    sums[-1] = 0
    for cut in range(cuts - 2, -1, -1):
        here = first == cut
        if here.any():
            sums[cut] = np.logaddexp.reduce(scores[here] + sums[last[here]])
    return sums
