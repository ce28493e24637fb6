"""What a run may learn from, and what it is measured on.

A `full` run learns from all training images and reads the test set once, after its last epoch. A `twin` run learns
from the training split and is measured on the validation split: every choice is made there, temperature included.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from zoo.datasets import catalog as datasets
from zoo.errors import BadData, reason
from zoo.registry import home

Kind = Literal["full", "twin"]


@dataclass(frozen=True)
class Part:
    """images: uint8 `(N, H, W, C)`; labels: int64 `(N,)`; name: "train", "validation" or "test"."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def training_part(dataset: str, kind: Kind, folder: str | os.PathLike[str] | None = None) -> Part:
    """All training images, or for a twin those that are not in the validation split."""
    whole = datasets.load(dataset, "train", folder)
    return _part("train", whole, _order(whole)[whole.info.validation :] if kind == "twin" else None)


def held_out_part(dataset: str, kind: Kind, folder: str | os.PathLike[str] | None = None) -> Part:
    """The test set, or for a twin the validation split."""
    if kind == "full":
        return _part("test", datasets.load(dataset, "test", folder), None)
    whole = datasets.load(dataset, "train", folder)
    return _part("validation", whole, _order(whole)[: whole.info.validation])


def _order(whole: datasets.Dataset) -> np.ndarray:
    """The same shuffle for every recipe and seed, so that no twin has seen another's validation images."""
    return np.random.default_rng(0).permutation(len(whole.labels))


def _part(name: str, data: datasets.Dataset, rows: np.ndarray | None) -> Part:
    images, labels = (data.images, data.labels) if rows is None else (data.images[rows], data.labels[rows])
    return Part(name, torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


# Fetching data through torchvision, for those who have it there or want it there.

CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10"}  # of torchvision.datasets


def torchvision_folder(dataset: str) -> Path:
    """Download a data set as torchvision does, once; returns a folder that `zoo.datasets.catalog.load` reads.

    Raises:
        BadData: it cannot be downloaded.
    """
    import torchvision

    folder = home() / "data" / "torchvision"
    try:
        for train in (True, False):
            getattr(torchvision.datasets, CLASSES[dataset])(str(folder), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise BadData(
            f"torchvision could not fetch {CLASSES[dataset]} ({reason(error)}): check the network, or set ZOO_DATA "
            "to a folder that holds it."
        ) from error
    return folder
