"""What a model gives for a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Outputs = tuple[npt.NDArray[np.float32], ...]  # as `Scores`, without `known` where the network lacks it


class Scores(NamedTuple):
    """Logits and probabilities, float32 `(N, K)`, with columns in the order of `card.labels`.

    `known` is float32 `(N,)`, 0 to 1: how likely an image shows one of the classes; None for a model without it.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    known: npt.NDArray[np.float32] | None = None

    def part(self, start: int, end: int) -> Scores:
        """The scores of some of the images."""
        known = None if self.known is None else self.known[start:end]
        return Scores(self.logits[start:end], self.probabilities[start:end], known)

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """The scores of several calls, at least one, as one."""
        if len(parts) == 1:
            return parts[0]
        known = [part.known for part in parts if part.known is not None]
        return cls(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate(known) if known else None,
        )
