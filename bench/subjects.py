"""The models under test, each with test images that it classifies correctly by a clear margin."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo import registry
from zoo.datasets import catalog as datasets
from zoo.errors import BadModel
from zoo.loading import load
from zoo.registry import Entry

MODELS = ("mnist14k", "mnist10k", "mnist4k", "cifar90k", "cifar93k", "resnet8")  # as users name them: default recipes
MLPERF = "resnet8.mlperf"  # MLPerf Tiny's network, trained as MLPerf does: the reference point
SHIPPED = tuple(entry for entry in registry.scan() if entry.folder.parent == registry.SHIPPED_FOLDER)
QUANTIZED = tuple(entry.card.name for entry in SHIPPED if entry.card.quantization)
IMAGES = 256  # the largest batch size
MARGIN = 1.0  # between the best logit and the next, so that no runtime's rounding changes the label


@dataclass(frozen=True)
class Subject:
    """A model under test and its images."""

    entry: Entry
    images: npt.NDArray[np.uint8]  # (IMAGES, H, W, C), of the test set
    labels: npt.NDArray[np.int64]  # (IMAGES,), indices into the card's labels; the model's answers are the same
    files: list[bytes]  # the same images as PNG files

    @property
    def names(self) -> list[str]:
        """The names of the labels."""
        return [self.entry.card.labels[index] for index in self.labels]


def load_subject(name: str) -> Subject:
    """Find a model and the first images of its test set that it classifies correctly by `MARGIN`.

    Raises:
        ZooError: the model or its dataset is missing, or too few answers are correct.
    """
    import cv2

    entry = registry.find(name)
    test = datasets.load(entry.card.trained.dataset.name, "test")
    images, labels = test.images[: 4 * IMAGES], test.labels[: 4 * IMAGES]
    logits = load(entry.card.name, "cpu").run(images).logits
    ordered = np.sort(logits, 1)
    clear = (logits.argmax(1) == labels) & (ordered[:, -1] - ordered[:, -2] > MARGIN)
    chosen = np.flatnonzero(clear)[:IMAGES]
    if len(chosen) < IMAGES:
        raise BadModel(
            f"{entry.card.name} classifies {len(chosen)} of {len(images)} test images correctly by a clear margin, and "
            f"benchmarks need {IMAGES}: train it longer."
        )
    images = np.ascontiguousarray(images[chosen])
    files = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]  # OpenCV's channels are BGR
    return Subject(entry, images, labels[chosen].astype(np.int64), files)
