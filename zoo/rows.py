"""What goes into the network for one input, and the row that comes out, the same in every interface."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoo.card import Input
from zoo.decoders import Pixels
from zoo.errors import BadInput
from zoo.image import describe
from zoo.photos import Fit
from zoo.prepare import prepare


@dataclass(frozen=True)
class Guess:
    label: str
    probability: float


@dataclass(frozen=True)
class Row:
    """The answer for one input, the same in every interface. With an `error`, label and probability are None.

    unsure: the probability is below `card.calibration.unsure_below`, or a correction begins with `zoo.digits.DOUBT`.
    corrections: what was done to the picture, in words. error: a sentence, or None.
    """

    input: str
    model: str
    label: str | None = None
    probability: float | None = None
    unsure: bool | None = None
    top_k: tuple[Guess, ...] = ()
    corrections: tuple[str, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, in their order; by hand: `dataclasses.asdict` took as long as decoding."""
        top_k = [{"label": guess.label, "probability": guess.probability} for guess in self.top_k]
        fields = {**vars(self), "top_k": top_k, "corrections": list(self.corrections)}
        fields["input"] = as_utf8(self.input)
        if self.error is not None:
            fields["error"] = as_utf8(self.error)
        return fields


def as_utf8(text: str) -> str:
    """Text that every format can hold, the same in every interface.

    Names of files need not be UTF-8; Python keeps their other bytes as lone surrogates, which neither JSON parsers nor
    Arrow take. Such a byte, E9 for one, becomes the six signs `\\udce9`.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


class Prepared(NamedTuple):
    """One input as the network takes it: uint8 `(H, W, C)`, or None and the sentence that says why not."""

    name: str
    pixels: Pixels | None
    corrections: tuple[str, ...] = ()
    error: str | None = None


def prepare_all(sources: Iterable[Any], expected: Input, fit: Fit = "crop") -> list[Prepared]:
    """Decode and correct pictures for a network's input; a picture that fails never fails its neighbours."""
    return [_prepared(source, expected, fit) for source in sources]


def _prepared(source: Any, expected: Input, fit: Fit) -> Prepared:
    name = describe(source)
    try:
        return Prepared(name, *prepare(source, expected, fit))
    except BadInput as error:
        return Prepared(name, None, error=str(error))
