"""Card: the metadata of one model, as frozen dataclasses.

Cards are written by programs, never by hand: by `train/export.py` from measurements, and by `zoo/adding/` for models
of other programs. The card is inside `model.onnx` (JSON, metadata key `zoo.model_files.METADATA_KEY`) and, with the
sizes and digests of the files added, beside it as `card.json`.

Cards of other people's models are read too. `Card.from_json` checks every field against its annotation, including
bounds, so no other code has to: every field of a Card can be printed, plotted and computed with.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from zoo.errors import BadModel, printable
from zoo.model_files import LARGEST_CARD

SCHEMA_VERSION = 1
T = TypeVar("T")

Form = Literal["digit", "photo"]
ResizeFit = Literal["shortest", "exact"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

OWN_IMAGES = "own"  # the data set of a model that `zoo fit` has trained
MAX_LENGTH = 10_000  # characters of a string, or members of a list
MAX_DEPTH = 10  # of nested lists and objects in settings and environments

# Annotations of fields. For numbers: the bounds, both included. For strings: a pattern that the whole string matches,
# and its description in error messages.
Share = Annotated[float, 0, 1]
Count = Annotated[int, 0, 2**53]  # JavaScript and other readers of JSON are exact up to there
Positive = Annotated[float, 1e-6, 1e9]
NotNegative = Annotated[float, 0, 1e12]

# Names become file names, arguments of commands and parts of URLs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
Name = Annotated[str, NAME, "a name of letters, digits and . _ + -"]
FileName = Annotated[str, NAME, "the name of a file in the model's folder"]
Sha256 = Annotated[str, re.compile("[0-9a-f]{64}"), "64 hexadecimal digits"]
Label = Annotated[str, re.compile(".{1,200}"), "a label of 1 to 200 characters"]


@dataclass(frozen=True)
class Resize:
    """How photographs are resized, where a model was trained with other rules than those of `zoo/images/photos.py`."""

    fit: ResizeFit
    """"shortest": the shorter side becomes `size`, then the centre is cropped, as `Resize` and `CenterCrop` of
    torchvision do. "exact": the whole image becomes the input's size without keeping its proportions."""
    size: Annotated[int, 1, 2048]  # of "shortest": pixels of the shorter side, at least both sides of the input
    interpolation: Interpolation
    antialias: bool = True  # as Pillow and torchvision do; False as OpenCV and TensorFlow do by default


@dataclass(frozen=True)
class Input:
    """The network's input: uint8 `(N, height, width, channels)`."""

    height: Annotated[int, 1, 1024]
    width: Annotated[int, 1, 1024]
    channels: Annotated[int, 1, 4]
    form: Form
    """How images are prepared. "digit": MNIST's form, 28x28x1, light on dark, centred (`zoo/images/digits.py`).
    "photo": RGB or grey, cropped to the centre and resized (`zoo/images/photos.py`)."""
    resize: Resize | None = None  # of photographs; None for the rules of `zoo/images/photos.py`

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def changes_own_size(self) -> bool:
        """Whether an image of exactly the network's size is resized too: enlarged, and cropped to the same size."""
        resize = self.resize
        return resize is not None and resize.fit == "shortest" and resize.size != min(self.height, self.width)


@dataclass(frozen=True)
class DatasetFacts:
    """The data set that the model was trained on."""

    name: str  # in `zoo.datasets.catalog`, or OWN_IMAGES
    title: str
    licence: str
    source: str
    images: dict[str, Count] | None = None  # of one's own images: their number by split
    sha256: Sha256 | None = None  # of one's own images: over all prepared images and labels (docs/decisions/0019)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters. None: unknown, for a model that another program has exported."""

    trainable: Count | None  # updated by the optimizer
    keras: Count | None  # as Keras counts them: trainable, plus the moving statistics of batch norm
    deployed: Count  # in the ONNX file, where batch norm is folded into the convolutions

    @property
    def count(self) -> int:
        """As Keras counts them; those in the file where that is unknown."""
        return self.deployed if self.keras is None else self.keras


@dataclass(frozen=True)
class Seeds:
    """Test accuracies of the same recipe with several seeds, after the last epoch."""

    accuracies: tuple[Share, ...]  # in the order of the seeds
    mean: Share
    sd: Share | None  # with n - 1; None for a single seed
    n: Count


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the shipped weights (last epoch) on the whole test set."""

    value: Share
    correct: Count
    images: Annotated[int, 1, 2**53]
    interval95: tuple[Share, Share]  # Wilson's interval, for the size of the test set
    loss: NotNegative  # mean cross-entropy in nats, before the temperature
    seeds: Seeds

    def __str__(self) -> str:
        """The value and its 95 % sampling interval, in percent."""
        low, high = self.interval95
        return f"{self.value:.2%} ({low:.2%} to {high:.2%})"


@dataclass(frozen=True)
class Calibration:
    """Temperature scaling, and the threshold for unsure results."""

    temperature: Positive  # probabilities = softmax(logits / temperature)
    unsure_below: Share  # a result with a lower top probability is marked unsure
    source: str  # how both were determined
    ece_before: Share | None
    """Expected calibration error on the test set, 15 bins, 0 to 1, without the temperature; None: not measured."""
    ece_after: Share | None  # the same with the temperature
    known_from: Share | None = None
    """An image whose output `known` is below this shows none of the classes; None: the model has no such output."""


@dataclass(frozen=True)
class UnknownSet:
    """How well `known` separates the test images from images of another set, which chose nothing."""

    name: str
    images: Annotated[int, 1, 2**53]
    auroc: Share  # area under the ROC curve, test images against these
    false_positive_rate: Share  # share of these at or above the score that 95 % of the test images reach
    known: Share  # share of these at or above `known_from`


@dataclass(frozen=True)
class Known:
    """How the output `known` was trained, and how well it tells other images from those of the classes."""

    source: str  # what it was trained on, and how its bound was set
    parameters: Count = 0  # of the head, which `parameters` and `layers` of the card do not count
    made_auroc: Share | None = None  # validation images against made images like those of the training
    test_known: Share | None = None  # share of the test images that are known; None: not measured
    sets: tuple[UnknownSet, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One layer of the network, from the ONNX file."""

    name: str
    kind: str
    output: tuple[Count, ...]  # `(C, H, W)` or `(K,)`
    receptive_field: Count  # pixels of the input per side that one value depends on
    parameters: Count
    macs: Count  # multiply-accumulates per image


@dataclass(frozen=True)
class Training:
    """How the weights were trained."""

    settings: dict[str, Any]  # the recipe's fields
    seed: Count
    epochs: Count
    seconds: NotNegative  # wall time of training the shipped seed
    source: str
    environment: dict[str, Any]
    """Machine and versions. Its "precision" is the one that was used. The settings' "bfloat16" is only a request, for
    processors that have it."""


@dataclass(frozen=True)
class Quantization:
    """How an int8 model was made, and its accuracy and latency compared with the original model."""

    of: Name  # the original model
    scheme: str
    calibration_images: Count
    accuracy_change: Annotated[float, -1, 1]  # on the whole test set, as a share; negative is worse
    latency_ratio: dict[str, dict[str, NotNegative]]
    """Processor → batch size → time of this model / time of the original: medians of alternating calls on one thread.
    The model was made on the last processor. Those before it timed earlier files of the same graph."""

    def __str__(self) -> str:
        times = [
            f"{', '.join(f'{ratio:.2f} at batch {batch}' for batch, ratio in ratios.items())} on {processor}"
            for processor, ratios in self.latency_ratio.items()
        ]
        ratios = "; ".join(times)
        return f"{self.accuracy_change:+.2%} accuracy beside {self.of}; share of its time, on one thread: {ratios}"


@dataclass(frozen=True)
class File:
    name: FileName
    size_bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Origin:
    """Where a model comes from that another program has exported (`zoo add`)."""

    file: str  # name of the ONNX file
    sha256: Sha256  # of that file
    producer: str  # the program that wrote it, or "unknown"
    preprocessing: str  # what the graph does with the pixels, and what that was read from
    parity: str  # how the model was compared with the file


@dataclass(frozen=True)
class Trained:
    """The facts of a card that only a model with known training has."""

    dataset: DatasetFacts
    accuracy: Accuracy
    training: Training


@dataclass(frozen=True)
class Card:
    """The metadata of one model.

    `dataset`, `accuracy`, `training` and `macs` are None where they are unknown, because another program has exported
    the model. `trained` has the first three for code that needs them.
    """

    schema_version: int
    name: Name
    version: str
    title: str
    licence: str
    default: bool
    labels: tuple[Label, ...]
    input: Input
    dataset: DatasetFacts | None
    parameters: Parameters
    macs: Count | None
    accuracy: Accuracy | None
    calibration: Calibration
    training: Training | None
    layers: tuple[Layer, ...]
    opset: Count
    versions: dict[str, str]
    files: tuple[File, ...] = ()  # empty in the card inside the ONNX file
    quantization: Quantization | None = None
    origin: Origin | None = None
    known: Known | None = None  # None: the model has no output `known`

    @property
    def trained(self) -> Trained:
        """Data set, accuracy and training. Raises BadModel if the card does not have all of them."""
        if self.dataset is None or self.accuracy is None or self.training is None:
            raise BadModel(
                f"The card of {self.name} has no data set, accuracy or training, because another program has exported "
                "it: choose a model that was trained by pocketzoo."
            )
        return Trained(self.dataset, self.accuracy, self.training)

    @property
    def architecture(self) -> str:
        """The part of the name before the dot, such as `mnist14k`."""
        return self.name.split(".")[0]

    def file(self, name: str) -> File:
        """The entry of one file. Raises BadModel if the card has none."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise BadModel(f"The card of {self.name} lists no file {name}: export the model again.")

    def embedded(self) -> "Card":
        """The card as it is inside the ONNX file, without the list of files."""
        return replace(self, files=())

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(asdict(self), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Card":
        """Read a card and check every field. Error messages call its file `where`. Raises BadModel."""
        try:
            if len(text) > LARGEST_CARD:
                raise _Invalid(f"it has {len(text):,} characters, more than the limit of {LARGEST_CARD:,}")
            data = _loads(text)
            if not isinstance(data, dict) or "schema_version" not in data:
                raise _Invalid("it has no schema_version")
            if data["schema_version"] != SCHEMA_VERSION:
                raise BadModel(
                    f"The card in {where} has schema version {_short(data['schema_version'])}, but this version of "
                    f"pocketzoo reads {SCHEMA_VERSION}: install the version that wrote it, or export the model again."
                )
            card: Card = _check_for(cast(Any, cls))(data)
            _check_consistency(card)
            return card
        except (ValueError, RecursionError) as error:  # from json; _Invalid
            detail = "it is nested too deeply" if isinstance(error, RecursionError) else printable(str(error)[:300])
            raise BadModel(
                f"The card in {where} is damaged or not a pocketzoo card ({detail}): export the model again, or "
                "install the version of pocketzoo that wrote it."
            ) from None


def parse(kind: type[T], text: str) -> T:
    """Read the JSON of any dataclass that is annotated as those here, and check every field.

    Raises:
        ValueError: with the name of the field, as a part of the sentence for the user.
        RecursionError: nested too deeply.
    """
    value: T = _check_for(cast(Any, kind))(_loads(text))
    return value


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


class _Invalid(ValueError):
    """A field that does not match its annotation. The message is a part of the sentence for the user."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Duplicate keys are refused, because some readers take the first and others the last."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Invalid("an object in it has a key twice")
    return members


def _refuse_constant(name: str) -> float:
    raise _Invalid(f"it contains {name}, which is not a JSON number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


Check = Callable[[Any], Any]  # a JSON value → the value of the field; raises _Invalid


@cache
def _check_for(kind: Any) -> Check:
    """The function that reads a JSON value as an annotation demands: objects as dataclasses, lists as tuples.

    Made once for every annotation of `Card`. Error messages do not have the field's name, which `_member` adds.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        kind, *rule = arguments
        return partial(_matching if kind is str else _between, _check_for(kind), *rule)
    if is_dataclass(kind):
        checks = {field.name: _check_for(cast(Any, field.type)) for field in fields(kind)}
        needed = {field.name for field in fields(kind) if field.default is MISSING}
        return lambda value: _dataclass(kind, checks, needed, value)
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        return partial(_list, _check_for(arguments[0]), length)
    if origin is dict:
        return partial(_dict, _check_for(arguments[1]))
    if origin in (Union, UnionType):  # of a type and None
        return partial(_optional, _check_for(arguments[0]))
    if origin is Literal:
        return partial(_one_of, arguments)
    return _any if kind is Any else partial(_plain, kind)


def _member(check: Check, name: str, value: Any) -> Any:
    try:
        return check(value)
    except _Invalid as error:
        raise _Invalid(f"{name}{'' if str(error).startswith(' ') else '.'}{error}") from None


def _dataclass(kind: Any, checks: dict[str, Check], needed: set[str], value: Any) -> Any:
    if not isinstance(value, dict):
        raise _Invalid(f" is {_short(value)}, not an object")
    if unknown := value.keys() - checks.keys():
        raise _Invalid(f"{_short(min(unknown))} is an unknown field")
    if missing := needed - value.keys():
        raise _Invalid(f"{min(missing)} is missing")
    return kind(**{name: _member(checks[name], name, member) for name, member in value.items()})


def _list(check: Check, length: int | None, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > MAX_LENGTH or (length is not None and len(value) != length):
        raise _Invalid(f" is {_short(value)}, not a list of {length or f'at most {MAX_LENGTH:,}'}")
    return tuple([_member(check, f"[{index}]", member) for index, member in enumerate(value)])


def _dict(check: Check, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Invalid(f" is {_short(value)}, not an object")
    return {_plain(str, key): _member(check, _short(key), member) for key, member in value.items()}


def _optional(check: Check, value: Any) -> Any:
    return None if value is None else check(value)


def _one_of(choices: tuple[str, ...], value: Any) -> Any:
    if value not in choices:
        raise _Invalid(f" is {_short(value)}, not one of {', '.join(choices)}")
    return value


def _plain(kind: Any, value: Any) -> Any:
    """A bool, a printable string, or a finite number. An integer is accepted as a float, a bool is not a number."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        names = {bool: "true or false", str: "a string", int: "an integer", float: "a number"}
        raise _Invalid(f" is {_short(value)}, not {names[kind]}")
    if kind is str and (len(value) > MAX_LENGTH or not value.isprintable()):
        raise _Invalid(f" is {_short(value)}, not at most {MAX_LENGTH:,} printable characters")
    if kind is float and not math.isfinite(value):
        raise _Invalid(f" is {value}, not a finite number")
    return value


def _any(value: Any, depth: int = 0) -> Any:
    """Any JSON value that is not nested too deeply, with printable strings and finite numbers."""
    if depth > MAX_DEPTH:
        raise _Invalid(" is nested too deeply")
    if isinstance(value, dict):
        return {_plain(str, key): _any(member, depth + 1) for key, member in value.items()}
    if isinstance(value, list):
        return [_any(member, depth + 1) for member in value]
    return None if value is None else _plain(type(value), value)


def _between(check: Check, low: float, high: float, value: Any) -> Any:
    if not low <= check(value) <= high:
        raise _Invalid(f" is {_short(value)}, not from {low:g} to {high:g}")
    return value


def _matching(check: Check, pattern: re.Pattern[str], description: str, value: Any) -> Any:
    if not pattern.fullmatch(check(value)):
        raise _Invalid(f" is {_short(value)}, not {description}")
    return value


def _check_consistency(card: Card) -> None:
    """Check the rules between fields. Raises _Invalid."""
    shape, accuracy = card.input.shape, card.accuracy
    for valid, problem in (
        (0 < len(set(card.labels)) == len(card.labels), "labels are empty or not all different"),
        (
            card.input.form != "digit" or shape == (28, 28, 1),
            f"a digit is 28x28x1, not {'x'.join(map(str, shape))}",
        ),
        (card.input.form != "photo" or card.input.channels in (1, 3), "a photo has 1 or 3 channels"),
        (card.input.form == "photo" or card.input.resize is None, "only a photo is resized by rules of its own"),
        (
            card.input.resize is None or card.input.resize.size >= max(shape[:2]) or card.input.resize.fit == "exact",
            "input.resize.size is smaller than the input",
        ),
        (accuracy is None or accuracy.correct <= accuracy.images, "accuracy.correct is more than accuracy.images"),
        (
            accuracy is None or accuracy.seeds.n == len(accuracy.seeds.accuracies) > 0,
            "accuracy.seeds.n is not the number of accuracies",
        ),
        (len({file.name for file in card.files}) == len(card.files), "files lists a name twice"),
    ):
        if not valid:
            raise _Invalid(problem)
