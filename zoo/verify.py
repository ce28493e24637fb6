"""Is a model what its card says? Hashes, the embedded card and, where the data are, the accuracy on all test images."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zoo import datasets
from zoo.card import Card
from zoo.errors import BadData, DataNotFound
from zoo.predictor import Model
from zoo.registry import Entry
from zoo.runtime import Device

TOLERANCE = 2  # images; another CPU's rounding can flip an answer that stands on the edge
CHUNK = 32


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. passed: None where it could not be looked at; detail: a sentence either way."""

    name: str
    passed: bool | None
    detail: str


def verify(entry: Entry, folder: str | None = None, device: Device = "auto") -> Iterator[Check]:
    """Yield the checks of one model, stopping where a file is not the one that the card describes.

    Args:
        entry: the model.
        folder: where test data lie, as in `zoo.datasets.load`; nothing is downloaded.
    """
    for file in entry.card.files:
        path = entry.folder / file.name
        if not path.exists():
            if file.name == "model.onnx":
                yield Check(file.name, False, f"{path} is missing: get the model again.")
                return
            yield Check(file.name, None, "not installed here: weights for training stay in the repository")
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
            yield Check(file.name, False, f"{path} has another sha256 than the card says: get the model again.")
            return
        yield Check(file.name, True, f"sha256 {file.sha256[:12]}…, {file.size_bytes:,} bytes")
    model = Model((entry.folder / "model.onnx").read_bytes(), device, entry.card.name)
    same = model.card == entry.card.embedded()
    yield Check("card", same, f"the file carries {'the same' if same else 'another'} card")
    yield _check_accuracy(model, entry.card, folder)


def _check_accuracy(model: Model, card: Card, folder: str | None) -> Check:
    try:
        test = datasets.load(card.dataset.name, "test", folder, download=False)
    except DataNotFound as error:
        return Check("accuracy", None if folder is None else False, f"not recomputed: {error}")
    except BadData as error:
        return Check("accuracy", False, f"not recomputed: {error}")
    right = 0
    for start in range(0, len(test.labels), CHUNK):
        scores = model.run(test.images[start : start + CHUNK])
        right += int(np.count_nonzero(scores.logits.argmax(1) == test.labels[start : start + CHUNK]))
    passed = abs(right - card.accuracy.correct) <= TOLERANCE
    detail = f"{right} of {len(test.labels)} test images right, the card says {card.accuracy.correct}"
    return Check("accuracy", passed, detail)
