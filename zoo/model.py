"""Model: one ONNX session and its card. `run()` takes arrays as they are, `predict()` takes pictures and gives rows."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

from zoo import registry
from zoo.card import Card, File, Input
from zoo.errors import BadInput, BadModel, DeviceUnavailable, ModelNotFound, printable, reason
from zoo.images.decode import Pixels
from zoo.images.digits import DOUBT
from zoo.images.photos import FITS, Fit
from zoo.images.prepare import prepare
from zoo.images.read import describe
from zoo.model_files import LARGEST_MODEL, METADATA_KEY, check_onnx, read_file
from zoo.runtime import Bound, Device, gpu_lock, open_session, run_options

# What goes into the network for one input, and the row that comes out, the same in every interface.


@dataclass(frozen=True)
class Guess:
    label: str
    probability: float


@dataclass(frozen=True)
class Row:
    """The answer for one input, the same in every interface. With an `error`, label and probability are None.

    unsure: the probability is below `card.calibration.unsure_below`, or a correction begins with `digits.DOUBT`.
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


CHUNK = 16  # pictures a session call: 8 to 32 of them fit a core's cache (docs/decisions/0003-runtime.md)


class Scores(NamedTuple):
    """logits and probabilities, float32 `(N, K)`, columns in the order of `card.labels`."""

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


class Runs(Protocol):
    """What runs arrays in the place of a model's own session: `zoo.runtime.Bound`, for one."""

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...


class Model:
    """A classifier that is ready to run. `run` and `predict` may be called from several threads at once.

    card: what is known of the model. device: "cpu" or "cuda", where it really runs.
    """

    def __init__(self, onnx: bytes, device: Device = "auto", where: str = "<bytes>") -> None:
        if not isinstance(onnx, bytes):
            raise BadModel(
                f"Model takes an ONNX file's content, not {type(onnx).__name__}: use zoo.load(...) for names."
            )
        self._made_of = (onnx, device, where)
        self._session, self.device = open_session(onnx, device, where)
        self._options = run_options(self.device)
        self._lock: Any = gpu_lock if self.device == "cuda" else nullcontext()
        self.card = _embedded_card(self._session, where)
        self._image_shape, self._classes = self.card.input.shape, len(self.card.labels)
        if self.card.quantization and self.device == "cuda":
            raise DeviceUnavailable(
                f"{self.card.name} is an int8 model, which CUDA does not compute in integers: its answers would not be "
                f"those that its card describes. Choose --device cpu, or {self.card.quantization.of}."
            )

    @property
    def sha256(self) -> str:
        """Of the ONNX file."""
        return hashlib.sha256(self._made_of[0]).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of the ONNX file."""
        return len(self._made_of[0])

    def __reduce__(self) -> tuple[type[Model], tuple[bytes, Device, str]]:
        """A session cannot be pickled: a copy, in another process for one, opens its own."""
        return Model, self._made_of

    def __repr__(self) -> str:
        return f"<zoo.Model {self.card.name} on {self.device}>"

    def run(self, images: npt.NDArray[np.uint8]) -> Scores:
        """Classify arrays that are already in the network's form; nothing is corrected.

        Args:
            images: uint8 `(N, H, W, C)`; H, W, C as in `self.card.input`.
        Returns:
            Scores with float32 `(N, K)` logits and probabilities, columns in `self.card.labels` order.
        Raises:
            BadInput: wrong shape or dtype. BadModel: a foreign network that fails, or gives other shapes than it said.
            DeviceUnavailable: the same on a GPU.
        """
        self.check(images)
        try:
            with self._lock:
                logits, probabilities = self._session.run(None, {"image": images}, self._options)
        except Exception as error:  # onnxruntime's classes of errors are not public
            raise self._cannot_run(reason(error)) from None
        if not logits.shape == probabilities.shape == (len(images), self._classes):
            raise self._cannot_run(f"{len(images)} images gave outputs of {logits.shape} and {probabilities.shape}")
        return Scores(logits, probabilities)

    def _cannot_run(self, why: str) -> BadModel | DeviceUnavailable:
        said = f"{self.card.name} cannot be run on {self.device} ({why})"
        if self.device == "cuda":  # of which the memory may be full
            return DeviceUnavailable(f"{said}: choose the device cpu.")
        return BadModel(f"{said}: export it again.")

    def check(self, images: npt.NDArray[np.uint8]) -> None:
        """Raises BadInput where `run` would: another shape or dtype than `(N, H, W, C)` uint8."""
        if getattr(images, "dtype", None) != np.uint8 or images.shape[1:] != self._image_shape:
            raise BadInput(self._wrong_array(images))

    @overload
    def predict(self, source: list[Any] | tuple[Any, ...], top_k: int = 3, fit: Fit = "crop") -> list[Row]: ...

    @overload
    def predict(self, source: Any, top_k: int = 3, fit: Fit = "crop") -> Row: ...

    def predict(self, source: Any, top_k: int = 3, fit: Fit = "crop") -> Row | list[Row]:
        """Classify pictures of any size, corrected to what the network expects.

        Args:
            source: a path, an image file's bytes, an open binary file, a PIL image, an array `(H, W)` or `(H, W, C)`;
                or a list of them.
            top_k: how many guesses a row carries, at least 1.
            fit: of photographs, "crop" takes the middle and "whole" all of the picture; digits are always found.
        Returns:
            A Row; for a list, a list of rows in its order, where a bad picture's row carries `error`.
        Raises:
            BadInput: a single picture that cannot be classified.
        """
        _check(top_k, fit)
        if isinstance(source, (list, tuple)):
            return list(self.rows(source, top_k, fit))
        pixels, corrections = prepare(source, self.card.input, fit)
        return self._row(describe(source), self._guesses(self.run(pixels[np.newaxis])[1], top_k)[0], corrections)

    def rows(self, sources: Iterable[Any], top_k: int = 3, fit: Fit = "crop", chunk: int = CHUNK) -> Iterator[Row]:
        """Like `predict` for a list of any length, lazily: rows come in the order of the inputs, `chunk` at a time."""
        _check(top_k, fit)
        if chunk < 1:
            raise ValueError(f"chunk is at least 1, not {chunk}.")
        remaining = iter(sources)
        while batch := list(islice(remaining, chunk)):
            yield from self._chunk_rows(batch, top_k, fit)

    def _chunk_rows(self, sources: list[Any], top_k: int, fit: Fit) -> Iterator[Row]:
        return self.answer(prepare_all(sources, self.card.input, fit), top_k)

    def answer(self, prepared: list[Prepared], top_k: int = 3, bound: Runs | None = None) -> Iterator[Row]:
        """One session call for all that could be prepared, through `bound` if given; a row for each, in order."""
        good = [one.pixels for one in prepared if one.pixels is not None]
        run = self.run if bound is None else bound.run
        return self.rows_of(prepared, run(np.stack(good))[1] if good else None, top_k)

    def rows_of(
        self, prepared: list[Prepared], probabilities: npt.NDArray[np.float32] | None, top_k: int = 3
    ) -> Iterator[Row]:
        """A row for each, in order; probabilities `(N, K)` of those that could be prepared, None where none could."""
        guesses = iter(() if probabilities is None else self._guesses(probabilities, top_k))
        for one in prepared:
            if one.pixels is None:
                yield Row(one.name, self.card.name, error=one.error)
            else:
                yield self._row(one.name, next(guesses), one.corrections)

    def on_cpu(self) -> Model:
        """The same model on the CPU: itself where it is there."""
        return self if self.device == "cpu" else Model(self._made_of[0], "cpu", self._made_of[2])

    def bind(self, batch: int) -> Bound:
        """A way to run batches of that size with input and outputs bound to memory of the device."""
        return Bound(self._session, self.device, self._image_shape, self._classes, batch)

    def _guesses(self, probabilities: npt.NDArray[np.float32], top_k: int) -> list[tuple[Guess, ...]]:
        """The best labels of each row of `(N, K)`, best first; of equals the first label."""
        labels = self.card.labels
        guesses = []
        for shares in probabilities.tolist():  # of ten classes, Python sorts faster than a call of NumPy takes
            best = sorted(range(len(labels)), key=shares.__getitem__, reverse=True)[:top_k]
            guesses.append(tuple([Guess(labels[index], shares[index]) for index in best]))
        return guesses

    def _row(self, name: str, guesses: tuple[Guess, ...], corrections: tuple[str, ...]) -> Row:
        best = guesses[0]
        doubtful = any(correction.startswith(DOUBT) for correction in corrections)
        unsure = doubtful or not best.probability >= self.card.calibration.unsure_below  # NaN is unsure too
        return Row(name, self.card.name, best.label, best.probability, unsure, guesses, corrections)

    def _wrong_array(self, images: Any) -> str:
        if not isinstance(images, np.ndarray):
            return f"run() takes a NumPy array, not {type(images).__name__}: use predict() for pictures."
        expected = ", ".join(map(str, self._image_shape))
        return (
            f"{self.card.name} takes arrays of uint8 (N, {expected}), not {images.dtype} {images.shape}: "
            "bring them into that form, or use predict() for pictures."
        )


def _check(top_k: int, fit: Fit) -> None:
    if top_k < 1:
        raise ValueError(f"top_k is at least 1, not {top_k}.")
    if fit not in FITS:
        raise ValueError(f"fit is one of {', '.join(FITS)}, not {fit!r}.")


def load(name: str | os.PathLike[str], device: Device = "auto") -> Model:
    """Open a model of the zoo, or any ONNX file that pocketzoo exported.

    Args:
        name: `mnist14k.notes`; `mnist14k`, which means the architecture's default; a path that ends in .onnx; or the
            path of a model's folder.
        device: "cpu"; "cuda", which fails where CUDA cannot be used, and never falls back; "auto", the CPU: it has
            answered thousands of images before a GPU is ready.
    Raises:
        ModelNotFound, BadModel (changed or damaged files), DeviceUnavailable.
    """
    file = model_file(name)
    model = Model(file.content, device, file.where)
    if file.card and model.card != file.card.embedded():
        raise BadModel(f"The card in {file.where}'s model.onnx is not the one beside it: export the model again.")
    return model


class ModelFile(NamedTuple):
    """content: of an ONNX file. where: what sentences call it. card: the one beside it, None for a file on its own."""

    content: bytes
    where: str
    card: Card | None


def model_file(name: str | os.PathLike[str]) -> ModelFile:
    """Read a model's ONNX file, checked against the card beside it; takes and raises what `load` does."""
    where, found = os.fspath(name), locate(name)
    if isinstance(found, Path):
        return ModelFile(read_file(found, LARGEST_MODEL), where, None)
    content = found.read("model.onnx")
    if hashlib.sha256(content).hexdigest() != found.card.file("model.onnx").sha256:
        raise BadModel(
            f"{found.folder / 'model.onnx'} is not the file that its card describes (its sha256 differs): get the "
            "model again, or export it."
        )
    return ModelFile(content, where, found.card)


def locate(name: str | os.PathLike[str]) -> registry.Entry | Path:
    """What a name means: an entry of the zoo or of a folder, or the path of an ONNX file on its own.

    A word is a name of the zoo first, and a folder here where the zoo has none of that name.

    Raises:
        ModelNotFound, BadModel.
    """
    text = os.fspath(name)
    if text.lower().endswith(".onnx") and not os.path.isdir(text):
        return Path(text)
    folder = Path(text)
    if len(folder.parts) > 1 or not isinstance(name, str):
        if not os.path.isdir(folder):
            raise ModelNotFound(f"There is no model's folder {text}: check the path, or `zoo list` for names.")
        return registry.open_folder(folder)
    try:
        return registry.find(text)
    except ModelNotFound:
        if os.path.lexists(folder / "card.json"):
            return registry.open_folder(folder)
        raise


def card_of(name: str | os.PathLike[str]) -> Card:
    """A model's card, without opening the model; takes what `load` does.

    The card of an ONNX file on its own is the one that it carries, with the file's size and digest added.

    Raises:
        ModelNotFound, BadModel.
    """
    found = locate(name)
    if isinstance(found, registry.Entry):
        return found.card
    content, where = read_file(found, LARGEST_MODEL), str(found)
    text = check_onnx(content, where)
    if text is None:
        raise BadModel(_other_form(where))
    file = File("model.onnx", len(content), hashlib.sha256(content).hexdigest())
    return replace(Card.from_json(text, where), files=(file,))


def _embedded_card(session: Any, where: str) -> Card:
    """The card that the file carries, after checking that inputs and outputs are those of our contract."""
    try:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        names = [(value.name, value.type, len(value.shape)) for value in (*inputs, *outputs)]
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise BadModel(_other_form(where)) from None
    contract = [
        ("image", "tensor(uint8)", 4), ("logits", "tensor(float)", 2), ("probabilities", "tensor(float)", 2),
    ]  # fmt: skip
    if names != contract or text is None:
        raise BadModel(_other_form(where))
    card = Card.from_json(text, where)
    for value, rest in ((inputs[0], card.input.shape), *((output, (len(card.labels),)) for output in outputs)):
        count, *sizes = value.shape
        if isinstance(count, int) or tuple(sizes) != rest:
            raise BadModel(
                f"{where} has {value.name} of shape {_shape(value.shape)}, and its card says {_shape(['N', *rest])}: "
                "export it again."
            )
    return card


def _shape(sizes: Iterable[int | str | None]) -> str:
    """In error messages: names of dimensions are text from the file."""
    return f"({', '.join(printable(str(size))[:40] for size in sizes)})"


def _other_form(where: str) -> str:
    return (
        f"{where} is an ONNX model, but not of pocketzoo's form (uint8 image in, logits and probabilities out, a card "
        "inside): export it with `python -m train export`."
    )
