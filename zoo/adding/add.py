"""Adds a classifier of another program to the user's own models: read, compose, compare with the file, write.

Nothing is written before all checks have passed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import zoo
from zoo import own_models, registry
from zoo.adding import graph, preprocessing
from zoo.adding.foreign import ForeignModel, ImageInput, Layout, class_output, image_input, import_onnx, read_model
from zoo.adding.preprocessing import Preprocessing, Settings
from zoo.adding.samples import folder_pictures, made_pictures, prepared_pictures
from zoo.card import SCHEMA_VERSION, Calibration, Card, Form, Input, Interpolation, Layer, Origin, Parameters, ResizeFit
from zoo.errors import BadInput, BadModel, ExportError, WrongUsage, ZooError, printable, reason
from zoo.model import Model
from zoo.model_files import METADATA_KEY
from zoo.runtime import import_runtime, open_session

if TYPE_CHECKING:
    import onnx

TOLERANCE = {"float16": 5e-3}  # largest difference of a probability from the file's own, by the type of the input
DEFAULT_TOLERANCE = 1e-4
SUM_TOLERANCE = {"float16": 2e-2}  # largest distance of a sum of probabilities from 1
DEFAULT_SUM_TOLERANCE = 1e-3
BATCH = 8  # pictures per call of the comparison

Floats = npt.NDArray[np.float64]


def add(
    path: str | os.PathLike[str],
    name: str,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    layout: Layout | None = None,
    channels: str | None = None,
    resize: ResizeFit | None = None,
    resize_size: int | None = None,
    interpolation: Interpolation | None = None,
    antialias: bool | None = None,
    preset: str | None = None,
    form: Form = "photo",
    output: str = "auto",
    output_name: str | None = None,
    samples: str | os.PathLike[str] | None = None,
    title: str | None = None,
    licence: str = "unknown",
    target: Path | None = None,
) -> Card:
    """Add an ONNX image classifier of another program to your own models; `zoo.load(name)` opens it.

    Settings that are not given are read from what Ultralytics, timm and transformers leave in the file or beside it
    (`zoo/adding/preprocessing.py`), and `zoo.load(name).card.origin` says what was used.

    Args:
        path: the .onnx file. Its weights may be in other files of the same folder.
        name: of the new model.
        labels: a text file with one label per line, a JSON file, or the labels themselves, in the order of the classes.
        size: height and width of the network's input, where the file does not fix them.
        mean, std: one value per channel, or one for all: the network takes `(pixel * scale - mean) / std`.
        scale: of pixels 0 to 255; 1/255 by default.
        layout: "nchw" or "nhwc", where the file does not show it.
        channels: "rgb", "bgr" (blue first) or "grey".
        resize: "shortest" resizes the shorter side to `resize_size` and crops the centre; "exact" stretches.
        interpolation, antialias: of the resizing. Without antialiasing it is OpenCV's.
        preset: "torchvision", "timm" or "ultralytics": the rules of that library, under all other settings.
        form: "photo"; "digit" for a 28x28 network of light digits on dark, which gets the corrections of digits.
        output: "logits", "probabilities", or "auto": what the file gives.
        output_name: which output of the file has the scores, if it has several.
        samples: a folder of pictures to compare the new model with the file; by default pictures made by program.
        title, licence: for the card.
        target: folder of models, default `$ZOO_HOME/models`.
    Returns:
        The card of the new model.
    Raises:
        WrongUsage: settings or labels that do not fit the model, or a name that is taken.
        ModelNotFound, BadModel: no such file, or not an image classifier that pocketzoo can run.
        ExportError: the new model and the file disagree.
    """
    target = target or registry.home() / "models"
    own_models.check_new(name, target)
    with _as_bad_model(path):
        model = read_model(Path(path))
        metadata = preprocessing.read_metadata(model)
        chosen = Settings(
            mean=tuple(mean) if mean else None,
            std=tuple(std) if std else None,
            scale=scale,
            resize=resize,
            resize_size=resize_size,
            interpolation=interpolation,
            antialias=antialias,
            bgr=None if channels is None else channels == "bgr",
            source="options",
        )
        settings = _settings(chosen, preset, metadata.settings)
        sides = (size, size) if isinstance(size, int) else size
        if sides is None and metadata.size is not None and _has_any_size(model):
            sides = metadata.size
        expected = image_input(model, layout, sides)
        if channels is not None and (channels == "grey") != (expected.channels == 1):
            raise WrongUsage(
                f"{model.name} takes {expected.channels} channel(s), which does not fit --channels {channels}."
            )
        rules = preprocessing.complete(settings, expected)
        names, where = _labels(labels, metadata.labels)
        scores_name = class_output(model, output_name, None if names is None else len(names))
        card_input = Input(
            expected.height, expected.width, expected.channels, form, rules.resize if form == "photo" else None
        )
        if form == "digit" and card_input.shape != (28, 28, 1):
            raise WrongUsage(
                f"--form digit is for inputs of 28x28x1, but {model.name} takes {'x'.join(map(str, card_input.shape))}."
            )
        sources: Sequence[Any] = made_pictures() if samples is None else folder_pictures(Path(samples))
        pictures = prepared_pictures(sources, card_input)
        bare = _BareModel(model, expected, scores_name, rules)
        scores = bare.run(pictures)
        if names is None:
            raise WrongUsage(
                f"{model.name} has {scores.shape[1]:,} classes and no labels in its metadata: give them with --labels "
                "FILE, one per line."
            )
        names = preprocessing.check_labels(names, scores.shape[1], where)
        kind = _kind(output, model, scores_name, scores, expected)
        proto = graph.compose(model, expected, scores_name, kind, len(names), rules)
        card = _card(name, title, licence, names, card_input, model, proto, rules)
        parity = _compare(
            proto,
            card,
            pictures,
            _probabilities(scores, kind),
            expected,
            "made by program" if samples is None else "of yours",
        )
        assert card.origin is not None
        card = replace(card, origin=replace(card.origin, parity=parity))
        return own_models.write(card, {"model.onnx": _content(proto, card)}, target)


@contextmanager
def _as_bad_model(path: str | os.PathLike[str]) -> Iterator[None]:
    """A damaged graph can make onnx and the runtime raise anything: turn that into an error about the file."""
    try:
        yield
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        raise BadModel(
            f"{printable(os.fsdecode(path))} cannot be added ({type(error).__name__}: {reason(error)}): it is damaged. "
            "If not, please report this file."
        ) from error


def _settings(chosen: Settings, preset: str | None, found: Settings) -> Settings:
    if preset is not None:
        if preset not in preprocessing.PRESETS:
            raise WrongUsage(f"Unknown preset {preset!r}: choose {', '.join(preprocessing.PRESETS)}.")
        return chosen.over(preprocessing.PRESETS[preset])
    return chosen.over(found)


def _has_any_size(model: ForeignModel) -> bool:
    """Whether the first input leaves its height or width open."""
    dims = model.proto.graph.input[0].type.tensor_type.shape.dim if model.proto.graph.input else []
    return len(dims) == 4 and sum(dim.dim_value <= 0 for dim in dims[1:]) >= 2


def _labels(
    labels: str | os.PathLike[str] | Sequence[str] | None, found: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, str]:
    """The labels, and where they come from in words."""
    if isinstance(labels, (str, os.PathLike)):
        return preprocessing.read_labels(Path(labels)), os.fspath(labels)
    if labels is not None:
        return tuple(labels), "the list"
    return found, "the metadata"


class _BareModel:
    """The file as it is, behind preprocessing in NumPy: what the new model is compared with."""

    def __init__(self, model: ForeignModel, expected: ImageInput, output: str, rules: Preprocessing) -> None:
        self._session, _ = open_session(model.proto.SerializeToString(), "cpu", model.name)
        self._expected, self._output, self._rules, self._name = expected, output, rules, model.name

    def run(self, pictures: npt.NDArray[np.uint8]) -> Floats:
        """uint8 `(N, H, W, C)` → the file's scores `(N, K)`. Raises BadModel: they are not finite scores of classes."""
        size = self._expected.batch or BATCH
        parts = []
        for start in range(0, len(pictures), size):
            part = pictures[start : start + size]
            padding = np.repeat(part[-1:], size - len(part) if self._expected.batch else 0, axis=0)
            values = self._network_input(np.concatenate([part, padding]))
            try:
                scores = self._session.run([self._output], {self._expected.name: values})[0]
            except Exception as error:  # onnxruntime's error classes are not public
                raise BadModel(f"{self._name} cannot be run ({reason(error)}).") from None
            if scores.ndim == 4 and scores.shape[2:] == (1, 1):
                scores = scores[:, :, 0, 0]
            if scores.ndim != 2 or len(scores) != len(values):
                raise BadModel(
                    f"{self._name} is not a classifier: for {len(values)} pictures its output has the shape "
                    f"{scores.shape}, not ({len(values)}, classes)."
                )
            parts.append(scores[: len(part)].astype(np.float64))
        result: Floats = np.concatenate(parts)
        if result.shape[1] < 2:
            raise BadModel(f"{self._name} gives one value per picture: a classifier has at least two classes.")
        if not np.isfinite(result).all():
            raise BadModel(f"{self._name} gives values that are not finite numbers: check --scale, --mean and --std.")
        return result

    def _network_input(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        rules, expected = self._rules, self._expected
        pixels = pictures[..., ::-1] if rules.bgr else pictures
        if expected.dtype == "uint8":
            values: npt.NDArray[Any] = pixels
        else:
            values = ((pixels * rules.scale - np.array(rules.mean)) / np.array(rules.std)).astype(np.float32)
        values = values.transpose(0, 3, 1, 2) if expected.layout == "nchw" else values
        return np.ascontiguousarray(values.astype(expected.dtype))


def _kind(output: str, model: ForeignModel, name: str, scores: Floats, expected: ImageInput) -> graph.Kind:
    """Whether the scores are logits or probabilities.

    A graph whose last operator is a softmax is cut before it, so its scores count as logits in the new model.

    Raises:
        WrongUsage: `output` contradicts the scores.
        BadModel: the classes are independent, because the last operator is a sigmoid.
    """
    tolerance = SUM_TOLERANCE.get(expected.dtype, DEFAULT_SUM_TOLERANCE)
    are_shares = bool((scores >= 0).all() and (abs(scores.sum(axis=1) - 1) <= tolerance).all())
    if output == "probabilities" and not are_shares:
        raise WrongUsage(
            f"The output of {model.name} has no probabilities: its values are from {scores.min():.3g} to "
            f"{scores.max():.3g}, and rows sum to {scores.sum(axis=1).mean():.3g}. Use --output logits."
        )
    if output == "auto" and graph.last_operator(model, name) == "Sigmoid":
        raise BadModel(
            f"{model.name} ends in a sigmoid: it gives every label a probability of its own, but a classifier chooses "
            "one. Export it without the sigmoid, or use --output logits."
        )
    return "probabilities" if output == "probabilities" or (output == "auto" and are_shares) else "logits"


def _probabilities(scores: Floats, kind: graph.Kind) -> Floats:
    if kind == "probabilities":
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def _compare(
    proto: onnx.ModelProto, card: Card, pictures: npt.NDArray[np.uint8], expected: Floats, image: ImageInput, kind: str
) -> str:
    """Compare the new model with the file, in batches and one by one; returns the result in words.

    Raises:
        ExportError: they disagree.
        BadModel: the new model cannot be run with several pictures.
    """
    advice = "Export it again with a dynamic batch size (in PyTorch: dynamic_axes or dynamic_shapes)."
    try:
        model = Model(_content(proto, card), "cpu", card.name)
        probabilities = np.concatenate(
            [model.run(pictures[start : start + BATCH]).probabilities for start in range(0, len(pictures), BATCH)]
        )
        single = np.concatenate(
            [model.run(pictures[[number]]).probabilities for number in range(min(3, len(pictures)))]
        )
    except (BadModel, BadInput) as error:
        if image.batch is None:
            raise
        raise BadModel(
            f"The batch size of {image.batch} is fixed inside this model, and it cannot be changed ({reason(error)}). "
            f"{advice}"
        ) from None
    difference = float(np.abs(probabilities - expected).max())
    tolerance = TOLERANCE.get(image.dtype, DEFAULT_TOLERANCE)
    if float(np.abs(single - probabilities[: len(single)]).max()) > tolerance:
        raise BadModel(f"The result of a picture depends on the other pictures of its batch. {advice}")
    if not difference <= tolerance:
        raise ExportError(
            f"The new model and the file disagree: probabilities differ by up to {difference:.2g} (allowed: "
            f"{tolerance:g}). Nothing was written."
        )
    return f"probabilities of {len(pictures)} pictures {kind} differ by at most {difference:.1e} from the file's own"


def _content(proto: onnx.ModelProto, card: Card) -> bytes:
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, card.to_json()
    content: bytes = proto.SerializeToString()
    return content


def _card(
    name: str,
    title: str | None,
    licence: str,
    labels: tuple[str, ...],
    card_input: Input,
    model: ForeignModel,
    proto: onnx.ModelProto,
    rules: Preprocessing,
) -> Card:
    onnx = import_onnx()
    layers = _layers(proto)
    card = Card(
        schema_version=SCHEMA_VERSION,
        name=name,
        version="1.0.0",
        title=title or f"added from {printable(model.name)}",
        licence=licence,
        default=False,
        labels=labels,
        input=card_input,
        dataset=None,
        parameters=Parameters(trainable=None, keras=None, deployed=_parameters(proto)),
        macs=sum(layer.macs for layer in layers) if layers else None,
        accuracy=None,
        calibration=Calibration(1.0, 0.5, "no calibration: T = 1, unsure below 0.5", None, None),
        training=None,
        layers=layers,
        opset=model.opset,
        versions={
            "pocketzoo": zoo.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": import_runtime().__version__,
        },
        origin=Origin(printable(model.name)[:100], model.sha256, model.producer, str(rules), "not compared"),
    )
    try:
        return replace(Card.from_json(card.to_json(), name), files=())
    except BadModel as error:
        raise WrongUsage(f"The model's card would be invalid: {error}") from None


def _parameters(proto: onnx.ModelProto) -> int:
    """Numbers of all weights: floats, and the integers of quantized weights."""
    tensors = [*proto.graph.initializer]
    tensors += [
        a.t for node in proto.graph.node for a in node.attribute if node.op_type == "Constant" and a.HasField("t")
    ]
    kinds = {1, 2, 3, 10, 11, 16}  # float32, uint8, int8, float16, float64, bfloat16
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type in kinds)


def _layers(proto: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers of a plain convolutional network; empty for others, whose MACs would be counted wrongly."""
    from zoo.inspection.onnx_layers import layers

    kinds = {node.op_type for node in proto.graph.node}
    if kinds & {"Einsum", "Attention", "ConvTranspose", "LSTM", "GRU", "ConvInteger", "QLinearConv", "MatMulInteger"}:
        return ()
    try:
        found = layers(proto)
    except Exception:  # a graph that this analysis does not understand
        return ()
    with_weights = [layer for layer in found if "pool" not in layer.kind]
    are_plain = all(layer.macs and len(layer.output) in (1, 3) and 0 not in layer.output for layer in with_weights)
    return found if with_weights and are_plain else ()
