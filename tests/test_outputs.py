"""Which outputs a command line may ask for, and what stdout gets."""

import os
import subprocess
import sys

import pytest

from serve.blocks import Block
from serve.encodings import encode
from serve.outputs import Stdout, check_out, encoding_of
from zoo.errors import WrongUsage
from zoo.rows import Row


def zoo_predict(*arguments, **options):
    command = [sys.executable, "-c", "from serve.cli import main; main()", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "rows.txt"], "does not say its form"),
        (["-o", "nowhere/rows.csv"], "there is no folder nowhere"),
        (["-o", "."], "does not say its form"),
        (["-o", ".", "--format", "csv"], "is a folder: name a file"),
        (["--resume"], "--resume goes on with a file"),
    ],
)
def test_outputs_that_cannot_be(tmp_path, arguments, words):
    done = zoo_predict("x.png", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_forms():
    assert encoding_of(None, None) == "table"
    assert encoding_of("x.NDJSON", None) == "jsonl"
    assert encoding_of("x.csv", "parquet") == "parquet"


def test_what_no_rows_may_replace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    for path, content in {"l.csv": b"a.png", "scan": b"\x89PNG\r\n\x1a\n", "old.csv": b"input,model"}.items():
        (tmp_path / path).write_bytes(content)
    os.symlink("l.csv", "same.csv")
    for out, words in {
        "pipe.csv": "is a pipe or a device",
        "/dev/null": "is a pipe or a device",
        "new.png": "is an image or named like one",
        "scan": "is an image or named like one",
        "l.csv": "is what the images are read from",
        "same.csv": "is what the images are read from",
    }.items():
        with pytest.raises(WrongUsage, match=words):
            check_out(out, ["no.png", "l.csv"])
    check_out("old.csv", ["no.png", "l.csv"])
    check_out("new.csv", ["new.csv"])


@pytest.mark.parametrize("argument", ["@rows.csv", "rows.csv", "row*.csv"])
def test_rows_do_not_replace_what_they_are_made_from(tmp_path, argument):
    (tmp_path / "rows.csv").write_bytes(b"no.png")
    (tmp_path / "row2.csv").write_bytes(b"no.png")
    done = zoo_predict(argument, "-o", "rows.csv", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "rows.csv").read_bytes()) == (2, b"no.png")
    assert "is what the images are read from" in done.stderr


def test_parquet_without_pyarrow_is_a_sentence_before_anything_is_begun(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = zoo_predict("x.png", "-o", tmp_path / "x.parquet", env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 2
    assert done.stderr == "zoo: Writing parquet needs pyarrow: pip install 'pocketzoo[data]'.\n"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()] == []


def test_csv_on_stdout_is_csv_in_a_file(capsys):
    rows = [Row("a\033[31m\rb.png", "m", error="no")]
    Stdout("csv", 9).write(Block(encode(rows, "csv"), 1))
    assert capsys.readouterr().out.splitlines(keepends=True)[1:] == ['"a\033[31m\r', 'b.png",m,,,,[],,no\n']
