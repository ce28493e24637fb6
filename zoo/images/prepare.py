"""Any picture → the array that a network takes, with what was corrected on the way, in words."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import threading
from collections.abc import Callable
from typing import Any

from zoo.card import Form, Input
from zoo.errors import BadInput, ZooError
from zoo.images.decode import Pixels
from zoo.images.digits import to_mnist
from zoo.images.photos import Fit, to_square
from zoo.images.read import decode, describe

Corrector = Callable[[Pixels, Input, Fit], tuple[Pixels, tuple[str, ...]]]

CORRECTORS: dict[Form, Corrector] = {"digit": lambda pixels, expected, fit: to_mnist(pixels), "photo": to_square}

_counting = threading.Lock()
_unexpected = 0


def unexpected_errors() -> int:
    """How many pictures of this process met an error that no code foresaw, and were refused for it."""
    return _unexpected


def prepare(source: Any, expected: Input, fit: Fit = "crop") -> tuple[Pixels, tuple[str, ...]]:
    """Decode and correct one picture.

    Args:
        source: what `zoo.images.read.decode` takes.
        expected: the network's input.
        fit: of photographs: "crop" takes the middle, "whole" all of it (`photos.py`). Digits are always found.
    Returns:
        uint8 `expected.shape`, and the corrections in the order in which they were made.
    Raises:
        BadInput: the picture cannot be read, or cannot be brought into the network's form. An error that no code
            foresaw is one too: it is logged with its traceback by the logger "zoo", at debug level, and counted.
    """
    corrector = CORRECTORS[expected.form]
    try:
        picture = decode(source)
        pixels, corrections = corrector(picture.pixels, expected, fit)
        return pixels, picture.notes + corrections
    except ZooError:
        raise
    except MemoryError:
        raise BadInput(f"{describe(source)} takes more memory than there is: make it smaller.") from None
    except Exception as error:
        _report(error)
        raise BadInput(
            f"{describe(source)} cannot be processed (unexpected {type(error).__name__}): please report the picture."
        ) from None


def _report(error: Exception) -> None:
    global _unexpected
    with _counting:
        _unexpected += 1
    import logging

    logging.getLogger("zoo").debug("A picture met an unexpected error", exc_info=error)
