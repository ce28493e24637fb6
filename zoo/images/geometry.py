"""Where a network's input lies in the image it was made from: an affine map between their pixels.

The corrections move and scale an image along its two axes; none of them turns or shears it. (The orientation that a
camera notes in a file is applied by the decoder: "the image" here is the upright one.) Thickened strokes stay where
they are.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass
class Geometry:
    """The place of a derived image in the original. A new one means the original itself.

    Places are continuous: pixel 0 reaches from 0 to 1, and its centre is at 0.5. A place x in the derived image is
    `left + x * across` in the original; y is `top + y * down`.

    Attributes:
        left, top: the place of the derived image's corner in the original. Below 0 where it reaches beyond it.
        across, down: pixels of the original per pixel of the derived image.
    """

    left: float = 0.0
    top: float = 0.0
    across: float = 1.0
    down: float = 1.0

    def cut(self, x: float, y: float) -> None:
        """The derived image is cut so that it begins at x and y; padded where they are negative."""
        self.left += x * self.across
        self.top += y * self.down

    def resize(self, before: Array, after: Array) -> None:
        """The derived image is resized as a whole."""
        self.across *= before.shape[1] / after.shape[1]
        self.down *= before.shape[0] / after.shape[0]

    def reduce(self, factor: int) -> None:
        """The derived image is made smaller by a whole factor; pixels beyond the last whole block are dropped."""
        self.across *= factor
        self.down *= factor

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """float64 `(2, 3)`, as OpenCV takes it: indexes `(x, y, 1)` of a derived pixel → those in the original.

        An index is the place of a pixel's centre, less 0.5.
        """
        x, y = self.left + (self.across - 1) / 2, self.top + (self.down - 1) / 2
        return np.array([[self.across, 0, x], [0, self.down, y]])

    def box(self, height: float, width: float) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in the original, of a derived image of that size."""
        return self.left, self.top, self.left + width * self.across, self.top + height * self.down
