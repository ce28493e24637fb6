"""evaluate(): any model of the zoo on anybody's labelled images, without torch.

    >>> result = zoo.evaluate("mnist14k", "my-digits/")
    >>> result.accuracy, result.interval95

Images are prepared and classified by the steps of `zoo/classification.py`, as in every interface. Nothing is fitted
here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.classification import CHUNK, prepare_all, stack_pixels
from zoo.datasets.folders import Item, Problem, SplitName, labelled_images, mapped
from zoo.errors import BadData, BadInput, WrongUsage
from zoo.loading import load
from zoo.model import Model
from zoo.rows import Prepared
from zoo.runtime import Device

BINS = 15  # of the reliability, as on the cards
WORST = 20  # images that are listed
MIN_IMAGES_FOR_SUSPECTS = 20


@dataclass(frozen=True)
class ClassResult:
    """One class: its images, and precision and recall, None where there is nothing to divide by."""

    label: str
    images: int
    predicted: int
    correct: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Mistake:
    """An image whose prediction differs from its label."""

    image: str
    label: str
    prediction: str
    probability: float  # of the prediction
    label_probability: float


@dataclass(frozen=True)
class Bin:
    """Predictions of similar probability: how many, their mean probability, and their accuracy."""

    images: int
    probability: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on labelled images; every share is from 0 to 1."""

    model: str
    source: str
    images: int
    correct: int
    accuracy: float
    interval95: tuple[float, float]  # Wilson's interval
    loss: float  # mean cross-entropy of the calibrated probabilities, in nats
    unsure: float  # share of the images below the card's threshold
    calibration_error: float  # expected calibration error, 15 bins
    reliability: tuple[Bin, ...]
    labels: tuple[str, ...]  # of the model, in the order of `confusion`
    confusion: tuple[tuple[int, ...], ...]  # rows: labels; columns: predictions
    classes: tuple[ClassResult, ...]  # those with images or predictions
    worst: tuple[Mistake, ...]  # the most confident mistakes
    suspected_labels: tuple[Mistake, ...] | None  # by confident learning; None if cleanlab is not installed
    unreadable: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)


def evaluate(
    model: Model | str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    mapping: Mapping[str, str] | None = None,
    split: SplitName | None = None,
    device: Device = "auto",
) -> Evaluation:
    """Classify labelled images and compare the results with their labels.

    Args:
        model: an open model, or what `zoo.load` takes.
        source: a folder with one sub-folder per class, a CSV or parquet file, or a zip of these.
        mapping: names of classes -> labels of the model, for those that are not equal.
        split: only this split, where the images have splits: "train", "validation" or "test".
        device: as in `zoo.load`.
    Raises:
        WrongUsage: there is no such path, or a class is not among the model's labels.
        BadData: there are no labelled images, or none can be read.
        ModelNotFound, BadModel, DeviceUnavailable: as in `zoo.load`.
    """
    opened = model if isinstance(model, Model) else load(model, device)
    data = labelled_images(source)
    items = [item for item in data.items if split is None or item.split == split]
    if not items:
        raise WrongUsage(f"{data.path} has no images of the split {split!r}: omit the split.")
    names = {item.label for item in items}
    labels = mapped(tuple(label for label in data.labels if label in names), opened.card.labels, mapping)
    position = {label: index for index, label in enumerate(opened.card.labels)}
    kept, probabilities, problems = _classify(opened, items)
    if not kept:
        raise BadData(f"None of the {len(items):,} images in {data.path} can be read; the first: {problems[0].reason}")
    truth = np.array([position[labels[item.label]] for item in kept])
    return measure(
        opened.card.name,
        data.path,
        opened.card.labels,
        [item.name for item in kept],
        truth,
        probabilities,
        opened.card.calibration.unsure_below,
        (*data.problems, *problems),
    )


def _classify(model: Model, items: list[Item]) -> tuple[list[Item], npt.NDArray[np.float32], list[Problem]]:
    """The items that can be read, their probabilities `(N, K)`, and the problems of the others."""
    kept: list[Item] = []
    problems: list[Problem] = []
    results = [np.empty((0, len(model.card.labels)), np.float32)]
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        prepared = _prepared(model, chunk)
        images = stack_pixels(prepared)
        if images is not None:
            results.append(model.run(images).probabilities)
        for item, image in zip(chunk, prepared, strict=True):
            if image.pixels is None:
                problems.append(Problem(item.name, image.error or "cannot be read"))
            else:
                kept.append(item)
    return kept, np.concatenate(results), problems


def _prepared(model: Model, items: list[Item]) -> list[Prepared]:
    """Like `prepare_all`; an item whose bytes cannot be read has an error."""
    sources: list[Any] = []
    failed: dict[int, Prepared] = {}
    for index, item in enumerate(items):
        try:
            sources.append(item.read())
        except BadInput as error:
            failed[index] = Prepared(item.name, None, error=str(error))
    rest = iter(prepare_all(sources, model.card.input, single=True))
    return [failed.get(index) or next(rest) for index in range(len(items))]


def measure(
    model: str,
    source: str,
    labels: tuple[str, ...],
    names: Sequence[str],
    truth: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    unsure_below: float,
    problems: Sequence[Problem] = (),
) -> Evaluation:
    """Compute every figure from probabilities `(N, K)` and the positions of the true labels `(N,)`."""
    values = np.asarray(probabilities, np.float64)
    rows = np.arange(len(truth))
    answers, top, own = values.argmax(1), values.max(1), values[rows, truth]
    correct = int((answers == truth).sum())
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, answers), 1)
    error, reliability = reliability_of(top, answers == truth)

    def mistake(row: int) -> Mistake:
        probability, label_probability = round(float(top[row]), 6), round(float(own[row]), 6)
        return Mistake(names[row], labels[truth[row]], labels[answers[row]], probability, label_probability)

    wrong = np.flatnonzero(answers != truth)
    worst = wrong[np.argsort(own[wrong] - top[wrong], kind="stable")][:WORST]
    suspects = suspected_labels(truth, values)
    return Evaluation(
        model=model,
        source=source,
        images=len(truth),
        correct=correct,
        accuracy=correct / len(truth),
        interval95=wilson(correct / len(truth), len(truth)),
        loss=abs(float(np.log(np.maximum(own, 1e-12)).mean())),  # abs: no -0.0
        unsure=float((top < unsure_below).mean()),
        calibration_error=error,
        reliability=reliability,
        labels=labels,
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        classes=tuple(_classes(labels, confusion)),
        worst=tuple(mistake(int(row)) for row in worst),
        suspected_labels=None if suspects is None else tuple(mistake(int(row)) for row in suspects),
        unreadable=tuple(problems),
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of `n` trials (Wilson 1927, z = 1.96)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability_of(
    top: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = BINS
) -> tuple[float, tuple[Bin, ...]]:
    """The expected calibration error (Guo et al., arXiv 1706.04599) and the occupied bins of equal width.

    Args:
        top: `(N,)`, the probability of each prediction, 0 to 1.
        right: `(N,)`, whether it was right.
    """
    occupied: list[Bin] = []
    error = 0.0
    bin_of = np.minimum((top * bins).astype(np.int64), bins - 1)
    for number in range(bins):
        inside = bin_of == number
        if count := int(inside.sum()):
            occupied.append(Bin(count, float(top[inside].mean()), float(right[inside].mean())))
            error += count / len(top) * abs(occupied[-1].probability - occupied[-1].accuracy)
    return error, tuple(occupied)


def _classes(labels: tuple[str, ...], confusion: npt.NDArray[np.int64]) -> list[ClassResult]:
    results = []
    for index, label in enumerate(labels):
        images, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        correct = int(confusion[index, index])
        precision, recall = (correct / n if n else None for n in (predicted, images))
        if images or predicted:
            results.append(ClassResult(label, images, predicted, correct, precision, recall))
    return results


def suspected_labels(
    truth: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64] | None:
    """Rows whose label is probably wrong, most suspicious first (confident learning: Northcutt et al., 1911.00068).

    None without cleanlab. The probabilities should be of a model that has not learned these labels.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    present, compact = np.unique(truth, return_inverse=True)
    if len(present) < 2 or len(truth) < MIN_IMAGES_FOR_SUSPECTS:
        return np.empty(0, np.int64)
    shares = probabilities[:, present] + 1e-9
    shares /= shares.sum(1, keepdims=True)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = find_label_issues(compact, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    rows = np.asarray(rows, np.int64)
    different = np.asarray(probabilities[rows].argmax(1) != truth[rows], np.bool_)
    return np.asarray(rows[different], np.int64)
