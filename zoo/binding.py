"""A session with its input and outputs bound to memory of one size: what a GPU wants.

On a GPU input and outputs lie in page-locked memory of the host (zoo/page_locked.py), which the kernels read and write
themselves: no copy is called for. With one shape at one address the run is a CUDA graph: one launch instead of one a
layer. The runtime captures it at the first run, again in every thread that runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo import page_locked
from zoo.runtime import gpu_lock, import_runtime, run_options

_graphs = count(1)  # 0 is what the runtime takes for a run without a number


class Bound:
    """Runs up to `batch` images at a time; input and outputs are allocated once.

    pinned: whether they are page-locked memory of the host, which the device uses without a copy.
    """

    def __init__(
        self, session: Any, device: str, shape: tuple[int, ...], classes: int, batch: int, pinned: bool = True
    ) -> None:
        """Args: session, device as `zoo.runtime.open_session` gives them; shape `(H, W, C)` of an image.

        pinned: False binds memory of the device, and images and scores are copied.
        """
        self.batch, self._device = batch, device
        self._session, self._binding = session, session.io_binding()
        self._staging: npt.NDArray[np.uint8]
        self._scores: list[Any]  # arrays, or the runtime's values
        self._options = run_options(device, next(_graphs))
        self._lock: Any = gpu_lock if device == "cuda" else nullcontext()
        self.pinned = device == "cuda" and pinned and self._bind_pinned((batch, *shape), (batch, classes))
        if not self.pinned:
            self._bind_device((batch, *shape), (batch, classes))

    def _bind_pinned(self, images: tuple[int, ...], scores: tuple[int, ...]) -> bool:
        staging = page_locked.allocate(images, np.uint8)
        arrays: list[Any] = [page_locked.allocate(scores, np.float32) for _ in range(2)]
        if staging is None or any(array is None for array in arrays):
            return False
        self._staging, self._scores = staging, arrays
        self._binding.bind_input("image", self._device, 0, np.uint8, list(images), staging.ctypes.data)
        for name, array in zip(("logits", "probabilities"), self._scores, strict=True):
            self._binding.bind_output(name, self._device, 0, np.float32, list(scores), array.ctypes.data)
        return True

    def _bind_device(self, images: tuple[int, ...], scores: tuple[int, ...]) -> None:
        allocate = import_runtime().OrtValue.ortvalue_from_shape_and_type
        self._staging = np.zeros(images, np.uint8)
        self._image = allocate(list(images), np.uint8, self._device, 0)
        self._scores = [allocate(list(scores), np.float32, self._device, 0) for _ in range(2)]
        self._binding.bind_ortvalue_input("image", self._image)
        for name, value in zip(("logits", "probabilities"), self._scores, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """uint8 `(N, H, W, C)`, N at most `batch` → logits and probabilities, float32 `(N, K)`.

        A smaller N runs a whole batch too, so that the device sees one shape. May be called from several threads, of
        which one runs at a time.
        """
        return self.run_parts([images])

    def run_parts(
        self, parts: Sequence[npt.NDArray[np.uint8]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `run` for the parts one after the other, together at most `batch` images."""
        n = sum(map(len, parts))
        with self._lock:
            np.concatenate(parts, out=self._staging[:n])
            self.replay()
            logits, probabilities = ((s if self.pinned else s.numpy())[:n].copy() for s in self._scores)
        return logits, probabilities

    def replay(self) -> None:
        """Run what is in `staging` and wait for the scores."""
        if not self.pinned:
            self._image.update_inplace(self._staging)
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
