"""Model: one ONNX session and its card. `run()` takes arrays in the network's form, `predict()` takes images."""

from __future__ import annotations  # faster start: annotations stay unevaluated

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from zoo.card import Card
from zoo.classification import CHUNK, classify_prepared, prepare_all, read_all, reads_numbers
from zoo.embedded_card import embedded_card
from zoo.errors import BadInput, BadModel, DeviceUnavailable, reason
from zoo.images.photos import FITS, Fit
from zoo.images.prepare import prepare_image, prepare_number
from zoo.images.read import describe, is_one_image
from zoo.reading import Reading
from zoo.rows import Prepared, Row
from zoo.runtime import Bound, Device, gpu_lock, open_session
from zoo.scores import Scores

_UINT8 = np.dtype(np.uint8)  # a comparison with the class takes twice as long


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
        self.card = embedded_card(self._session, source_name)
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
        return read_all([number.lines()], self.run)[0] if number else []

    def rows(
        self, sources: Iterable[Any], top_k: int = 3, fit: Fit = "crop", chunk: int = CHUNK, single: bool = False
    ) -> Iterator[Row]:
        """Like `predict` for a list of any length, but lazily: `chunk` images at a time, in order.

        Args:
            sources: images, such as a list, a generator or an array `(N, H, W)` or `(N, H, W, C)`.
        Raises:
            BadInput: a single image, which is not taken apart.
        """
        check_options(top_k, fit)
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}.")
        if is_one_image(sources):
            name = describe(sources)
            raise BadInput(f"rows() takes a list of images, not one ({name}): put it into a list, or use predict().")
        return self._rows(iter(sources), top_k, fit, chunk, single)

    def _rows(self, remaining: Iterator[Any], top_k: int, fit: Fit, chunk: int, single: bool) -> Iterator[Row]:
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
