"""Accuracy on corrupted test sets: writes `docs/robustness/NAME.json` per model.

The corrupted test sets are generated from a seed and not stored. No setting is chosen on them. They did show that
mnist14k.plus 1.0.0 was not robust to fog and 1.1.0 not to impulse noise; the remedies were chosen on the validation
split.
"""

import json
import statistics
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.corruptions import KINDS, Kind
from train.data import Split, held_out_data
from zoo import registry
from zoo.card import Card
from zoo.loading import load

RESULTS = Path(__file__).parents[1] / "docs" / "robustness"
CHUNK = 500
SEVERITIES = range(1, 6)
Result = dict[str, Any]


def measure(name: str, folder: str | None, results: Path = RESULTS) -> Result:
    """Classify the test set with every corruption at every severity; write and return the accuracies.

    Args:
        name: name of a model of the zoo.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
        results: folder to write `NAME.json` to.
    """
    card, model = registry.find(name).card, load(name, "cpu")
    test = held_out_data(card.trained.dataset.name, "full", folder)

    def classify(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model.run(np.ascontiguousarray(images.numpy())).logits.argmax(1))

    kinds = accuracies(classify, test, card.trained.dataset.name)
    result = {
        "model": card.name,
        "sha256": weights_sha256(card),
        "images": len(test),
        "clean": card.trained.accuracy.value,
        "mean": round(statistics.fmean(accuracy for row in kinds.values() for accuracy in row), 6),
        "kinds": kinds,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{card.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def weights_sha256(card: Card) -> str:
    """Return the digest of the weights, or of the ONNX file (which also changes with its card) for int8 models."""
    return card.file("model.onnx" if card.quantization else "model.safetensors").sha256


def accuracies(
    classify: Callable[[torch.Tensor], torch.Tensor], split: Split, dataset: str, severities: Sequence[int] = SEVERITIES
) -> dict[str, list[float]]:
    """Return the accuracy on a corrupted split: for every corruption of the dataset a list over the severities.

    Args:
        classify: uint8 `(N, H, W, C)` → int64 `(N,)`, the predicted classes.
    """
    return {
        name: [_accuracy(classify, split, kind, severity, name) for severity in severities]
        for name, kind in KINDS[dataset].items()
    }


def corrupted(images: torch.Tensor, kind: Kind, severity: int, seed: int) -> torch.Tensor:
    """Corrupt uint8 images `(N, H, W, C)` with a severity from 1 to 5."""
    return kind.change(images, kind.strengths[severity - 1], torch.Generator().manual_seed(seed))


def _accuracy(
    classify: Callable[[torch.Tensor], torch.Tensor], split: Split, kind: Kind, severity: int, name: str
) -> float:
    correct = 0
    for start in range(0, len(split), CHUNK):
        rows = slice(start, start + CHUNK)
        images = corrupted(split.images[rows], kind, severity, zlib.crc32(f"{name}/{severity}/{start}".encode()))
        correct += int((classify(images) == split.labels[rows]).sum())
    return correct / len(split)


def read(results: Path = RESULTS) -> dict[str, Result]:
    """Return the stored results by model."""
    stored = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json")))
    return {result["model"]: result for result in stored}
