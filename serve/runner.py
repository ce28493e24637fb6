"""Any number of images through one model, in session calls of the sizes that suit the device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt

from zoo.binding import Bound
from zoo.predictor import CHUNK, Model, Scores

GPU_SIZES = (1, 8, 32, 128, 256)  # a device prepares for each shape once, so only these are run


@cache
def gpu_thread() -> ThreadPoolExecutor:
    """The one thread of this process that runs models on a GPU.

    onnxruntime captures a CUDA graph for each thread anew, and keeps the plans of one shape: a second thread, or runs
    of changing shapes without a graph, would plan every convolution again, which takes seconds (0014-gpu.md).
    """
    return ThreadPoolExecutor(1, "zoo-gpu")


class Runner:
    """On a CPU the model's own session, a few images a call; on a GPU bound batches. For any number of threads."""

    def __init__(self, model: Model) -> None:
        """Opens what is needed and runs each size once: the first run of a session is its slowest."""
        self.model = model
        self._on_gpu = model.device == "cuda"
        self._bound: dict[int, Bound] = {}
        sizes = GPU_SIZES if self._on_gpu else (CHUNK,)
        self.most = sizes[-1]
        if self._on_gpu:
            self._bound = gpu_thread().submit(lambda: {size: model.bind(size) for size in sizes}).result()
        for size in sizes:
            self._few(np.zeros((size, *model.card.input.shape), np.uint8))

    def run(self, images: npt.NDArray[np.uint8]) -> Scores:
        """uint8 `(N, H, W, C)`, N at least 1 → float32 `(N, K)` scores, as `Model.run`. Raises BadInput."""
        if len(images) <= self.most:
            return self._few(images)
        parts = [self._few(images[start : start + self.most]) for start in range(0, len(images), self.most)]
        return Scores(*(np.concatenate(scores) for scores in zip(*parts, strict=True)))

    def _few(self, images: npt.NDArray[np.uint8]) -> Scores:
        if not self._on_gpu:
            return self.model.run(images)
        size = next(size for size in self._bound if len(images) <= size)
        return Scores(*gpu_thread().submit(self._bound[size].run, images).result())
