"""Any image → the array that a network takes, and the corrections in words."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from zoo.card import Form, Input
from zoo.errors import BadInput, SeveralDigits, ZooError
from zoo.images.decode import Pixels
from zoo.images.digits import to_mnist
from zoo.images.numbers import Number, find_number, may_be_number
from zoo.images.photos import Fit, fit_to_input, least_side
from zoo.images.read import decode, subject

Corrector = Callable[[Pixels, Input, Fit], tuple[Pixels, tuple[str, ...]]]

CORRECTORS: dict[Form, Corrector] = {"digit": lambda pixels, expected, fit: to_mnist(pixels), "photo": fit_to_input}


class Image(NamedTuple):
    """An image in the network's form.

    Attributes:
        pixels: uint8 `expected.shape`; None where it has several digits.
        corrections: in the order in which they were made.
        number: of an image that has, or may have, several digits.
        error: why there are no pixels.
    """

    pixels: Pixels | None
    corrections: tuple[str, ...] = ()
    number: Number | None = None
    error: str | None = None


_lock = threading.Lock()
_unexpected = 0


def unexpected_errors() -> int:
    """How many images this process refused because of an unexpected error."""
    return _unexpected


def prepare(source: Any, expected: Input, fit: Fit = "crop") -> tuple[Pixels, tuple[str, ...]]:
    """Decode and correct one image.

    Lists of images go through `zoo.classification.prepare_all`, which leaves out this function for plain PNG files of
    the network's size (`ready.py`).

    Args:
        source: as in `zoo.images.read.decode`.
        expected: the network's input.
        fit: for photographs: "crop" or "whole", as in `photos.py`. Digits are always located.
    Returns:
        uint8 `expected.shape`, and the corrections in the order in which they were made.
    Raises:
        BadInput: the image cannot be read, or cannot be brought into the network's form. Unexpected errors become
            BadInput too; they are counted, and logged with their traceback by the logger "zoo" at debug level.
    """
    image = prepare_image(source, expected, fit, single=True)
    assert image.pixels is not None
    return image.pixels, image.corrections


def prepare_image(source: Any, expected: Input, fit: Fit = "crop", single: bool = False) -> Image:
    """As `prepare`, but an image of several digits is no error.

    Args:
        single: whether it is one nevertheless.
    """
    corrector = CORRECTORS[expected.form]
    with _guarded(source):
        image = decode(source, least_side(expected) if expected.form == "photo" else None)
        if image.reduced is None:
            try:
                pixels, corrections = corrector(image.pixels, expected, fit)
            except SeveralDigits as error:
                number = None if single else find_number(image.pixels)
                if number is None:
                    raise
                return Image(None, image.corrections, number, str(error))
            if not single and expected.form == "digit" and corrections and may_be_number(pixels):
                number = Number.unread(image.pixels)
                return Image(pixels, image.corrections + corrections, number)
        else:
            pixels, corrections = fit_to_input(image.pixels, expected, fit, image.reduced)
        return Image(pixels, image.corrections + corrections)


def prepare_number(source: Any, expected: Input) -> Number | None:
    """Decode an image, and find the lines of digits in it. Raises BadInput as `prepare` does."""
    with _guarded(source):
        return find_number(decode(source, None).pixels)


@contextmanager
def _guarded(source: Any) -> Iterator[None]:
    """Turns unexpected errors into BadInput."""
    try:
        yield
    except ZooError:
        raise
    except MemoryError:
        raise BadInput(f"{subject(source)} needs more memory than is available: make it smaller.") from None
    except Exception as error:
        _log_unexpected(error)
        raise BadInput(
            f"{subject(source)} cannot be processed (unexpected {type(error).__name__}): please report this image."
        ) from None


def _log_unexpected(error: Exception) -> None:
    global _unexpected
    with _lock:
        _unexpected += 1
    import logging

    logging.getLogger("zoo").debug("Unexpected error for an image", exc_info=error)
