"""Rows as Arrow record batches: the columns of parquet files, and of batches in other engines."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.columns import Columns
from zoo.rows import as_utf8


def arrow_schema() -> Any:
    """The columns of a parquet file: the fields of `Row`, probabilities as float32."""
    import pyarrow as pa

    guess = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    digit = pa.struct([*guess, ("box", pa.list_(pa.int32()))])
    return pa.schema(
        [
            ("input", pa.string()),
            ("model", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("unsure", pa.bool_()),
            ("known", pa.bool_()),
            ("top_k", pa.list_(guess)),
            ("digits", pa.list_(digit)),
            ("corrections", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )


def to_record_batch(columns: Columns) -> Any:
    """The results as one `pyarrow.RecordBatch`."""
    import pyarrow as pa

    good = np.array([error is None for error in columns.errors], np.bool_)
    count, width = len(columns), columns.top.shape[1]
    labels = pa.array([as_utf8(label) for label in columns.labels], pa.string())

    def spread(values: Any, kind: Any) -> Any:
        """A column with nulls for the results with an error."""
        if good.all():
            return pa.array(values, kind)
        filled = np.zeros(count, values.dtype)
        filled[good] = values
        return pa.array(filled, kind, mask=~good)

    first, best = (values[:, 0] if width else values[:, :0].ravel() for values in (columns.top, columns.probabilities))
    guesses = pa.StructArray.from_arrays(
        [labels.take(pa.array(columns.top.ravel())), pa.array(columns.probabilities.ravel(), pa.float32())],
        names=["label", "probability"],
    )
    schema = arrow_schema()
    digits = [[digit.to_dict() for digit in columns.digits.get(position, ())] for position in range(count)]
    corrections = [len(texts) for texts in columns.corrections]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([as_utf8(name) for name in columns.names], pa.string()),
            pa.array([columns.model] * count, pa.string()),
            labels.take(spread(first, pa.int64())),
            spread(best.astype(np.float32), pa.float32()),
            spread(columns.unsure, pa.bool_()),
            pa.nulls(count, pa.bool_()) if columns.known is None else spread(columns.known, pa.bool_()),
            pa.ListArray.from_arrays(_offsets(good * width), guesses),
            pa.array(digits, schema.field("digits").type),
            pa.ListArray.from_arrays(
                _offsets(corrections), pa.array([text for texts in columns.corrections for text in texts], pa.string())
            ),
            pa.array([None if error is None else as_utf8(error) for error in columns.errors], pa.string()),
        ],
        schema=schema,
    )


def to_stream(columns: Columns) -> bytes:
    """The results as one record batch in Arrow's streaming format."""
    import pyarrow as pa

    batch = to_record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _offsets(lengths: Any) -> Any:
    """Where each list begins, and the end, as int32."""
    import pyarrow as pa

    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
