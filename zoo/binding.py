"""A session with its input and outputs bound to memory of the device, for batches of one size: what a GPU wants.

Written against the runtime's documentation and tested on the CPU; it has not been run on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.runtime import PROVIDERS, import_runtime


class Bound:
    """Runs up to `batch` images at a time; input and outputs are allocated once, on the device.

    pinned: whether images go to the device from page-locked memory, which the driver reads without a copy of its own.
    """

    def __init__(self, session: Any, device: str, shape: tuple[int, ...], classes: int, batch: int) -> None:
        """Args: session, device as `zoo.runtime.open_session` gives them; shape `(H, W, C)` of an image."""
        runtime = import_runtime()
        self.batch = batch
        self._session, self._binding = session, session.io_binding()
        self._host = _pinned(runtime, device, [batch, *shape])
        self.pinned = self._host is not None
        self._staging = self._host.numpy() if self._host is not None else np.zeros((batch, *shape), np.uint8)
        self._staging[:] = 0
        allocate = runtime.OrtValue.ortvalue_from_shape_and_type
        self._image = allocate([batch, *shape], np.uint8, device, 0)
        self._scores = [allocate([batch, classes], np.float32, device, 0) for _ in range(2)]
        self._binding.bind_ortvalue_input("image", self._image)
        for name, scores in zip(("logits", "probabilities"), self._scores, strict=True):
            self._binding.bind_ortvalue_output(name, scores)

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """uint8 `(N, H, W, C)`, N at most `batch` → logits and probabilities, float32 `(N, K)`.

        A smaller N runs a whole batch too, so that the device sees one shape and prepares for it once.
        """
        n = len(images)
        self._staging[:n] = images
        self._image.update_inplace(self._host if self._host is not None else self._staging)
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        logits, probabilities = (np.array(scores.numpy()[:n]) for scores in self._scores)
        return logits, probabilities


def _pinned(runtime: Any, device: str, shape: list[int]) -> Any | None:
    """An OrtValue in page-locked memory of the device's own host allocator, or None where there is none."""
    if device != "cuda" or not hasattr(runtime, "get_ep_devices"):
        return None
    for found in runtime.get_ep_devices():
        if found.ep_name == PROVIDERS[device]:
            info = found.memory_info(runtime.OrtDeviceMemoryType.HOST_ACCESSIBLE)
            if info is not None:
                return runtime.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, memory_info=info)
    return None
