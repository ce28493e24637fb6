"""Any number of images through one model, in session calls of the sizes that suit the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoo.binding import Bound
from zoo.predictor import CHUNK, Model, Scores

GPU_SIZES = (1, 8, 32, 128, 256)  # a device prepares for each shape once, so only these are run


class Runner:
    """On a CPU the model's own session, a few images a call; on a GPU bound batches, for use by one thread."""

    def __init__(self, model: Model) -> None:
        """Opens what is needed and runs each size once: the first run of a session is its slowest."""
        self.model = model
        sizes = GPU_SIZES if model.device == "cuda" else (CHUNK,)
        self.most = sizes[-1]
        self._bound: dict[int, Bound] = {size: model.bind(size) for size in sizes} if model.device == "cuda" else {}
        for size in sizes:
            self._few(np.zeros((size, *model.card.input.shape), np.uint8))

    def run(self, images: npt.NDArray[np.uint8]) -> Scores:
        """uint8 `(N, H, W, C)`, N at least 1 → float32 `(N, K)` scores, as `Model.run`. Raises BadInput."""
        if len(images) <= self.most:
            return self._few(images)
        parts = [self._few(images[start : start + self.most]) for start in range(0, len(images), self.most)]
        return Scores(*(np.concatenate(scores) for scores in zip(*parts, strict=True)))

    def _few(self, images: npt.NDArray[np.uint8]) -> Scores:
        if not self._bound:
            return self.model.run(images)
        size = next(size for size in self._bound if len(images) <= size)
        return Scores(*self._bound[size].run(images))
