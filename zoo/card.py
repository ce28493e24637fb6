"""Card: all that is known of one model, as frozen data.

A card is written by `train/export.py` from measurements, never by hand. It travels inside `model.onnx` (metadata key
`METADATA_KEY`, JSON) and, with the files' sizes and digests added, beside it as `card.json`.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from zoo.errors import BadModel

SCHEMA_VERSION = 1
METADATA_KEY = "pocketzoo.card"

Form = Literal["digit", "photo"]


@dataclass(frozen=True)
class Input:
    """What the network takes: uint8 `(N, height, width, channels)`; `form` says how a user's picture is brought there.

    "digit": as MNIST, light on dark, centred (`zoo/digits.py`). "photo": centre crop, resized.
    """

    height: int
    width: int
    channels: int
    form: Form

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


@dataclass(frozen=True)
class DatasetFacts:
    """name: of `zoo.datasets`; the rest for people."""

    name: str
    title: str
    licence: str
    source: str


@dataclass(frozen=True)
class Parameters:
    """trainable: that the optimizer moves. keras: plus batch norm's moving statistics. deployed: numbers in the ONNX
    file, where batch norm is folded into the convolutions.
    """

    trainable: int
    keras: int
    deployed: int


@dataclass(frozen=True)
class Seeds:
    """Last-epoch test accuracies of the same recipe from several seeds, in the order of the seeds; sd with n - 1."""

    accuracies: tuple[float, ...]
    mean: float
    sd: float | None  # None for a single seed
    n: int


@dataclass(frozen=True)
class Accuracy:
    """Of the shipped weights on the whole test set, last epoch; `interval95` is Wilson's, for the finite test set."""

    value: float
    correct: int
    images: int
    interval95: tuple[float, float]
    loss: float  # mean cross-entropy in nats, before the temperature
    seeds: Seeds

    def __str__(self) -> str:
        """The value and its 95 % sampling interval, in percent."""
        low, high = self.interval95
        return f"{self.value:.2%} ({low:.2%} to {high:.2%})"


@dataclass(frozen=True)
class Calibration:
    """temperature: `probabilities = softmax(logits / temperature)`. unsure_below: a top probability under it is called
    unsure. source: how both were found. ece_*: expected calibration error on the test set, 15 bins, 0 to 1.
    """

    temperature: float
    unsure_below: float
    source: str
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Layer:
    """One step of the network, from the ONNX file. output: `(C, H, W)` or `(K,)`; receptive_field: pixels of the input
    seen by one value, along one side; macs: multiply-accumulates an image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    receptive_field: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Training:
    """How the weights came about. settings: the recipe's fields. seconds: wall time of the shipped seed's training.

    environment: machine and versions; its "precision" is what the steps were computed in, where the settings' bfloat16
    is what they were to be computed in on a processor that has it.
    """

    settings: dict[str, Any]
    seed: int
    epochs: int
    seconds: float
    source: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Quantization:
    """How an int8 variant was made, and what it costs and gains beside the model that it comes from.

    of: that model's name. accuracy_change: on the whole test set, as a share (negative is worse). latency_ratio: its
    time over that model's, by processor and batch size, medians of calls in turn on one thread; the last processor is
    the one that it was made on, those before it timed earlier files of the same graph.
    """

    of: str
    scheme: str
    calibration_images: int
    accuracy_change: float
    latency_ratio: dict[str, dict[str, float]]

    def __str__(self) -> str:
        told = {
            processor: ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in ratios.items())
            for processor, ratios in self.latency_ratio.items()
        }
        times = "; ".join(f"{ratios} on {processor}" for processor, ratios in told.items())
        return f"{self.accuracy_change:+.2%} accuracy beside {self.of}; share of its time, on one thread: {times}"


@dataclass(frozen=True)
class File:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Card:
    """All that is known of one model. `files` is empty in the card that is embedded in the ONNX file."""

    schema_version: int
    name: str
    version: str
    title: str
    licence: str
    default: bool
    labels: tuple[str, ...]
    input: Input
    dataset: DatasetFacts
    parameters: Parameters
    macs: int
    accuracy: Accuracy
    calibration: Calibration
    training: Training
    layers: tuple[Layer, ...]
    opset: int
    versions: dict[str, str]
    files: tuple[File, ...] = ()
    quantization: Quantization | None = None

    @property
    def architecture(self) -> str:
        """The part of the name before the dot, such as `mnist14k`."""
        return self.name.split(".")[0]

    def file(self, name: str) -> File:
        """The entry of one file. Raises BadModel if the card has none."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise BadModel(f"The card of {self.name} lists no {name}: export the model again.")

    def embedded(self) -> Card:
        """The card as the ONNX file carries it, without the files' digests."""
        return replace(self, files=())

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(asdict(self), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Card:
        """Read a card; `where` names its place in sentences. Raises BadModel."""
        try:
            data = json.loads(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise BadModel(
                    f"The card in {where} has schema version {data['schema_version']!r}, and this pocketzoo reads "
                    f"{SCHEMA_VERSION}: install the pocketzoo that wrote it, or export the model again."
                )
            return cls._from_dict(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadModel(
                f"The card in {where} is damaged or not a pocketzoo card ({type(error).__name__}: {error}): "
                "export the model again."
            ) from None

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Card:
        accuracy = data["accuracy"]
        seeds = accuracy["seeds"]
        parts = {
            "labels": tuple(str(label) for label in data["labels"]),
            "input": Input(**data["input"]),
            "dataset": DatasetFacts(**data["dataset"]),
            "parameters": Parameters(**data["parameters"]),
            "accuracy": Accuracy(**{
                **accuracy,
                "interval95": tuple(accuracy["interval95"]),
                "seeds": Seeds(**{**seeds, "accuracies": tuple(seeds["accuracies"])}),
            }),
            "calibration": Calibration(**data["calibration"]),
            "training": Training(**data["training"]),
            "layers": tuple(Layer(**{**layer, "output": tuple(layer["output"])}) for layer in data["layers"]),
            "files": tuple(File(**file) for file in data.get("files", ())),
            "quantization": Quantization(**quantized) if (quantized := data.get("quantization")) else None,
        }  # fmt: skip
        return cls(**{**data, **parts})
