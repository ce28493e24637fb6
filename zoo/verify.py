"""Is a model what its card says? Hashes, the embedded card and, where the data are, the accuracy on all test images."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.card import Card
from zoo.datasets import catalog as datasets
from zoo.errors import BadData, BadModel, DataNotFound, ModelNotFound
from zoo.model import Model
from zoo.model_files import LARGEST_MODEL, read_file
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


def verify(model: Entry | Path, folder: str | None = None, device: Device = "auto") -> Iterator[Check]:
    """Yield the checks of one model, stopping where a file is not the one that the card describes.

    Args:
        model: a model with its card beside it, or the path of an ONNX file on its own, as `zoo.model.locate` gives
            them. A file on its own can only be compared with the card that it carries.
        folder: where test data lie, as in `zoo.datasets.catalog.load`; nothing is downloaded.
    Raises:
        ModelNotFound: there is no file at the path. DeviceUnavailable: no runtime, or not on that device.
    """
    if isinstance(model, Path):
        content = read_file(model, LARGEST_MODEL)
        yield Check("model.onnx", None, f"no card beside it; sha256 {_sha256(content)[:12]}…, {len(content):,} bytes")
        where = str(model)
    else:
        for check in _check_files(model):
            yield check
            if check.passed is False:
                return
        content, where = model.read("model.onnx"), model.card.name
    try:
        opened = Model(content, device, where)
        same = isinstance(model, Path) or opened.card == model.card.embedded()
        yield Check("card", same, f"the file carries {_card_found(model, same)}")
        yield _check_accuracy(opened, opened.card if isinstance(model, Path) else model.card, folder)
    except BadModel as error:
        yield Check("form", False, str(error))


def _check_files(entry: Entry) -> Iterator[Check]:
    for file in entry.card.files:
        try:
            content = entry.read(file.name)
        except ModelNotFound:
            if file.name == "model.onnx":
                yield Check(file.name, False, f"{entry.folder / file.name} is missing: get the model again.")
            else:
                yield Check(file.name, None, "not installed here: weights for training stay in the repository")
            continue
        except BadModel as error:
            yield Check(file.name, False, str(error))
            continue
        found, path = _sha256(content), entry.folder / file.name
        if found == file.sha256:
            yield Check(file.name, True, f"sha256 {found[:12]}…, {len(content):,} bytes")
        else:
            yield Check(file.name, False, f"{path} has another sha256 than the card says: get the model again.")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _card_found(model: Entry | Path, same: bool) -> str:
    if isinstance(model, Path):
        return "a card that fits its network"
    return f"{'the same' if same else 'another'} card"


def _check_accuracy(model: Model, card: Card, folder: str | None) -> Check:
    known = datasets.DATASETS.get(card.dataset.name)
    if known is None:
        return Check("accuracy", None, f"not recomputed: the data set {card.dataset.name!r} is not known here")
    if (known.image_shape, known.labels) != (card.input.shape, card.labels):
        return Check("accuracy", False, f"the card's input and labels are not those of {known.title}")
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
