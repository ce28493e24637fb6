"""A model under test: its files, and pictures that it labels right and clearly, as arrays and as PNG files."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo import registry
from zoo.datasets import catalog as datasets
from zoo.errors import BadModel
from zoo.model import load
from zoo.registry import Entry

PICTURES = 256  # the largest batch
CLEAR = 1.0  # the best logit is ahead by so much: no runtime's rounding may change the label


@dataclass(frozen=True)
class Subject:
    """images: uint8 `(PICTURES, H, W, C)` of the test set; labels: int64 `(PICTURES,)`, indices into
    `entry.card.labels`: their true labels, which are the model's answers too; files: the same images as PNG files.
    """

    entry: Entry
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    files: list[bytes]

    @property
    def names(self) -> list[str]:
        """The labels in words."""
        return [self.entry.card.labels[index] for index in self.labels]


def subject(name: str) -> Subject:
    """Find a model and the first pictures of its test set that it labels right and clearly.

    Raises:
        ZooError: the model or its data set is not here, or it has learned too little; the message says what to do.
    """
    import cv2

    entry = registry.find(name)
    test = datasets.load(entry.card.dataset.name, "test")
    images, labels = test.images[: 4 * PICTURES], test.labels[: 4 * PICTURES]
    logits = load(entry.card.name, "cpu").run(images).logits
    ordered = np.sort(logits, 1)
    clear = (logits.argmax(1) == labels) & (ordered[:, -1] - ordered[:, -2] > CLEAR)
    right = np.flatnonzero(clear)[:PICTURES]
    if len(right) < PICTURES:
        raise BadModel(f"{entry.card.name} labels only {len(right)} of {len(images)} test images right: train it.")
    images = np.ascontiguousarray(images[right])
    files = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]  # OpenCV's colours are BGR
    return Subject(entry, images, labels[right].astype(np.int64), files)
