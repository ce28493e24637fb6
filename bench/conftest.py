"""What all benchmarks share."""

from pathlib import Path

import numpy as np
import pytest

import zoo


@pytest.fixture(scope="session")
def model():
    return zoo.load("mnist14k", device="cpu")


@pytest.fixture(scope="session")
def seven() -> Path:
    """The README's picture."""
    return Path(__file__).parents[1] / "examples" / "seven.png"


@pytest.fixture(scope="session")
def ready_array(model, seven) -> np.ndarray:
    """The README's picture in the network's form: uint8 `(1, 28, 28, 1)`."""
    from zoo.prepare import prepare

    return prepare(seven, model.card.input)[0][np.newaxis]
