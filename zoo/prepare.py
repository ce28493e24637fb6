"""Any picture → the array that a network takes, with what was corrected on the way, in words."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from collections.abc import Callable
from typing import Any

from zoo.card import Form, Input
from zoo.decoders import Pixels
from zoo.digits import to_mnist
from zoo.image import decode
from zoo.photos import Fit, to_square

Corrector = Callable[[Pixels, Input, Fit], tuple[Pixels, tuple[str, ...]]]

CORRECTORS: dict[Form, Corrector] = {"digit": lambda pixels, expected, fit: to_mnist(pixels), "photo": to_square}


def prepare(source: Any, expected: Input, fit: Fit = "crop") -> tuple[Pixels, tuple[str, ...]]:
    """Decode and correct one picture.

    Args:
        source: what `zoo.image.decode` takes.
        expected: the network's input.
        fit: of photographs: "crop" takes the middle, "whole" all of it (`zoo/photos.py`). Digits are always found.
    Returns:
        uint8 `expected.shape`, and the corrections in the order in which they were made.
    Raises:
        BadInput: the picture cannot be read, or cannot be brought into the network's form.
    """
    picture = decode(source)
    pixels, corrections = CORRECTORS[expected.form](picture.pixels, expected, fit)
    return pixels, picture.notes + corrections
