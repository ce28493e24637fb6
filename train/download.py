"""Fetching data through torchvision, for those who have it there or want it there."""

from pathlib import Path

from zoo.errors import BadData, reason
from zoo.home import home

CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10"}  # of torchvision.datasets


def torchvision_folder(dataset: str) -> Path:
    """Download a data set as torchvision does, once; returns a folder that `zoo.datasets.load` reads.

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
