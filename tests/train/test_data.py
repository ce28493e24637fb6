"""Data through torchvision: its folder is readable, and a failed download is a BadData error."""

import gzip

import numpy as np
import pytest
import torchvision

from train.data import TORCHVISION_CLASSES, torchvision_folder
from zoo.datasets import catalog as datasets
from zoo.errors import BadData

pytestmark = pytest.mark.slow  # needs torch


def test_torchvision_folder_is_readable(empty_home, mnist_test, monkeypatch):
    def fetch(root, train, download):
        raw = empty_home / "data" / "torchvision" / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        images = b"\0\0\10\3" + np.array([10_000, 28, 28], ">u4").tobytes() + mnist_test.images.tobytes()
        labels = b"\0\0\10\1" + np.array([10_000], ">u4").tobytes() + mnist_test.labels.tobytes()
        (raw / "t10k-images-idx3-ubyte").write_bytes(images)
        (raw / "t10k-labels-idx1-ubyte").write_bytes(labels)
        (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))  # torchvision keeps the archives
        assert (root, download) == (str(empty_home / "data" / "torchvision"), True)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    test = datasets.load("mnist", "test", torchvision_folder("mnist"))
    np.testing.assert_array_equal(test.labels, mnist_test.labels)


def test_failed_download_is_bad_data(empty_home, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried many mirrors")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    with pytest.raises(BadData, match=r"CIFAR10 \(Error downloading.*ZOO_DATA"):
        torchvision_folder("cifar10")


def test_every_data_set_has_a_torchvision_class():
    assert TORCHVISION_CLASSES.keys() == datasets.DATASETS.keys()
    assert all(hasattr(torchvision.datasets, name) for name in TORCHVISION_CLASSES.values())
