"""Checks a model against its card: file hashes, the embedded card and, if the data set is available, the accuracy."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from zoo.card import OWN_IMAGES, Card
from zoo.datasets import catalog
from zoo.errors import BadData, BadModel, DataNotFound, ModelNotFound
from zoo.model import Model
from zoo.model_files import LARGEST_MODEL, read_file
from zoo.registry import Entry
from zoo.rows import is_known
from zoo.runtime import Device

KNOWN_TOLERANCE = 10  # images: more of them are close to the bound
TOLERANCE = 2  # images; another CPU rounds differently, which can change a result that is close to a tie
CHUNK = 32


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    passed: bool | None  # None if the check could not be made
    detail: str


def verify(model: Entry | Path, folder: str | None = None, device: Device = "auto") -> Iterator[Check]:
    """Yield the checks of one model. Stops after a file that differs from the card.

    Args:
        model: a registry entry, or the path of an ONNX file on its own, as returned by `zoo.loading.locate`. A file on
            its own can only be compared with the card inside it.
        folder: the folder of the test data, as in `zoo.datasets.catalog.load`; nothing is downloaded.
    Raises:
        ModelNotFound: there is no file at the path.
        DeviceUnavailable: no ONNX runtime, or the device cannot be used.
    """
    if isinstance(model, Path):
        content = read_file(model, LARGEST_MODEL)
        yield Check(
            "model.onnx", None, f"no card.json to compare with; sha256 {_sha256(content)[:12]}…, {len(content):,} bytes"
        )
        where = str(model)
    else:
        for check in chain(_check_files(model), _check_source(model)):
            yield check
            if check.passed is False:
                return
        content, where = model.read("model.onnx"), model.card.name
    try:
        opened = Model(content, device, where)
        same = isinstance(model, Path) or opened.card == model.card.embedded()
        yield Check("card", same, _card_detail(model, same))
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
                yield Check(file.name, None, "not installed; the training weights are only in the repository")
            continue
        except BadModel as error:
            yield Check(file.name, False, str(error))
            continue
        digest, path = _sha256(content), entry.folder / file.name
        if digest == file.sha256:
            yield Check(file.name, True, f"sha256 {digest[:12]}…, {len(content):,} bytes")
        else:
            yield Check(file.name, False, f"the sha256 of {path} differs from the card: get the model again.")


def _check_source(entry: Entry) -> Iterator[Check]:
    """Compare a pulled model's files with those that `zoo pull` wrote. Nothing for a model that was not pulled."""
    try:
        source = entry.source()
        if source is None:
            return
        changed = [name for name, digest in source.digests.items() if _sha256(entry.read(name)) != digest]
    except (BadModel, ModelNotFound) as error:
        yield Check("source", False, str(error))
        return
    if changed:
        remedy = f"run `zoo pull {source.repository}@{source.commit} --force`."
        yield Check("source", False, f"{', '.join(changed)} differs from what was pulled from {source}: {remedy}")
    else:
        yield Check("source", True, f"pulled from {source}; unchanged since: {', '.join(source.digests)}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _card_detail(model: Entry | Path, same: bool) -> str:
    if isinstance(model, Path):
        return "the card in the ONNX file matches its network"
    return "the card in the ONNX file equals card.json" if same else "the card in the ONNX file differs from card.json"


def _check_accuracy(model: Model, card: Card, folder: str | None) -> Check:
    if card.dataset is None or card.accuracy is None:
        return Check("accuracy", None, "not recomputed: the card has no data set or no accuracy")
    if card.dataset.name == OWN_IMAGES:
        return Check(
            "accuracy",
            None,
            "not recomputed: the model was trained on its author's own images. Measure it on labelled images: "
            f"zoo evaluate {card.name} FOLDER",
        )
    known = catalog.DATASETS.get(card.dataset.name)
    if known is None:
        return Check("accuracy", None, f"not recomputed: unknown data set {card.dataset.name!r}")
    if (known.image_shape, known.labels) != (card.input.shape, card.labels):
        return Check("accuracy", False, f"the card's input and labels differ from those of {known.title}")
    try:
        test = catalog.load(card.dataset.name, "test", folder, download=False)
    except DataNotFound as error:
        return Check("accuracy", None if folder is None else False, f"not recomputed: {error}")
    except BadData as error:
        return Check("accuracy", False, f"not recomputed: {error}")
    correct, known_count, bound = 0, 0, card.calibration.known_from
    for start in range(0, len(test.labels), CHUNK):
        scores = model.run(test.images[start : start + CHUNK])
        correct += int(np.count_nonzero(scores.logits.argmax(1) == test.labels[start : start + CHUNK]))
        known_count += 0 if scores.known is None else int(is_known(card, scores.known).sum())
    passed = abs(correct - card.accuracy.correct) <= TOLERANCE
    detail = f"{correct} of {len(test.labels)} test images correct; in the card: {card.accuracy.correct}"
    if bound is not None:
        detail += f"; {known_count / len(test.labels):.2%} known"
        if card.known is not None and (share := card.known.test_known) is not None:
            passed = passed and abs(known_count - share * len(test.labels)) <= KNOWN_TOLERANCE
            detail += f"; in the card: {share:.2%}"
    return Check("accuracy", passed, detail)
