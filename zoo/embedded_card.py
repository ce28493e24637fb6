"""The card inside an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoo.card import Card
from zoo.errors import BadModel, printable
from zoo.model_files import METADATA_KEY


def embedded_card(session: Any, source_name: str) -> Card:
    """The card inside an ONNX file, once its inputs and outputs are checked (docs/decisions/0001-one-file.md)."""
    try:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        interface = [(value.name, value.type, len(value.shape)) for value in (*inputs, *outputs)]
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise BadModel(not_pocketzoo(source_name)) from None
    expected = [
        ("image", "tensor(uint8)", 4),
        ("logits", "tensor(float)", 2),
        ("probabilities", "tensor(float)", 2),
    ]
    with_known = [*expected, ("known", "tensor(float)", 1)]  # optional: older and added models lack it
    if interface not in (expected, with_known) or text is None:
        raise BadModel(not_pocketzoo(source_name))
    card = Card.from_json(text, source_name)
    if (interface == with_known) != (card.calibration.known_from is not None):
        raise BadModel(
            f"The card of {source_name} {'has' if interface == expected else 'lacks'} a bound for the output known, "
            f"which the network {'lacks' if interface == expected else 'has'}: export the model again."
        )
    shapes = [card.input.shape, (len(card.labels),), (len(card.labels),), ()]
    for value, shape in zip((*inputs, *outputs), shapes, strict=False):
        count, *sizes = value.shape
        if isinstance(count, int) or tuple(sizes) != shape:
            raise BadModel(
                f"{source_name} has {value.name} of shape {_shape(value.shape)}, but its card says "
                f"{_shape(['N', *shape])}: export the model again."
            )
    return card


def _shape(sizes: Iterable[int | str | None]) -> str:
    """A shape for error messages. Names of dimensions are text from the file, so they are escaped and cut."""
    return f"({', '.join(printable(str(size))[:40] for size in sizes)})"


def not_pocketzoo(source_name: str) -> str:
    return (
        f"{source_name} is an ONNX file, but not a pocketzoo model (input uint8 image; outputs logits and "
        "probabilities; a card inside): export it with `python -m train export`."
    )
