"""Network: a model that is open in one runtime, with the three ways that are timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.card import Card
from zoo.errors import ZooError
from zoo.images.prepare import prepare

Images = npt.NDArray[np.uint8]


class Unavailable(ZooError):
    """A runtime that cannot run here; the message says why, and what to install."""


@dataclass(frozen=True)
class Network:
    """A model in a runtime, for one batch size.

    provider: what really runs it, as the runtime tells. threads: as the runtime tells.
    native: uint8 `(N, H, W, C)` → what `session` takes. session: that → what the runtime gives, finished when it
    returns. logits: that → float32 `(N, K)`. labels: uint8 `(N, H, W, C)` → indices `(N,)`. read: image files → labels
    in words. gemm: one product of `bench/measure.py` through the same library, on as many threads.
    """

    provider: str
    threads: int
    native: Callable[[Images], Any]
    session: Callable[[Any], Any]
    logits: Callable[[Any], npt.NDArray[np.float32]]
    labels: Callable[[Images], npt.NDArray[np.int64]]
    read: Callable[[list[bytes]], list[str | None]]
    gemm: Callable[[], Any]

    def replace(self, **changes: Any) -> Network:
        return dataclasses.replace(self, **changes)


def by_hand(
    card: Card,
    native: Callable[[Images], Any],
    session: Callable[[Any], Any],
    logits: Callable[[Any], npt.NDArray[np.float32]],
    **facts: Any,
) -> Network:
    """A Network whose ways to labels are put together from its parts; files are decoded as everywhere in the zoo."""

    def labels(images: Images) -> npt.NDArray[np.int64]:
        return logits(session(native(images))).argmax(1)

    def read(files: list[bytes]) -> list[str | None]:
        images = np.stack([prepare(file, card.input)[0] for file in files])
        return [card.labels[index] for index in labels(images).tolist()]

    return Network(native=native, session=session, logits=logits, labels=labels, read=read, **facts)


def needs(package: str, install: str) -> Any:
    """The module of that name. Raises Unavailable where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise Unavailable(f"{package} cannot be imported ({error}): {install}.") from None
