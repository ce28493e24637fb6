"""The snippets of docs/guides/scaling.md run as they stand."""

import re
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

GUIDE = (REPOSITORY / "docs/guides/scaling.md").read_text(encoding="utf-8")


def snippet(name):
    """The Python code below the heading that begins with a name."""
    section = re.search(rf"^#+ {name}.*?(?=^#+ |\Z)", GUIDE, re.MULTILINE | re.DOTALL)[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def paths():
    return sorted(map(str, Path(REPOSITORY / "examples").glob("*.png")))


def test_spark_function_on_record_batches(paths):
    """What Spark passes to `mapInArrow` are iterators of record batches; Spark itself needs a JVM and is not run."""
    import pyarrow as pa

    names = {}
    code, _, rest = snippet("Spark").partition("\nspark")
    exec(code, names)
    assert "mapInArrow(classify, schema=SCHEMA)" in rest
    batches = [pa.record_batch({"path": [path], "content": [Path(path).read_bytes()]}) for path in paths]
    results = list(names["classify"](iter(batches)))
    assert [batch.num_rows for batch in results] == [1] * len(paths)
    assert [batch["label"][0].as_py() for batch in results] == [
        {"eight": "8", "four": "4", "nine": "9", "seven": "7", "three": "3"}[Path(path).stem] for path in paths
    ]
    schema = names["SCHEMA"]
    while "<" in schema:
        schema = re.sub(r"<[^<>]*>", "", schema)
    fields = [field.strip().split(" ")[0] for field in schema.split(",")]
    assert fields == results[0].schema.names


@pytest.mark.parametrize("engine", ["Dask", "Daft"])
def test_other_engines(paths, engine, monkeypatch, tmp_path):
    pytest.importorskip(engine.lower(), reason=f"{engine} is not a dependency of the tests")
    names = {"paths": paths}
    exec(snippet(engine), names)
    assert sorted(names["labels"]) == sorted("84973"), sys.version
