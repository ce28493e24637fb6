"""The training data of a run, and the held-out data it is measured on.

A `full` run trains on all training images and reads the test set once, after its last epoch. A `calibration` run trains
on the training split and is measured on the validation split. All choices, including the temperature, are made there.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.datasets import catalog as datasets
from zoo.errors import BadData, reason
from zoo.registry import home

Kind = Literal["full", "calibration"]


@dataclass(frozen=True)
class Split:
    """Images of a dataset with their labels."""

    name: str  # "train", "validation" or "test"
    images: torch.Tensor  # uint8 `(N, H, W, C)`
    labels: torch.Tensor  # int64 `(N,)`

    def __len__(self) -> int:
        return len(self.labels)


def training_data(dataset: str, kind: Kind, folder: str | os.PathLike[str] | None = None) -> Split:
    """Return all training images, or for a calibration run those outside the validation split."""
    data = datasets.load(dataset, "train", folder)
    return _split("train", data, _order(data)[data.info.validation :] if kind == "calibration" else None)


def held_out_data(dataset: str, kind: Kind, folder: str | os.PathLike[str] | None = None) -> Split:
    """Return the test set, or for a calibration run the validation split."""
    if kind == "full":
        return _split("test", datasets.load(dataset, "test", folder), None)
    data = datasets.load(dataset, "train", folder)
    return _split("validation", data, _order(data)[: data.info.validation])


def _order(data: datasets.Dataset) -> NDArray[np.int64]:
    """Shuffle all rows in the same way for every recipe and seed, so that all runs share one validation split."""
    return np.random.default_rng(0).permutation(len(data.labels))


def _split(name: str, data: datasets.Dataset, rows: NDArray[np.int64] | None) -> Split:
    images, labels = (data.images, data.labels) if rows is None else (data.images[rows], data.labels[rows])
    return Split(name, torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


TORCHVISION_CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10"}


def torchvision_folder(dataset: str) -> Path:
    """Download a dataset with torchvision, once; return a folder that `zoo.datasets.catalog.load` reads.

    Raises:
        BadData: the download failed.
    """
    import torchvision

    folder = home() / "data" / "torchvision"
    try:
        for train in (True, False):
            getattr(torchvision.datasets, TORCHVISION_CLASSES[dataset])(str(folder), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise BadData(
            f"torchvision could not download {TORCHVISION_CLASSES[dataset]} ({reason(error)}). Check the network, or "
            "set ZOO_DATA to a folder with the data."
        ) from error
    return folder
