"""Classifier: batches of images in, Arrow tables of rows out, for engines that distribute work over many machines."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from zoo.arrow import arrow_schema, to_record_batch
from zoo.classification import prepare_all
from zoo.columns import classify_columns
from zoo.errors import BadInput, ModelNotFound
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.loading import load
from zoo.model import Model, check_options
from zoo.rows import Prepared
from zoo.runtime import Device

STEP = 128  # images that are decoded and classified at a time
COLUMNS = ("bytes", "path", "error")


class Classifier:
    """A callable for `map_batches` of Ray Data, `mapInArrow` of Spark, and the like.

        >>> import zoo
        >>> zoo.Classifier("mnist14k")({"path": ["seven.png"]}).column("label").to_pylist()
        ['7']

    It can be pickled. A model given by its name is opened by each process for its first batch, so each machine needs
    it; a `Model` is sent along. The network runs with one thread: start one process per core.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        top_k: int = 3,
        fit: Fit = "crop",
        device: Device = "cpu",
        single: bool = False,
    ) -> None:
        """
        Args:
            model: a name or path, as for `zoo.load`, or an open model.
            top_k: how many labels a row lists, at least 1.
            fit, single: as in `Model.predict`.
            device: for a model given by its name.
        """
        check_options(top_k, fit)
        self._name = None if isinstance(model, Model) else os.fspath(model)
        self._model = model if isinstance(model, Model) else None
        self._top_k, self._fit, self._device, self._single = top_k, fit, device, single

    @property
    def schema(self) -> Any:
        """The `pyarrow.Schema` of the tables: the fields of `Row`, probabilities as float32."""
        return arrow_schema()

    @property
    def model(self) -> Model:
        """The open model. Raises ModelNotFound, with the name of the machine."""
        if self._model is None:
            assert self._name is not None
            try:
                self._model = load(self._name, self._device)
            except ModelNotFound as error:
                raise ModelNotFound(f"{error} (On the machine {socket.gethostname()}.)") from None
        return self._model

    def __call__(self, batch: Any) -> Any:
        """Classify a batch.

        Args:
            batch: a `pyarrow.Table` or `RecordBatch`, a `pandas.DataFrame`, or a mapping of columns, with N rows:
                bytes: the content of image files. Rows without it are read from their path.
                path: paths, or only names where there are bytes.
                error: a message for an image that could not be fetched, or null.
        Returns:
            A `pyarrow.Table` with N rows in the same order, as `schema` describes.
        Raises:
            BadInput: the batch has neither of the columns.
            ModelNotFound, BadModel, DeviceUnavailable: as `zoo.load`.
        """
        import pyarrow as pa

        columns = {name: _values(batch[name]) for name in COLUMNS if name in _names(batch)}
        if "bytes" not in columns and "path" not in columns:
            names = ", ".join(map(str, _names(batch))) or "none"
            raise BadInput(f"The batch has the columns {names}: one must be called bytes or path.")
        count = len(next(iter(columns.values())))
        rows = list(zip(*(columns.get(name, [None] * count) for name in COLUMNS), strict=True))
        parts = [self._classify(rows[start : start + STEP]) for start in range(0, count, STEP)]
        return pa.Table.from_batches(parts, self.schema)

    def _classify(self, rows: list[tuple[Any, Any, Any]]) -> Any:
        prepared = [_failure(*row) for row in rows]
        sources = [_source(*row) for row, failure in zip(rows, prepared, strict=True) if failure is None]
        images = iter(prepare_all(sources, self.model.card.input, self._fit, self._single))
        results = [failure or next(images) for failure in prepared]
        return to_record_batch(classify_columns(self.model, results, self._top_k))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"_model": None} if self._name is not None else {})


def _names(batch: Any) -> Iterable[Any]:
    return getattr(batch, "column_names", None) or getattr(getattr(batch, "schema", None), "names", None) or list(batch)


def _values(column: Any) -> list[Any]:
    """The values of an Arrow, NumPy or pandas column, or of a list, as Python objects; None for missing ones."""
    values = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    return [None if value is None or value != value else value for value in values]  # NaN differs from itself


def _text(value: Any) -> str:
    return os.fsdecode(value)


def _failure(data: Any, path: Any, error: Any) -> Prepared | None:
    """The result of an image that cannot be read."""
    if error is not None:
        return Prepared("" if path is None else _text(path), None, error=str(error))
    if data is None and path is None:
        return Prepared("", None, error="The row has neither bytes nor a path.")
    return None


def _source(data: Any, path: Any, _: Any) -> Any:
    if data is None:
        return _text(path)
    return bytes(data) if path is None else Named(_text(path), bytes(data))
