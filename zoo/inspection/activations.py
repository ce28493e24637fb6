"""Kernels and activations of every layer for one image, from the ONNX file alone.

The values of every layer are added to the graph's outputs, and the graph is run once. `plots.py` draws the result.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.card import Card, Layer
from zoo.classification import classify_prepared, reads_numbers
from zoo.errors import BadInput, BadModel, WrongUsage, ZooError, reason
from zoo.images.decode import Pixels
from zoo.images.prepare import prepare_image
from zoo.images.read import decode, describe
from zoo.inspection.evidence import Evidence, evidence, inputs_of
from zoo.inspection.onnx_layers import Field, steps
from zoo.inspection.receptive_field import Reach, Window, receptive_fields, windows
from zoo.loading import model_file
from zoo.model import Model
from zoo.rows import Guess, Prepared, Row
from zoo.runtime import open_session


@dataclass(frozen=True)
class Stage:
    """A layer and its values for one image."""

    layer: Layer
    field: Field  # the receptive field of a value
    values: npt.NDArray[np.float32]  # feature maps `(C, H, W)`, after a ReLU that follows; `(K, 1, 1)` of a dense layer
    kernels: npt.NDArray[np.float32] | None  # `(out, in, k, k)`; None for layers without kernels
    reach: Reach | None = None  # exactly which pixels each value depends on, if that is known
    window: Window | None = None  # of a convolution or a pool


@dataclass(frozen=True)
class Inside:
    """The result of `look_inside`.

    A number has one input for each digit. Layers and probabilities are those of the digit that is least certain.
    """

    card: Card
    image: Pixels  # the decoded, upright image
    seen: Pixels  # uint8 `(H, W, C)`: the network's input
    corrections: tuple[str, ...]
    stages: tuple[Stage, ...]  # in graph order
    probabilities: npt.NDArray[np.float32]  # `(K,)`, in the order of `card.labels`
    row: Row  # as `Model.predict` gives it for the first and the second guess
    evidence: tuple[Evidence, ...]  # for each of them
    digit: int | None = None  # of a number: the position of the digit that `seen` shows

    @property
    def guesses(self) -> tuple[Guess, ...]:
        """The first and the second."""
        return self.row.top_k

    @property
    def verdict(self) -> str:
        """The answer in a few words: "5, 99.9%", "unsure: 5, 61.0%" or "none of the classes (nearest: 4, 99.1%)"."""
        best = f"{self.row.label}, {percent(self.guesses[0].probability)}"
        if self.row.known is False:
            return f"none of the classes (nearest: {best})"
        return f"unsure: {best}" if self.row.unsure else best

    @property
    def of_number(self) -> str:
        """Which digit of a number the layers belong to, for a title; "" where there is one input."""
        if self.digit is None:
            return ""
        return f" for digit {self.digit + 1} of {len(self.evidence[0].maps)}, the least certain"


def percent(share: float) -> str:
    """A share in percent, never rounded to 0 % or 100 %."""
    if 0 <= share < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share <= 1 else f"{share:.1%}"


def look_inside(name: str, source: Any) -> Inside:
    """Run one image through a model and return the values of every layer.

    Args:
        name: a model's name, .onnx file or folder, as in `zoo.load`.
        source: an image, as in `Model.predict`. It is read only once, so an open file or a pipe is possible.
    Raises:
        BadInput: the image cannot be classified.
        ModelNotFound, BadModel, DeviceUnavailable: as in `zoo.load`.
        ZooError: the package onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ZooError("Inspecting a model needs the package onnx: pip install 'pocketzoo[inspect]'.") from None
    content, source_name, _ = model_file(name)
    model = Model(content, "cpu", source_name)
    card = model.card
    image = decode(source)
    made = prepare_image(image.pixels, card.input, single=not reads_numbers(card))
    prepared = Prepared(describe(source), *made)
    row = classify_prepared(model, [prepared], top_k=2)[0]
    if row.error is not None:
        raise BadInput(row.error)
    inputs = inputs_of(model, image.pixels, prepared, row)
    digit = min(range(len(inputs)), key=lambda number: row.digits[number].probability) if row.digits else None
    seen = inputs[digit or 0].pixels
    try:
        stages, probabilities = _stages(content, seen, source_name)
    except ZooError:
        raise
    except Exception as error:  # for a foreign graph, onnx, its shape inference and the runtime can raise anything
        raise BadModel(f"The layers of {source_name} cannot be read ({reason(error)}): export it again.") from None
    found = evidence(model, inputs, [guess.label for guess in row.top_k])
    corrections = image.corrections + row.corrections
    return Inside(card, image.pixels, seen, corrections, stages, probabilities, row, tuple(found), digit)


def _stages(content: bytes, seen: Pixels, source_name: str) -> tuple[tuple[Stage, ...], npt.NDArray[np.float32]]:
    """Run the graph of an ONNX file with every layer's values as outputs. Also returns the probabilities `(K,)`."""
    import onnx

    graph = onnx.load_model_from_string(content)
    layer_steps, reach, window = list(steps(graph)), receptive_fields(graph.graph), windows(graph.graph)
    outputs = {output.name for output in graph.graph.output}
    new_outputs = dict.fromkeys(step.output for step in layer_steps if step.output not in outputs)
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new_outputs)
    session, _ = open_session(graph.SerializeToString(), "cpu", source_name)
    values = session.run([*(step.output for step in layer_steps), "probabilities"], {"image": seen[np.newaxis]})
    stages = []
    for step, value in zip(layer_steps, values, strict=False):
        if value.ndim not in (2, 4) or value.shape[0] != 1 or 0 in value.shape:
            continue  # cannot be drawn as maps
        maps = value[0] if value.ndim == 4 else value[0][:, np.newaxis, np.newaxis]
        kernels = step.weights if step.weights is not None and step.weights.ndim == 4 and step.weights.size else None
        stages.append(
            Stage(step.layer, step.field, maps, kernels, reach.get(step.output), window.get(step.node_output))
        )
    return tuple(stages), values[-1][0]


def parse_unit(text: str) -> tuple[str, int, int]:
    """`conv4:3,5` → layer, row and column. Raises WrongUsage."""
    match = re.fullmatch(r"(\w+):(\d+),(\d+)", text)
    if not match:
        raise WrongUsage(f"Invalid --unit {text!r}: use LAYER:ROW,COLUMN, such as conv4:3,5.")
    return match[1], int(match[2]), int(match[3])


def unit_of(stage: Stage, row: int | None = None, column: int | None = None) -> tuple[int, int]:
    """Row and column of a unit in a stage's maps, by default the middle. Raises WrongUsage for a unit outside."""
    _, height, width = stage.values.shape
    row, column = height // 2 if row is None else row, width // 2 if column is None else column
    if not (0 <= row < height and 0 <= column < width):
        raise WrongUsage(
            f"{stage.layer.name} has no unit {row},{column}: use ROW 0 to {height - 1} and COLUMN 0 to {width - 1}."
        )
    return row, column


def pixels_seen(inside: Inside, stage: Stage, row: int, column: int) -> tuple[int, int, int, int]:
    """The receptive field of one unit in the input: top, left, bottom and right, the last two exclusive."""
    height, width, _ = inside.seen.shape
    (top, bottom), (left, right) = stage.field.pixels(row, height), stage.field.pixels(column, width)
    return top, left, bottom, right
