"""Card: all that is known of one model, as frozen data.

A card is written by `train/export.py` from measurements, never by hand. It travels inside `model.onnx` (metadata key
`zoo.model_files.METADATA_KEY`, JSON) and, with the files' sizes and digests added, beside it as `card.json`.

Cards of other people's models are read too. `Card.from_json` checks every field against its annotation, bounds
included, so that nothing else has to: what is a Card can be printed, drawn and computed with.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from zoo.errors import BadModel, printable
from zoo.model_files import LARGEST_CARD

SCHEMA_VERSION = 1

Form = Literal["digit", "photo"]

LONGEST_TEXT = 10_000  # characters of a string, and members of a list
DEEPEST = 10  # lists and objects inside each other, in what a card holds of settings and environments


# Annotations of fields: a number's bounds, both included; a string's pattern, which all of it matches, and its words.
Share = Annotated[float, 0, 1]
Count = Annotated[int, 0, 2**53]  # JavaScript and other readers of JSON are exact up to there
Positive = Annotated[float, 1e-6, 1e9]
NotNegative = Annotated[float, 0, 1e12]

# Both become file names, words of a command and parts of a URL.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
Name = Annotated[str, NAME, "a name of letters, digits and . _ + -"]
FileName = Annotated[str, NAME, "the name of a file in the model's folder"]
Sha256 = Annotated[str, re.compile("[0-9a-f]{64}"), "64 hexadecimal digits"]
Label = Annotated[str, re.compile(".{1,200}"), "a label of 1 to 200 characters"]


@dataclass(frozen=True)
class Input:
    """What the network takes: uint8 `(N, height, width, channels)`; `form` says how a user's picture is brought there.

    "digit": as MNIST, 28x28x1, light on dark, centred (`zoo/images/digits.py`). "photo": RGB, centre crop, resized.
    """

    height: Annotated[int, 1, 1024]
    width: Annotated[int, 1, 1024]
    channels: Annotated[int, 1, 4]
    form: Form

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


@dataclass(frozen=True)
class DatasetFacts:
    """name: of `zoo.datasets.catalog`; the rest for people."""

    name: str
    title: str
    licence: str
    source: str


@dataclass(frozen=True)
class Parameters:
    """trainable: that the optimizer moves. keras: plus batch norm's moving statistics. deployed: numbers in the ONNX
    file, where batch norm is folded into the convolutions.
    """

    trainable: Count
    keras: Count
    deployed: Count


@dataclass(frozen=True)
class Seeds:
    """Last-epoch test accuracies of the same recipe from several seeds, in the order of the seeds; sd with n - 1."""

    accuracies: tuple[Share, ...]
    mean: Share
    sd: Share | None  # None for a single seed
    n: Count


@dataclass(frozen=True)
class Accuracy:
    """Of the shipped weights on the whole test set, last epoch; `interval95` is Wilson's, for the finite test set."""

    value: Share
    correct: Count
    images: Annotated[int, 1, 2**53]
    interval95: tuple[Share, Share]
    loss: NotNegative  # mean cross-entropy in nats, before the temperature
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

    temperature: Positive
    unsure_below: Share
    source: str
    ece_before: Share
    ece_after: Share


@dataclass(frozen=True)
class Layer:
    """One step of the network, from the ONNX file. output: `(C, H, W)` or `(K,)`; receptive_field: pixels of the input
    seen by one value, along one side; macs: multiply-accumulates an image.
    """

    name: str
    kind: str
    output: tuple[Count, ...]
    receptive_field: Count
    parameters: Count
    macs: Count


@dataclass(frozen=True)
class Training:
    """How the weights came about. settings: the recipe's fields. seconds: wall time of the shipped seed's training.

    environment: machine and versions; its "precision" is what the steps were computed in, where the settings' bfloat16
    is what they were to be computed in on a processor that has it.
    """

    settings: dict[str, Any]
    seed: Count
    epochs: Count
    seconds: NotNegative
    source: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Quantization:
    """How an int8 variant was made, and what it costs and gains beside the model that it comes from.

    of: that model's name. accuracy_change: on the whole test set, as a share (negative is worse). latency_ratio: its
    time over that model's, by processor and batch size, medians of calls in turn on one thread; the last processor is
    the one that it was made on, those before it timed earlier files of the same graph.
    """

    of: Name
    scheme: str
    calibration_images: Count
    accuracy_change: Annotated[float, -1, 1]
    latency_ratio: dict[str, dict[str, NotNegative]]

    def __str__(self) -> str:
        told = {
            processor: ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in ratios.items())
            for processor, ratios in self.latency_ratio.items()
        }
        times = "; ".join(f"{ratios} on {processor}" for processor, ratios in told.items())
        return f"{self.accuracy_change:+.2%} accuracy beside {self.of}; share of its time, on one thread: {times}"


@dataclass(frozen=True)
class File:
    name: FileName
    size_bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Card:
    """All that is known of one model. `files` is empty in the card that is embedded in the ONNX file."""

    schema_version: int
    name: Name
    version: str
    title: str
    licence: str
    default: bool
    labels: tuple[Label, ...]
    input: Input
    dataset: DatasetFacts
    parameters: Parameters
    macs: Count
    accuracy: Accuracy
    calibration: Calibration
    training: Training
    layers: tuple[Layer, ...]
    opset: Count
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

    def embedded(self) -> "Card":
        """The card as the ONNX file carries it, without the files' digests."""
        return replace(self, files=())

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(asdict(self), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Card":
        """Read a card, every field checked; `where` names its place in sentences. Raises BadModel."""
        try:
            if len(text) > LARGEST_CARD:
                raise _Invalid(f"it has {len(text):,} characters, more than the {LARGEST_CARD:,} that are read")
            data = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
            if not isinstance(data, dict) or "schema_version" not in data:
                raise _Invalid("it has no schema_version")
            if data["schema_version"] != SCHEMA_VERSION:
                raise BadModel(
                    f"The card in {where} has schema version {_short(data['schema_version'])}, and this pocketzoo "
                    f"reads {SCHEMA_VERSION}: install the pocketzoo that wrote it, or export the model again."
                )
            card: Card = _check_of(cast(Any, cls))(data)
            _check_whole(card)
            return card
        except (ValueError, RecursionError) as error:  # of json; _Invalid
            said = "it is nested too deeply" if isinstance(error, RecursionError) else printable(str(error)[:300])
            raise BadModel(
                f"The card in {where} is damaged or not a pocketzoo card ({said}): export the model again, or install "
                "the pocketzoo that wrote it."
            ) from None


class _Invalid(ValueError):
    """A field that is not what its annotation says; the message is the sentence's middle."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of a key that is there twice, readers take the first or the last: it is refused."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Invalid("an object in it has a key twice")
    return found


def _no_number(name: str) -> float:
    raise _Invalid(f"it holds {name}, which is no number of JSON")


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:59]}…"


Check = Callable[[Any], Any]  # a value of JSON → the value of the field; raises _Invalid


@cache
def _check_of(kind: Any) -> Check:
    """How to read a value of JSON as an annotation wants it: objects as dataclasses, lists as tuples.

    Made once for every annotation of `Card`; what is wrong is said without the field's name, which `_member` adds.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        kind, *rule = arguments
        return partial(_matching if kind is str else _between, _check_of(kind), *rule)
    if is_dataclass(kind):
        checks = {field.name: _check_of(cast(Any, field.type)) for field in fields(kind)}
        needed = {field.name for field in fields(kind) if field.default is MISSING}
        return lambda value: _dataclass(kind, checks, needed, value)
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        return partial(_list, _check_of(arguments[0]), length)
    if origin is dict:
        return partial(_dict, _check_of(arguments[1]))
    if origin in (Union, UnionType):  # of something and None
        return partial(_optional, _check_of(arguments[0]))
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
        raise _Invalid(f"{_short(min(unknown))} is a field that is not known here")
    if missing := needed - value.keys():
        raise _Invalid(f"{min(missing)} is missing")
    return kind(**{name: _member(checks[name], name, one) for name, one in value.items()})


def _list(check: Check, length: int | None, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > LONGEST_TEXT or (length is not None and len(value) != length):
        raise _Invalid(f" is {_short(value)}, not a list of {length or f'at most {LONGEST_TEXT:,}'}")
    return tuple([_member(check, f"[{index}]", one) for index, one in enumerate(value)])


def _dict(check: Check, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Invalid(f" is {_short(value)}, not an object")
    return {_plain(str, key): _member(check, _short(key), one) for key, one in value.items()}


def _optional(check: Check, value: Any) -> Any:
    return None if value is None else check(value)


def _one_of(choices: tuple[str, ...], value: Any) -> Any:
    if value not in choices:
        raise _Invalid(f" is {_short(value)}, which is unknown here: one of {', '.join(choices)}")
    return value


def _plain(kind: Any, value: Any) -> Any:
    """A bool, a string that can be printed, or a finite number; an integer is a float too, a bool is no number."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        names = {bool: "true or false", str: "a string", int: "an integer", float: "a number"}
        raise _Invalid(f" is {_short(value)}, not {names[kind]}")
    if kind is str and (len(value) > LONGEST_TEXT or not value.isprintable()):
        raise _Invalid(f" is {_short(value)}, not {LONGEST_TEXT:,} printable characters at most")
    if kind is float and not math.isfinite(value):
        raise _Invalid(f" is {value}, not a finite number")
    return value


def _any(value: Any, depth: int = 0) -> Any:
    """Plain JSON of any form, not too deep, with printable strings and finite numbers."""
    if depth > DEEPEST:
        raise _Invalid(" is nested too deeply")
    if isinstance(value, dict):
        return {_plain(str, key): _any(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [_any(one, depth + 1) for one in value]
    return None if value is None else _plain(type(value), value)


def _between(check: Check, low: float, high: float, value: Any) -> Any:
    if not low <= check(value) <= high:
        raise _Invalid(f" is {_short(value)}, not from {low:g} to {high:g}")
    return value


def _matching(check: Check, pattern: re.Pattern[str], words: str, value: Any) -> Any:
    if not pattern.fullmatch(check(value)):
        raise _Invalid(f" is {_short(value)}, not {words}")
    return value


def _check_whole(card: Card) -> None:
    """What no single field can show. Raises _Invalid."""
    shape, accuracy = card.input.shape, card.accuracy
    for holds, said in (
        (0 < len(set(card.labels)) == len(card.labels), "labels are not all different, or there is none"),
        (card.input.form != "digit" or shape == (28, 28, 1), f"a digit is 28x28x1, not {'x'.join(map(str, shape))}"),
        (card.input.form != "photo" or card.input.channels == 3, "a photo has 3 channels"),
        (accuracy.correct <= accuracy.images, "accuracy.correct is more than accuracy.images"),
        (accuracy.seeds.n == len(accuracy.seeds.accuracies) > 0, "accuracy.seeds.n is not how many there are"),
        (len({file.name for file in card.files}) == len(card.files), "files has a name twice"),
    ):
        if not holds:
            raise _Invalid(said)
