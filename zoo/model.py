"""Model: one ONNX session and its card. `run()` takes arrays in the network's form, `predict()` takes images.

Every interface turns images into rows with the steps of this file, so the same bytes give the same row in Python,
the command, batches and the server: `prepare_all` decodes and corrects, a session call gives probabilities, `make_rows`
builds the rows. `classify_prepared` is the last two steps together.

There are two fast paths with the same results: batches use `zoo/columns.py` instead of `make_rows`, and `prepare_all`
decodes plain PNG files of the network's size in `zoo/images/ready.py` instead of `zoo/images/prepare.py`.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from zoo import registry
from zoo.card import Card, File, Input
from zoo.errors import BadInput, BadModel, DeviceUnavailable, ModelNotFound, printable, reason
from zoo.images.decode import Pixels
from zoo.images.digits import DOUBT, NO_WRITING
from zoo.images.numbers import Line, Number, is_likely_number
from zoo.images.photos import FITS, Fit
from zoo.images.prepare import prepare_image, prepare_number
from zoo.images.read import describe
from zoo.images.ready import ready_pixels
from zoo.model_files import LARGEST_MODEL, METADATA_KEY, check_onnx, read_file
from zoo.reading import DIGITS, UNSURE_BELOW, Digit, Reading, joined, read_lines
from zoo.runtime import Bound, Device, gpu_lock, open_session

_UINT8 = np.dtype(np.uint8)  # a comparison with the class takes twice as long
_SURE = 0.9  # an image whose probability and `known` are at least this high is one digit
CHUNK = 16  # images per session call: 8 to 32 of them fit a core's cache (docs/decisions/0003-runtime.md)

Outputs = tuple[npt.NDArray[np.float32], ...]  # as `Scores`, without `known` where the network lacks it


@dataclass(frozen=True)
class Guess:
    """One label and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True, repr=False)
class Row:
    """The result for one input, the same in every interface.

    Attributes:
        input: the path, or a short description of an input without one.
        model: the model's full name.
        label: the most probable label; of a number, all its digits; None with an `error`.
        probability: of that label, 0 to 1; None with an `error`.
        unsure: True where the probability is below `card.calibration.unsure_below` (of a number also below
            `zoo.reading.UNSURE_BELOW`), or where a correction begins with `zoo.images.digits.DOUBT`; None with an
            `error`.
        known: False where the image shows none of the classes: its output `known` is below
            `card.calibration.known_from`. `label` is then the nearest class. None with an `error`, or where the model
            has no such output.
        top_k: the most probable labels, best first.
        digits: the digits of a number, line by line from left to right; empty unless there are several.
        corrections: the changes that were made to the image, in words and in order.
        error: a sentence for an image that could not be classified, or None.
    """

    input: str
    model: str
    label: str | None = None
    probability: float | None = None
    unsure: bool | None = None
    known: bool | None = None
    top_k: tuple[Guess, ...] = ()
    digits: tuple[Digit, ...] = ()
    corrections: tuple[str, ...] = ()
    error: str | None = None

    def __repr__(self) -> str:
        if self.probability is None:
            return f"<zoo.Row {self.input!r}: error {self.error!r}>"
        if self.known is False:
            return f"<zoo.Row {self.input!r}: none of the classes (nearest: {self.label!r}, {self.probability:.2%})>"
        return f"<zoo.Row {self.input!r}: {self.label!r} ({self.probability:.2%}){', unsure' if self.unsure else ''}>"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, in their order. `dataclasses.asdict` takes as long as decoding an image."""
        top_k = [{"label": guess.label, "probability": guess.probability} for guess in self.top_k]
        digits = [digit.to_dict() for digit in self.digits]
        fields = {**vars(self), "top_k": top_k, "digits": digits, "corrections": list(self.corrections)}
        fields["input"] = as_utf8(self.input)
        if self.error is not None:
            fields["error"] = as_utf8(self.error)
        return fields


def as_utf8(text: str) -> str:
    """Text that every output format can hold.

    File names need not be UTF-8. Python keeps their other bytes as lone surrogates, which neither JSON parsers nor
    Arrow accept. Such a byte, for example E9, becomes the six characters `\\udce9`.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


class Scores(NamedTuple):
    """Logits and probabilities, float32 `(N, K)`, with columns in the order of `card.labels`.

    `known` is float32 `(N,)`, 0 to 1: how likely an image shows one of the classes; None for a model without it.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    known: npt.NDArray[np.float32] | None = None

    def part(self, start: int, end: int) -> Scores:
        """The scores of some of the images."""
        known = None if self.known is None else self.known[start:end]
        return Scores(self.logits[start:end], self.probabilities[start:end], known)

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """The scores of several calls, at least one, as one."""
        if len(parts) == 1:
            return parts[0]
        known = [part.known for part in parts if part.known is not None]
        return cls(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate(known) if known else None,
        )


class Model:
    """A classifier that is ready to run. `run`, `predict` and `rows` may be called from several threads at once.

    Attributes:
        card: the model's metadata, such as `card.name` and `card.labels`.
        device: where the network runs, "cpu" or "cuda".
    """

    def __init__(self, onnx: bytes, device: Device = "auto", source_name: str = "<bytes>") -> None:
        """Open the content of an ONNX file; `zoo.load` opens a model by its name or path.

        Args:
            source_name: the name that error messages use.
        """
        if not isinstance(onnx, bytes):
            raise BadModel(
                f"Model() takes the bytes of an ONNX file, not {type(onnx).__name__}: "
                "use zoo.load(...) to open a model by name."
            )
        self._arguments = (onnx, device, source_name)
        self._session, self.device = open_session(onnx, device, source_name)
        self._call = self._session.run if self.device == "cpu" else partial(_run_on_gpu, self._session)
        self.card = _embedded_card(self._session, source_name)
        self._outputs = [output.name for output in self._session.get_outputs()]  # as `run` would read them every time
        if self.card.quantization and self.device == "cuda":
            raise DeviceUnavailable(
                f"{self.card.name} is an int8 model. CUDA would not compute it in integers, and its results would "
                f"differ from its card: choose --device cpu, or the model {self.card.quantization.of}."
            )

    def __reduce__(self) -> tuple[type[Model], tuple[bytes, Device, str]]:
        """A session cannot be pickled; a copy opens its own, for example in another process."""
        return Model, self._arguments

    def _session_with_graph(self) -> Any:
        """A new session for one `Bound`."""
        onnx, _, source_name = self._arguments
        return open_session(onnx, "cuda", source_name, graph=True)[0]

    def __repr__(self) -> str:
        return f"<zoo.Model {self.card.name} on {self.device}>"

    def run(self, images: npt.NDArray[np.uint8]) -> Scores:
        """Classify arrays that are already in the network's form; nothing is corrected.

        Args:
            images: uint8 `(N, H, W, C)`; H, W, C as in `self.card.input`.
        Returns:
            Scores: float32 `(N, K)` logits and probabilities, columns in the order of `self.card.labels`.
        Raises:
            BadInput: wrong shape or dtype.
            BadModel: a network from elsewhere failed, or its outputs do not have the shapes that it declares.
            DeviceUnavailable: the same on a GPU.
        """
        check_images(images, self.card)
        try:
            logits, probabilities, *rest = self._call(self._outputs, {"image": images})
        except Exception as error:  # onnxruntime's error classes are not public
            raise self._run_error(reason(error)) from None
        count = len(images)
        if not logits.shape == probabilities.shape == (count, len(self.card.labels)):
            raise self._run_error(f"{count} images gave outputs of {logits.shape} and {probabilities.shape}")
        known = rest[0] if rest else None
        if known is not None and known.shape != (count,):
            raise self._run_error(f"{count} images gave an output known of {known.shape}")
        return Scores(logits, probabilities, known)

    def _run_error(self, detail: str) -> BadModel | DeviceUnavailable:
        message = f"{self.card.name} cannot be run on {self.device} ({detail})"
        if self.device == "cuda":  # its memory may be full
            return DeviceUnavailable(f"{message}: choose the device cpu.")
        return BadModel(f"{message}: export it again.")

    @overload
    def predict(
        self, source: list[Any] | tuple[Any, ...], top_k: int = 3, fit: Fit = "crop", single: bool = False
    ) -> list[Row]: ...

    @overload
    def predict(self, source: Any, top_k: int = 3, fit: Fit = "crop", single: bool = False) -> Row: ...

    def predict(self, source: Any, top_k: int = 3, fit: Fit = "crop", single: bool = False) -> Row | list[Row]:
        """Classify images of any size. They are corrected to the form that the network expects.

        Args:
            source: a path, an image file's bytes, an open binary file, a PIL image, an array `(H, W)` or `(H, W, C)`;
                or a list of them.
            top_k: how many labels a row lists, at least 1.
            fit: for photographs: "crop" takes the middle, "whole" keeps the whole image. Digits are always located.
            single: whether an image of several digits is an error. Otherwise its number is read.
        Returns:
            A Row; for a list, the rows in the same order. In a list, an image that fails gives a row with `error`.
        Raises:
            BadInput: a single image that cannot be classified.
        """
        check_options(top_k, fit)
        if isinstance(source, (list, tuple)):
            return list(self.rows(source, top_k, fit, single=single))
        single = single or not reads_numbers(self.card)
        image = prepare_image(source, self.card.input, fit, single)
        row = classify_prepared(self, [Prepared(describe(source), *image)], top_k)[0]
        if row.error is not None:
            raise BadInput(row.error)
        return row

    def read(self, source: Any) -> list[Reading]:
        """Read the numbers in an image, line by line from top to bottom.

        Args:
            source: as for `predict`.
        Returns:
            A Reading for each line, with its text, its probability, and the box of each digit; [] where the ink does
            not look like digits. An image of a single digit has one reading of one digit.
        Raises:
            BadInput: the image cannot be read, or is blank; or the model's labels are not the ten digits.
        """
        if not reads_numbers(self.card):
            raise BadInput(f"{self.card.name} cannot read numbers, because its labels are not the digits 0 to 9.")
        number = prepare_number(source, self.card.input)
        return _read_all([number.lines()], self.run)[0] if number else []

    def rows(
        self, sources: Iterable[Any], top_k: int = 3, fit: Fit = "crop", chunk: int = CHUNK, single: bool = False
    ) -> Iterator[Row]:
        """Like `predict` for a list of any length, but lazily: `chunk` images at a time, in order."""
        check_options(top_k, fit)
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}.")
        remaining = iter(sources)
        while batch := list(islice(remaining, chunk)):
            yield from classify_prepared(self, prepare_all(batch, self.card.input, fit, single), top_k)


def _run_on_gpu(session: Any, *arguments: Any) -> Any:
    with gpu_lock:
        return session.run(*arguments)


def check_options(top_k: int, fit: Fit) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}.")
    if fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, not {fit!r}.")


# From images to rows: prepare_all → a session call → make_rows. The server runs the steps for several requests at
# once, everything else through classify_prepared.


class Prepared(NamedTuple):
    """One input in the network's form, uint8 `(H, W, C)`; or None and an error sentence.

    `number` is set for an image that has, or may have, several digits. With an error, it certainly has: the error is
    the result for models that do not read numbers.
    """

    name: str
    pixels: Pixels | None
    corrections: tuple[str, ...] = ()
    number: Number | None = None
    error: str | None = None


def prepare_all(sources: Iterable[Any], expected: Input, fit: Fit = "crop", single: bool = False) -> list[Prepared]:
    """Decode and correct images for a network's input. An image that fails does not affect the others.

    Args:
        single: whether an image of several digits is an error.
    """
    if not isinstance(sources, (list, tuple)):  # an iterator decides how far it is read
        return [_prepared(source, expected, fit, single) for source in sources]
    ready = ready_pixels(sources, expected)
    return [
        Prepared(describe(source), ready[position]) if position in ready else _prepared(source, expected, fit, single)
        for position, source in enumerate(sources)
    ]


def _prepared(source: Any, expected: Input, fit: Fit, single: bool) -> Prepared:
    name = describe(source)
    try:
        return Prepared(name, *prepare_image(source, expected, fit, single))
    except BadInput as error:
        return Prepared(name, None, error=str(error))


def stack_pixels(prepared: list[Prepared]) -> npt.NDArray[np.uint8] | None:
    """uint8 `(N, H, W, C)` of the inputs without an error; None where there are none."""
    arrays = [image.pixels for image in prepared if image.pixels is not None]
    if len(arrays) == 1:
        return arrays[0][np.newaxis]  # no copy
    return np.stack(arrays) if arrays else None


def classify_prepared(
    model: Model,
    prepared: list[Prepared],
    top_k: int = 3,
    run: Callable[[npt.NDArray[np.uint8]], Outputs | Scores] | None = None,
) -> list[Row]:
    """Run all prepared images in one session call; a row for each, in order.

    Args:
        run: replaces `model.run`, such as `zoo.runtime.Bound.run`.
    """
    images = stack_pixels(prepared)
    scores = None if images is None else Scores(*(run or model.run)(images))
    readings = read_numbers(model.card, prepared, scores, run or model.run)
    _, probabilities, known = scores or (None, None, None)
    return make_rows(model.card, prepared, probabilities, top_k, known, readings)


def reads_numbers(card: Card) -> bool:
    return card.input.form == "digit" and card.labels == DIGITS


def read_numbers(
    card: Card,
    prepared: list[Prepared],
    scores: Scores | None,
    run: Callable[[npt.NDArray[np.uint8]], Outputs | Scores],
) -> dict[int, list[Reading]]:
    """Read the images that have several digits, or that may have and are unsure as one.

    Args:
        scores: of the images that have pixels.
        run: classifies their candidates, `CHUNK` at a time.
    Returns:
        position in `prepared` → its lines, from top to bottom.
    """
    if not any(image.number for image in prepared) or not reads_numbers(card):
        return {}
    positions = []
    rows: dict[int, int | None] = {}  # position → row of the scores; None where the image is no single digit
    row = -1
    for position, image in enumerate(prepared):
        row += image.pixels is not None
        rows[position] = row if image.pixels is not None else None
        if image.number is not None and (image.pixels is None or scores is None or _is_doubtful(image, scores, row)):
            positions.append(position)
    lines = [number.lines() if (number := prepared[position].number) else [] for position in positions]
    result = {}
    for position, readings in zip(positions, _read_all(lines, run), strict=True):
        own = rows[position]
        if readings if own is None or scores is None else _is_surer(readings, _certainty(scores, own)):
            result[position] = readings
    return result


def _is_doubtful(image: Prepared, scores: Scores, row: int) -> bool:
    """Whether an image that may have two digits is to be read as a number.

    A network may be sure of one digit where two touch: only the output `known` tells.
    """
    if any(correction.startswith(NO_WRITING) for correction in image.corrections):
        return False
    if any(correction.startswith(DOUBT) for correction in image.corrections):
        return True
    if not float(scores[1][row].max()) >= _SURE:
        return True
    if scores.known is not None:
        return not float(scores.known[row]) >= _SURE
    return image.pixels is not None and is_likely_number(image.pixels)


def _certainty(scores: Scores, row: int) -> float:
    """How certain it is that an image shows its most probable digit: the network's probability is that of a digit."""
    known = 1.0 if scores.known is None else float(scores.known[row])
    return known * float(scores.probabilities[row].max())


def _is_surer(readings: list[Reading], single: float) -> bool:
    """Whether several digits in one line are more certain than one digit of that certainty."""
    if len(readings) != 1 or len(readings[0].digits) < 2:
        return False
    return readings[0].probability >= _SURE or readings[0].probability > single


def _read_all(
    numbers: list[list[Line]], run: Callable[[npt.NDArray[np.uint8]], Outputs | Scores]
) -> list[list[Reading]]:
    """The readings of the lines of several images; all their candidates share the calls of the network."""
    pixels = [line.pixels for lines in numbers for line in lines]
    if not pixels:
        return [[] for _ in numbers]
    images = np.concatenate(pixels)
    parts = [Scores(*run(images[start : start + CHUNK])) for start in range(0, len(images), CHUNK)]
    _, probabilities, known = Scores.joined(parts)
    result, start = [], 0
    for lines in numbers:
        own = slice(start, start := start + sum(len(line.first) for line in lines))
        result.append(read_lines(lines, probabilities[own], None if known is None else known[own]))
    return result


def make_rows(
    card: Card,
    prepared: list[Prepared],
    probabilities: npt.NDArray[np.float32] | None,
    top_k: int = 3,
    known: npt.NDArray[np.float32] | None = None,
    readings: Mapping[int, list[Reading]] = MappingProxyType({}),
) -> list[Row]:
    """A row for each input, in order.

    Args:
        probabilities: float32 `(N, K)` of the inputs without an error; None where there are none.
        known: float32 `(N,)` of the same inputs; None for a model without this output.
        readings: of numbers, as `read_numbers` returns them.
    """
    guesses = iter(() if probabilities is None else _guesses(card.labels, probabilities, top_k))
    decisions = iter(is_known(card, known).tolist()) if known is not None else repeat(None)
    rows = [
        Row(image.name, card.name, error=image.error)
        if image.pixels is None
        else _row(card, image, next(guesses), next(decisions))
        for image in prepared
    ]
    for position, lines in readings.items():
        rows[position] = _number_row(card, prepared[position], lines, top_k)
    return rows


def _number_row(card: Card, image: Prepared, lines: list[Reading], top_k: int) -> Row:
    guesses = tuple([Guess(text, probability) for text, probability in joined(lines, min(top_k, len(card.labels)))])
    digits = tuple([digit for reading in lines for digit in reading.digits])
    note = f"found {len(digits)} digits" if len(digits) > 1 else "found one digit in several strokes"
    if len(lines) > 1:
        note += f" in {len(lines)} lines"
    corrections = (*(image.number.corrections if image.number else ()), note)
    unsure = not guesses[0].probability >= max(card.calibration.unsure_below, UNSURE_BELOW)
    values = [reading.known for reading in lines if reading.known is not None]
    known = bool(is_known(card, np.asarray(values, np.float32)).all()) if values else None
    several = digits if len(digits) > 1 else ()
    best = guesses[0]
    return Row(image.name, card.name, best.label, best.probability, unsure, known, guesses, several, corrections)


def is_known(card: Card, known: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which values of the output `known` reach the card's bound, `(N,)`. NaN does not."""
    return known.astype(np.float64) >= (card.calibration.known_from or 0.0)


def _guesses(
    labels: tuple[str, ...], probabilities: npt.NDArray[np.float32], top_k: int
) -> Iterator[tuple[Guess, ...]]:
    """The best labels of each row of `(N, K)`, best first; of equal ones the first label."""
    for values in probabilities.tolist():  # Python sorts ten values faster than a NumPy call takes
        best = sorted(range(len(labels)), key=values.__getitem__, reverse=True)[:top_k]
        yield tuple([Guess(labels[index], values[index]) for index in best])


def _row(card: Card, prepared: Prepared, guesses: tuple[Guess, ...], known: bool | None) -> Row:
    best = guesses[0]
    doubtful = any(correction.startswith(DOUBT) for correction in prepared.corrections)
    unsure = doubtful or not best.probability >= card.calibration.unsure_below  # NaN is unsure too
    corrections = prepared.corrections
    known = known and not any(correction.startswith(NO_WRITING) for correction in corrections)
    return Row(prepared.name, card.name, best.label, best.probability, unsure, known, guesses, (), corrections)


def check_images(images: npt.NDArray[np.uint8], card: Card) -> None:
    """Raise BadInput where `Model.run` would: another shape or dtype than uint8 `(N, H, W, C)`."""
    if getattr(images, "dtype", None) == _UINT8 and images.shape[1:] == card.input.shape:
        return
    if not isinstance(images, np.ndarray):
        raise BadInput(f"run() takes a NumPy array, not {type(images).__name__}: use predict() for images.")
    expected = ", ".join(map(str, card.input.shape))
    raise BadInput(
        f"{card.name} takes arrays of uint8 (N, {expected}), not {images.dtype} {images.shape}: "
        "convert the array, or use predict() for images."
    )


# What batches, the server and `zoo doctor` need of an open model.


def onnx_bytes(model: Model) -> bytes:
    """The content of the ONNX file that the model was opened from."""
    return model._arguments[0]


def on_cpu(model: Model) -> Model:
    """The same model on the CPU; the model itself where it is there already."""
    content, _, source_name = model._arguments
    return model if model.device == "cpu" else Model(content, "cpu", source_name)


def bind(model: Model, batch: int, pinned: bool = True) -> Bound:
    """Runs batches of that size, with inputs and outputs bound to fixed memory of the model's device.

    Args:
        pinned: as in `zoo.runtime.Bound`.
    """
    card = model.card
    has_known = card.calibration.known_from is not None
    session = model._session_with_graph() if model.device == "cuda" else model._session
    return Bound(session, model.device, card.input.shape, len(card.labels), batch, pinned, has_known)


# Names, paths and files of models.


def load(name: str | os.PathLike[str], device: Device = "auto") -> Model:
    """Open a model of the zoo, or any ONNX file that pocketzoo exported.

    Args:
        name: a full name such as `mnist14k.notes`; an architecture such as `mnist14k`, which means its default model;
            a path that ends in .onnx; or the path of a model's folder.
        device: "cpu"; "cuda", which fails where CUDA cannot be used and never falls back; or "auto", which is the CPU:
            it has classified thousands of images before a GPU is ready.
    Raises:
        ModelNotFound: no model has that name or path.
        BadModel: changed or damaged files.
        DeviceUnavailable: no ONNX runtime, or the device cannot be used.
    """
    file = model_file(name)
    model = Model(file.content, device, file.source_name)
    if file.card and model.card != file.card.embedded():
        raise BadModel(
            f"The card inside model.onnx of {file.source_name} differs from its card.json: export the model again."
        )
    return model


class ModelFile(NamedTuple):
    """The content of an ONNX file, its name in error messages, and the card.json beside it, if any."""

    content: bytes
    source_name: str
    card: Card | None


def model_file(name: str | os.PathLike[str]) -> ModelFile:
    """Read a model's ONNX file and check it against the card beside it. Takes and raises what `load` does."""
    source_name, location = os.fspath(name), locate(name)
    if isinstance(location, Path):
        return ModelFile(read_file(location, LARGEST_MODEL), source_name, None)
    content = location.read("model.onnx")
    if hashlib.sha256(content).hexdigest() != location.card.file("model.onnx").sha256:
        raise BadModel(
            f"{location.folder / 'model.onnx'} is not the file that its card describes (the sha256 differs): "
            "get the model again, or export it again."
        )
    return ModelFile(content, source_name, location.card)


def locate(name: str | os.PathLike[str]) -> registry.Entry | Path:
    """The registry entry that a name or folder means, or the path of an ONNX file on its own.

    A single word is a name of the zoo first; a folder of that name is used only where the zoo has no such model.

    Raises:
        ModelNotFound, BadModel.
    """
    text = os.fspath(name)
    if text.lower().endswith(".onnx") and not os.path.isdir(text):
        return Path(text)
    folder = Path(text)
    if len(folder.parts) > 1 or not isinstance(name, str):
        if not os.path.isdir(folder):
            raise ModelNotFound(f"There is no model folder {text}: check the path. Run `zoo list` to see all models.")
        return registry.open_folder(folder)
    try:
        return registry.find(text)
    except ModelNotFound:
        if os.path.lexists(folder / "card.json"):
            return registry.open_folder(folder)
        raise


def card_of(name: str | os.PathLike[str]) -> Card:
    """A model's card, without opening the model. Takes what `load` does.

    For an ONNX file on its own, this is the card inside it, with the file's size and digest added.

    Raises:
        ModelNotFound, BadModel.
    """
    location = locate(name)
    if isinstance(location, registry.Entry):
        return location.card
    content, source_name = read_file(location, LARGEST_MODEL), str(location)
    text = check_onnx(content, source_name)
    if text is None:
        raise BadModel(_not_pocketzoo(source_name))
    file = File("model.onnx", len(content), hashlib.sha256(content).hexdigest())
    return replace(Card.from_json(text, source_name), files=(file,))


def _embedded_card(session: Any, source_name: str) -> Card:
    """The card inside an ONNX file, once its inputs and outputs are checked (docs/decisions/0001-one-file.md)."""
    try:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        interface = [(value.name, value.type, len(value.shape)) for value in (*inputs, *outputs)]
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise BadModel(_not_pocketzoo(source_name)) from None
    expected = [
        ("image", "tensor(uint8)", 4),
        ("logits", "tensor(float)", 2),
        ("probabilities", "tensor(float)", 2),
    ]
    with_known = [*expected, ("known", "tensor(float)", 1)]  # optional: older and added models lack it
    if interface not in (expected, with_known) or text is None:
        raise BadModel(_not_pocketzoo(source_name))
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


def _not_pocketzoo(source_name: str) -> str:
    return (
        f"{source_name} is an ONNX file, but not a pocketzoo model (input uint8 image; outputs logits and "
        "probabilities; a card inside): export it with `python -m train export`."
    )
