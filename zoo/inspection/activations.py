"""A look inside a model, from its ONNX file alone: what every layer makes of a picture, and with which kernels.

The graph is given every layer's values as extra outputs and run once. `plots.py` draws the result.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.card import Card, Layer
from zoo.errors import BadInput, BadModel, ZooError, reason
from zoo.images.decode import Pixels
from zoo.images.prepare import prepare
from zoo.images.read import decode
from zoo.inspection.onnx_layers import Field, steps
from zoo.model import Model, model_file
from zoo.runtime import open_session


@dataclass(frozen=True)
class Stage:
    """One layer at work.

    values: float32 `(C, H, W)`, its feature maps, after the ReLU where one follows; `(K, 1, 1)` of a dense layer.
    kernels: float32 `(out, in, k, k)`, or None for a layer without.
    field: which pixels of the input a value sees.
    """

    layer: Layer
    field: Field
    values: npt.NDArray[np.float32]
    kernels: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Inside:
    """picture: the picture as given. seen: uint8 `(H, W, C)`, as the network gets it. stages: in the order of the data.

    probabilities: float32 `(K,)` in the order of `card.labels`.
    """

    card: Card
    picture: Pixels
    seen: Pixels
    corrections: tuple[str, ...]
    stages: tuple[Stage, ...]
    probabilities: npt.NDArray[np.float32]


def look_inside(name: str, source: Any) -> Inside:
    """Run one picture through a model and keep what every layer gives.

    Args:
        name: of a model, a path to an .onnx file, or a model's folder, as `zoo.load` takes it.
        source: a picture, as `Model.predict` takes it; read once, so that an open file or a pipe will do.
    Raises:
        BadInput: the picture cannot be classified. ModelNotFound, BadModel, DeviceUnavailable: as `zoo.load`.
        ZooError: the package onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ZooError("Looking inside a model needs onnx: pip install 'pocketzoo[inspect]'.") from None
    content, where, _ = model_file(name)
    card = Model(content, "cpu", where).card
    picture = decode(source)
    seen, corrections = prepare(picture.pixels, card.input)
    try:
        stages, probabilities = _stages(content, seen, where)
    except ZooError:
        raise
    except Exception as error:  # a foreign graph can make onnx, its shape inference and the runtime raise anything
        raise BadModel(f"The layers of {where} cannot be found ({reason(error)}): export it again.") from None
    return Inside(card, picture.pixels, seen, picture.corrections + corrections, stages, probabilities)


def _stages(content: bytes, seen: Pixels, where: str) -> tuple[tuple[Stage, ...], npt.NDArray[np.float32]]:
    """Run the graph of an ONNX file with every layer's values as outputs; also the probabilities `(K,)`."""
    import onnx

    graph = onnx.load_model_from_string(content)
    found = list(steps(graph))
    known = {output.name for output in graph.graph.output}
    wanted = dict.fromkeys(step.output for step in found if step.output not in known)
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session, _ = open_session(graph.SerializeToString(), "cpu", where)
    values = session.run([*(step.output for step in found), "probabilities"], {"image": seen[np.newaxis]})
    stages = []
    for step, value in zip(found, values, strict=False):
        if value.ndim not in (2, 4) or value.shape[0] != 1 or 0 in value.shape:
            continue  # nothing that could be drawn as maps
        maps = value[0] if value.ndim == 4 else value[0][:, np.newaxis, np.newaxis]
        kernels = step.weights if step.weights is not None and step.weights.ndim == 4 and step.weights.size else None
        stages.append(Stage(step.layer, step.field, maps, kernels))
    return tuple(stages), values[-1][0]


def parse_unit(text: str) -> tuple[str, int, int]:
    """`conv4:3,5` → layer, row and column. Raises BadInput."""
    match = re.fullmatch(r"(\w+):(\d+),(\d+)", text)
    if not match:
        raise BadInput(f"{text!r} is no unit: write LAYER:ROW,COLUMN, such as conv4:3,5.")
    return match[1], int(match[2]), int(match[3])


def unit_of(stage: Stage, row: int | None = None, column: int | None = None) -> tuple[int, int]:
    """The position of a unit in a stage's maps; the middle where none is given. Raises BadInput outside of them."""
    _, height, width = stage.values.shape
    row, column = height // 2 if row is None else row, width // 2 if column is None else column
    if not (0 <= row < height and 0 <= column < width):
        raise BadInput(f"{stage.layer.name} has units from 0,0 to {height - 1},{width - 1}; {row},{column} is outside.")
    return row, column


def pixels_seen(inside: Inside, stage: Stage, row: int, column: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right (past the last) of the input pixels that one unit of a stage sees."""
    height, width, _ = inside.seen.shape
    (top, bottom), (left, right) = stage.field.pixels(row, height), stage.field.pixels(column, width)
    return top, left, bottom, right
