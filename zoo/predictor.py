"""Model: one ONNX session and its card. `run()` takes arrays as they are, `predict()` takes pictures and gives rows."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from zoo import registry
from zoo.binding import Bound
from zoo.card import METADATA_KEY, Card
from zoo.digits import DOUBT
from zoo.errors import BadInput, BadModel, ModelNotFound, reason
from zoo.image import describe
from zoo.photos import FITS, Fit
from zoo.prepare import CORRECTORS, prepare
from zoo.rows import Guess, Prepared, Row, prepare_all
from zoo.runtime import Device, open_session

CHUNK = 16  # pictures a session call: 8 to 32 of them fit a core's cache (docs/decisions/0003-runtime.md)


class Scores(NamedTuple):
    """logits and probabilities, float32 `(N, K)`, columns in the order of `card.labels`."""

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


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
        self.card = _embedded_card(self._session, where)
        self._image_shape = self.card.input.shape

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
            BadInput: wrong shape or dtype.
        """
        self.check(images)
        return Scores(*self._session.run(None, {"image": images}))

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

    def answer(self, prepared: list[Prepared], top_k: int = 3, bound: Bound | None = None) -> Iterator[Row]:
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

    def bind(self, batch: int) -> Bound:
        """A way to run batches of that size with input and outputs bound to memory of the device."""
        return Bound(self._session, self.device, self._image_shape, len(self.card.labels), batch)

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
        unsure = doubtful or best.probability < self.card.calibration.unsure_below
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
        name: `mnist14k.notes`; `mnist14k`, which means the architecture's default; or a path that ends in .onnx.
        device: "auto", "cpu" or "cuda"; "cuda" fails where CUDA cannot be used, and never falls back.
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
    name = os.fspath(name)
    if name.lower().endswith(".onnx"):
        return ModelFile(_read(Path(name)), name, None)
    entry = registry.find(name)
    path = entry.folder / "model.onnx"
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != entry.card.file("model.onnx").sha256:
        raise BadModel(
            f"{path} is not the file that its card describes (its sha256 differs): get the model again, or export it."
        )
    return ModelFile(content, name, entry.card)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelNotFound(f"There is no model file {path}: check the path.") from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read ({reason(error)}): check the path.") from None


def _embedded_card(session: Any, where: str) -> Card:
    """The card that the file carries, after checking that inputs and outputs are those of our contract."""
    inputs = [(value.name, value.type, len(value.shape)) for value in session.get_inputs()]
    outputs = [(value.name, value.type) for value in session.get_outputs()]
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    contract = [("image", "tensor(uint8)", 4)], [("logits", "tensor(float)"), ("probabilities", "tensor(float)")]
    if (inputs, outputs) != contract or text is None:
        raise BadModel(
            f"{where} is an ONNX model, but not of pocketzoo's form (uint8 image in, logits and probabilities out, "
            "a card inside): export it with `python -m train export`."
        )
    card = Card.from_json(text, where)
    shape = tuple(session.get_inputs()[0].shape[1:])
    if card.input.form not in CORRECTORS:
        raise BadModel(f"{where} takes pictures of form {card.input.form!r}, unknown here: install a newer pocketzoo.")
    if shape != card.input.shape:
        raise BadModel(f"{where} takes images of {shape} and its card says {card.input.shape}: export it again.")
    return card
