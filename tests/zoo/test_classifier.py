"""zoo.Classifier: the rows of Model.predict, from batches of any engine's form."""

import pickle
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import zoo
from tests.support.paths import REPOSITORY
from zoo.columns import Columns
from zoo.errors import BadInput, ModelNotFound

EXAMPLES = sorted(str(path) for path in (REPOSITORY / "examples").iterdir() if path.suffix in (".png", ".jpg"))


@pytest.fixture(scope="module")
def classifier():
    return zoo.Classifier("mnist14k")


@pytest.fixture(scope="module")
def contents():
    return [Path(path).read_bytes() for path in EXAMPLES]


@pytest.fixture(scope="module")
def expected(model):
    rows = [row.to_dict() for row in model.predict(EXAMPLES)]
    return pa.Table.from_pylist(rows, zoo.Classifier(model).schema)


def test_rows_equal_those_of_predict(classifier, contents, expected):
    for batch in (
        {"path": EXAMPLES},
        {"path": np.array(EXAMPLES), "bytes": np.array(contents, object)},
        pa.table({"path": EXAMPLES, "bytes": contents, "label": range(len(EXAMPLES))}),
        pa.record_batch({"path": [path.encode() for path in EXAMPLES]}),
    ):
        table = classifier(batch)
        assert table.schema == classifier.schema
        assert table == expected


def test_pandas_and_names_of_bytes(classifier, contents, expected):
    pandas = pytest.importorskip("pandas")
    assert classifier(pandas.DataFrame({"path": [None, *EXAMPLES[1:]], "bytes": contents}))[1:] == expected[1:]
    table = classifier({"bytes": contents})
    assert table.drop(["input"]) == expected.drop(["input"])
    assert table["input"][0].as_py() == f"<{len(contents[0])} bytes>"


def test_many_rows_keep_their_order(classifier, expected):
    small = min(range(len(EXAMPLES)), key=lambda n: Path(EXAMPLES[n]).stat().st_size)
    paths = [EXAMPLES[small], "none.png", "none"] * 50
    table = classifier({"path": paths})
    assert table["input"].to_pylist() == paths
    assert table.take(list(range(0, 150, 3))) == pa.concat_tables([expected[small : small + 1]] * 50)


def test_errors_are_rows(classifier):
    batch = {
        "path": ["none.png", EXAMPLES[0], "a", None, EXAMPLES[0]],
        "bytes": [None, None, b"no image", None, None],
        "error": [None, "It was lost.", None, None, None],
    }
    rows = classifier(batch).to_pylist()
    assert [row["error"] is None for row in rows] == [False] * 4 + [True]
    assert "does not exist" in rows[0]["error"]
    assert (rows[1]["error"], rows[1]["input"]) == ("It was lost.", EXAMPLES[0])
    assert "neither bytes nor a path" in rows[3]["error"]


def test_empty_batch(classifier):
    assert classifier({"path": []}) == classifier.schema.empty_table()


def test_batch_without_images(classifier):
    with pytest.raises(BadInput, match="columns image, label: one must be called bytes or path"):
        classifier(pa.table({"image": [b""], "label": [1]}))


def test_pickled_by_name_or_with_the_model(model, expected):
    by_name = zoo.Classifier("mnist14k")
    assert by_name({"path": EXAMPLES}) == expected
    small, large = pickle.dumps(by_name), pickle.dumps(zoo.Classifier(model))
    assert len(small) < 1000 < len(large)
    for content in (small, large):
        assert pickle.loads(content)({"path": EXAMPLES}) == expected


def test_machine_without_the_model():
    classifier = zoo.Classifier("mine.recipe")  # it may exist where it is used
    with pytest.raises(ModelNotFound, match=rf"mine\.recipe.*On the machine {socket.gethostname()}"):
        classifier({"path": EXAMPLES})


@pytest.mark.parametrize("options", [{"top_k": 0}, {"fit": "stretch"}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="must be"):
        zoo.Classifier("mnist14k", **options)


def test_top_k(model):
    table = zoo.Classifier(model, top_k=1)({"path": EXAMPLES[:2]})
    assert [len(guesses) for guesses in table["top_k"].to_pylist()] == [1, 1]
    assert Columns.from_rows(model.predict(EXAMPLES[:2], top_k=1)).rows()[0].label == table["label"][0].as_py()
