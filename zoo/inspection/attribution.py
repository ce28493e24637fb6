"""Where the answer of a network comes from, from the ONNX file alone: class-activation maps and occlusion.

- **Class activation** (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016,
  arXiv:1512.04150). The graph is cut behind its last feature maps. The rest of it, the tail, is run for every position
  with the features of that position set to zero; what a logit loses is the position's contribution. This is used where
  the tail is additive over positions, such as a global average pool and a dense layer: contributions are then exact,
  sum to the logit less its bias, and equal feature maps times weights. Additivity is measured; there is no list of
  operators. It covers final convolutions and int8 graphs too.
- **Occlusion** (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901)
  for all other graphs. Squares of the image are covered one at a time. A pixel's value is the mean loss of the logit
  over the squares that cover it.

An exact contribution of a position is of use only where the position is a place in the image. The last maps of
mnist14k have 4x4 positions 2 pixels apart, each of which depends on 22x22 of the 28x28 pixels. Class activation is
therefore used only where the centres of receptive fields span most of the input. `docs/guides/inspect.md` compares
both methods for all models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.errors import BadModel, WrongUsage, ZooError, reason
from zoo.images.decode import Pixels
from zoo.inspection.onnx_layers import Field, receptive_fields, steps
from zoo.runtime import open_session

if TYPE_CHECKING:
    import onnx

Method = Literal["class activation", "occlusion"]
Floats = npt.NDArray[np.float32]

CHUNK = 16  # images per run, as in zoo.classification: bounds the memory of large networks
SPAN = 0.6  # of the input's side that the centres of the last maps must span for class activation
ADDITIVE = 1e-3  # largest deviation of an additive tail, relative to the largest change of a logit
PROBES = 8  # random images that show whether a tail is additive
POSITIONS = 4096  # of feature maps, one run of the tail for each
FINEST, COARSEST = 13, 5  # squares per side that occlusion covers, one at a time
MACS = 20e9  # multiply-accumulates that one occlusion may take: under a second on one core


@dataclass(frozen=True)
class Attribution:
    """Where the logit of one label comes from.

    Attributes:
        label_index: the position of the label in `card.labels`.
        method: "class activation" or "occlusion".
        contributions: float32 `(H, W)`, one value per pixel of the network's input, in units of the logit: positive
            where the image speaks for the label, negative where it speaks against it.
    """

    label_index: int
    method: Method
    contributions: Floats

    @property
    def heat(self) -> Floats:
        """float32 `(H, W)`, 0 to 1: the positive contributions, divided by the largest."""
        positive = np.clip(np.nan_to_num(self.contributions), 0, None)
        largest = float(positive.max(initial=0))
        return np.asarray(positive / largest if largest > 0 else positive, np.float32)


def class_activation(onnx_bytes: bytes, image: Pixels, label_index: int) -> Floats:
    """Where in the image the evidence for one label is.

    Args:
        onnx_bytes: the content of a model's ONNX file, as `zoo.model.onnx_bytes` gives it.
        image: uint8 `(H, W, C)`, the network's input (`zoo.images.prepare.prepare` makes it).
        label_index: the position of the label in `card.labels`.
    Returns:
        float32 `(H, W)`, 0 to 1, for the pixels of the network's input. All 0 where nothing speaks for the label.
    Raises:
        WrongUsage: another shape or dtype, or no such label.
        BadModel: the graph cannot be run.
        ZooError: the package onnx is not installed.
    """
    return attributions(onnx_bytes, image, [label_index])[0].heat


def attributions(
    onnx_bytes: bytes, image: Pixels, label_indices: Sequence[int], method: Method | None = None
) -> list[Attribution]:
    """The same for several labels at the cost of one, with contributions in units of the logit.

    Args:
        method: None chooses by the graph. "class activation" fails where the graph has no feature maps to cut at.
    """
    try:
        with np.errstate(all="ignore"):  # the values of a foreign network may be no numbers
            return _explainer(onnx_bytes).explain(image, label_indices, method)
    except ZooError:
        raise
    except Exception as error:  # for a foreign graph, onnx, its shape inference and the runtime can raise anything
        raise BadModel(f"The network cannot be explained ({reason(error)}): export it again.") from None


@lru_cache(maxsize=4)
def _explainer(onnx_bytes: bytes) -> Explainer:
    return Explainer(onnx_bytes)


@dataclass(frozen=True)
class Tail:
    """The part of a graph from feature maps to the logits."""

    value: str  # the name of the feature maps
    shape: tuple[int, int, int]  # `(C, h, w)`
    field: Field
    session: Any
    additive: bool = False

    def run(self, features: Iterable[Floats]) -> Floats:
        """float32 `(C, h, w)`, N of them → logits `(N, K)`."""
        return _logits(self.session, self.value, features)

    def shows_places(self, height: int, width: int) -> bool:
        """Whether the centres of the maps' receptive fields span most of the input."""
        return all(n * self.field.jump >= SPAN * side for n, side in zip(self.shape[1:], (height, width), strict=True))


class Explainer:
    """An ONNX file, cut into what computes its last feature maps and the tail behind them."""

    def __init__(self, onnx_bytes: bytes) -> None:
        try:
            import onnx.shape_inference
        except ImportError:
            raise ZooError("Explaining an answer needs the package onnx: pip install 'pocketzoo[inspect]'.") from None
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(onnx_bytes))
        image = next(value for value in model.graph.input if value.name == "image")
        self.shape = tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim)[1:]
        self.macs = max(1, sum(step.layer.macs for step in steps(model)))
        probes = np.random.default_rng(0).integers(0, 256, (PROBES, *self.shape), np.uint8)
        self.tail = _tail(model, lambda value: _session(model, value).run([value], {"image": probes})[0])
        self._session = _session(model, *([self.tail.value] if self.tail else []))

    @property
    def method(self) -> Method:
        """The better method for this graph."""
        usable = self.tail is not None and self.tail.additive and self.tail.shows_places(*self.shape[:2])
        return "class activation" if usable else "occlusion"

    def explain(self, image: Pixels, label_indices: Sequence[int], method: Method | None = None) -> list[Attribution]:
        if getattr(image, "dtype", None) != np.uint8 or image.shape != self.shape:
            raise WrongUsage(
                f"The network takes uint8 {self.shape}, not {getattr(image, 'dtype', type(image).__name__)} "
                f"{getattr(image, 'shape', '')}: use zoo.images.prepare.prepare for images of other sizes."
            )
        chosen = method or self.method
        drops = self._position_drops(image) if chosen == "class activation" else self._occlusion_drops(image)
        classes = drops.shape[-1]
        for index in label_indices:
            if not 0 <= index < classes:
                raise WrongUsage(f"There is no label {index}: the network has {classes} labels, from 0 on.")
        return [Attribution(index, chosen, np.ascontiguousarray(drops[..., index])) for index in label_indices]

    def _position_drops(self, image: Pixels) -> Floats:
        """float32 `(H, W, K)`: what the logits lose without the features of each position."""
        if self.tail is None:
            raise WrongUsage("This network has no feature maps that lead to its logits: use occlusion.")
        features = self._session.run([self.tail.value], {"image": image[np.newaxis]})[0][0]
        _, height, width = features.shape

        def without(position: int) -> Floats:
            masked: Floats = features.copy()
            masked[:, position // width, position % width] = 0
            return masked

        drops = self.tail.run(features[np.newaxis]) - self.tail.run(map(without, range(height * width)))
        spread = _spread(drops.reshape(height, width, -1), self.tail.field, self.shape[:2])
        return np.asarray(spread, np.float32)

    def _occlusion_drops(self, image: Pixels) -> Floats:
        """float32 `(H, W, K)`: for each pixel, the mean loss of the logits over the squares that cover it."""
        height, width, _ = self.shape
        per_side = int(np.clip(np.sqrt(MACS / self.macs), COARSEST, FINEST))
        squares = [
            (slice(top, bottom), slice(left, right))
            for top, bottom in _spans(height, per_side)
            for left, right in _spans(width, per_side)
        ]
        background = _background(image)

        def without(square: tuple[slice, slice]) -> Pixels:
            covered = image.copy()
            covered[square] = background
            return covered

        drops = _logits(self._session, "image", [image]) - _logits(self._session, "image", map(without, squares))
        total = np.zeros((height, width, drops.shape[1]), np.float32)
        count = np.zeros((height, width, 1), np.float32)
        for (rows, columns), drop in zip(squares, drops, strict=True):
            total[rows, columns] += drop
            count[rows, columns] += 1
        return np.asarray(total / np.maximum(count, 1), np.float32)


def _session(model: onnx.ModelProto, *values: str) -> Any:
    """A session that also gives inner values of a graph."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    changed.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values if value not in outputs)
    session, _ = open_session(changed.SerializeToString(), "cpu", "<network>")
    return session


def _logits(session: Any, name: str, values: Iterable[npt.NDArray[Any]]) -> Floats:
    """The logits `(N, K)` of any number of inputs, `CHUNK` at a time."""
    remaining = iter(values)
    parts = []
    while chunk := list(islice(remaining, CHUNK)):
        parts.append(session.run(["logits"], {name: np.stack(chunk)})[0])
    return np.concatenate(parts)


def _spans(side: int, count: int) -> list[tuple[int, int]]:
    """Start and end of squares along one side: a quarter of it wide, evenly spaced, cut at the edges."""
    width = max(1, side // 4)
    count = min(count, side)
    starts = np.unique(np.rint(np.linspace(-(width // 2), side - width + width // 2, count)).astype(int))
    return [(max(0, int(start)), min(side, int(start) + width)) for start in starts]


def _background(image: Pixels) -> npt.NDArray[np.uint8]:
    """The colour that covers a square: the median of the image's border. For digits it is the paper."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return np.asarray(np.median(border, axis=0), np.uint8)


def _spread(values: Floats, field: Field, size: tuple[int, int]) -> Floats:
    """`(h, w, K)` at the centres of receptive fields → `(H, W, K)`, linear between them and constant beyond."""
    for axis, side in enumerate(size):
        count = values.shape[axis]
        centres = field.start + field.jump * np.arange(count) + (field.size - 1) / 2
        if abs(centres.mean() - (side - 1) / 2) > field.jump:  # a pool inside of a branch has widened the field
            centres = (np.arange(count) + 0.5) * side / count - 0.5
        places = np.interp(np.arange(side), centres, np.arange(count))
        low = np.minimum(places.astype(int), count - 1)
        weight = (places - low).reshape(-1, *[1] * (values.ndim - 1 - axis)).astype(np.float32)
        high = np.minimum(low + 1, count - 1)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


# Where the graph is cut.

_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool"})  # operators on `(N, C, H, W)`


def _tail(model: onnx.ModelProto, features: Callable[[str], Floats]) -> Tail | None:
    """The tail behind the last feature maps; None where the graph has none, or too many positions.

    Args:
        features: the values of a name for a few images.
    """
    import onnx.utils

    maps = _feature_maps(model.graph)
    value = next((value for value in _cuts(model.graph) if value in maps), None)
    if value is None or prod(maps[value][1:]) > POSITIONS:
        return None
    part = _without_rounding(onnx.utils.Extractor(model).extract_model([value], ["logits"]))
    session, _ = open_session(part.SerializeToString(), "cpu", "<tail>")
    tail = Tail(value, maps[value], receptive_fields(model.graph)[value], session)
    return replace(tail, additive=_is_additive(tail, features(value)))


def _cuts(graph: onnx.GraphProto) -> Iterator[str]:
    """Values that all paths from the image to the logits pass through, from the logits back."""
    depends = {"image"}
    for node in graph.node:
        if depends.intersection(node.input):
            depends.update(node.output)
    live = {"logits"}
    for node in reversed(graph.node):
        if live.intersection(node.output):
            live.difference_update(node.output)
            live.update(depends.intersection(node.input))
            if len(live) == 1:
                yield next(iter(live))


def _feature_maps(graph: onnx.GraphProto) -> dict[str, tuple[int, int, int]]:
    """Float values `(N, C, h, w)` of more than one position, and their `(C, h, w)`.

    The layout follows from convolutions and pools, which know no other; other operators keep it with the size.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    floats = set()
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)[1:]
        if tensor.elem_type == 1:  # float32
            floats.add(value.name)
    maps: dict[str, tuple[int, int, int]] = {}
    for node in graph.node:
        sizes = {maps[name][1:] for name in node.input if name in maps}
        for name in node.output if node.op_type != "Transpose" else ():
            shape = shapes.get(name, ())
            if len(shape) == 3 and all(shape) and (node.op_type in _WINDOWS or shape[1:] in sizes):
                maps[name] = (shape[0], shape[1], shape[2])
    return {name: shape for name, shape in maps.items() if name in floats and prod(shape[1:]) > 1}


def _is_additive(tail: Tail, features: Floats) -> bool:
    """Whether the logits are sums over positions: `f(a + b) + f(0) = f(a) + f(b)` for random splits of the positions.

    A linear tail is additive, and so are functions of each position by itself before the sum. Channels are scaled at
    random, so that a hidden layer's units are switched on by some parts and not by others.
    """
    random = np.random.default_rng(0)
    count, channels, height, width = features.shape
    features = features * random.uniform(0, 2, (count, channels, 1, 1)).astype(np.float32)
    first = features * (random.random((count, channels, 1, 1)) < 0.5)
    keep = random.random((count, 1, height, width)) < 0.5
    whole = np.where(keep, features, first)  # different channels in the two parts
    parts = whole * keep, whole * ~keep
    none = tail.run(np.zeros_like(features[:1]))
    changes = tail.run(whole) - none
    deviation = np.abs(changes - (tail.run(parts[0]) - none) - (tail.run(parts[1]) - none)).max()
    return bool(changes.any() and deviation <= ADDITIVE * np.abs(changes).max())


def _without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 tail without its steps, which are as large as a position's contribution.

    Each pair of QuantizeLinear and DequantizeLinear becomes an Identity; or a Relu where the zero point is the smallest
    integer, which is how int8 graphs hold a ReLU.
    """
    import onnx
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in producers:
            zero = tensors.get(node.input[2] if len(node.input) > 2 else "")
            positive = zero is not None and bool((zero == np.iinfo(zero.dtype).min).all())
            source, output = producers[node.input[0]].input[0], node.output[0]
            node.CopyFrom(onnx.helper.make_node("Relu" if positive else "Identity", [source], [output]))
    return model
