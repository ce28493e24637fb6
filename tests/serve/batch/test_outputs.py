"""Output formats and files of `zoo predict`: which are accepted, what they contain, what is never overwritten."""

import csv
import io
import json
import os
import sys
import zipfile

import click
import orjson
import pyarrow as pa
import pyarrow.json
import pytest

from serve.batch.formats import encode, header
from serve.batch.outputs import Stdout, check_out, encoding_of
from serve.batch.pipeline import Block
from tests.support.command import zoo
from zoo.columns import Columns
from zoo.errors import WrongUsage
from zoo.rows import Guess, Row


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "rows.txt"], "Unknown output format"),
        (["-o", "nowhere/rows.csv"], "folder nowhere does not exist"),
        (["-o", "."], "Unknown output format"),
        (["-o", ".", "--format", "csv"], "is a folder"),
        (["--resume"], "add -o FILE"),
    ],
)
def test_invalid_output_options_exit_with_2(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("predict", "x.png", *arguments)
    assert code == 2
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_encoding_from_option_or_suffix():
    assert encoding_of(None, None) == "table"
    assert encoding_of("x.NDJSON", None) == "jsonl"
    assert encoding_of("x.csv", "parquet") == "parquet"


def test_check_out_refuses_images_pipes_and_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    for path, content in {"l.csv": b"a.png", "scan": b"\x89PNG\r\n\x1a\n", "old.csv": b"input,model"}.items():
        (tmp_path / path).write_bytes(content)
    os.symlink("l.csv", "same.csv")
    for out, words in {
        "pipe.csv": "is a pipe or a device",
        "/dev/null": "is a pipe or a device",
        "new.png": "is an image or has the suffix of one",
        "scan": "is an image or has the suffix of one",
        "l.csv": "is one of the input files",
        "same.csv": "is one of the input files",
    }.items():
        with pytest.raises(WrongUsage, match=words):
            check_out(out, ["no.png", "l.csv"])
    check_out("old.csv", ["no.png", "l.csv"])
    check_out("new.csv", ["new.csv"])


@pytest.mark.parametrize("argument", ["@rows.csv", "rows.csv", "row*.csv"])
def test_rows_never_replace_their_list(run, tmp_path, monkeypatch, argument):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_bytes(b"no.png")
    (tmp_path / "row2.csv").write_bytes(b"no.png")
    code, _, err = run("predict", argument, "-o", "rows.csv")
    assert (code, (tmp_path / "rows.csv").read_bytes()) == (2, b"no.png")
    assert "is one of the input files" in err


def write_inputs(folder):
    """Write a file that only its suffix marks as an image to every place that images are read from."""
    damaged = b"\0\0\2 no targa"
    (folder / "in").mkdir()
    for path in ("in/a.tga", "b.dat", "in/c.tga"):
        (folder / path).write_bytes(damaged)
    (folder / "l.txt").write_text("b.dat\nmissing.png\n")
    (folder / "u.txt").write_bytes("b.dat\n".encode("utf-16"))
    os.link(folder / "in/a.tga", folder / "hard.csv")
    os.symlink("in/c.tga", folder / "soft.csv")
    os.symlink("b.dat", folder / "listed.csv")
    with zipfile.ZipFile(folder / "z.csv", "w") as archive:
        archive.writestr("a.png", b"x")
    return damaged


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["@l.txt"], "b.dat"), (["@l.txt"], "listed.csv"), (["@u.txt"], "b.dat"), (["@l.txt"], "l.txt"),
        (["in"], "hard.csv"), (["in"], "soft.csv"), (["in/*.tga"], "hard.csv"), (["in/**"], "soft.csv"),
        (["in/c.tga"], "soft.csv"), (["z.csv"], "z.csv"), (["z.*"], "z.csv"), (["missing.png", "in"], "soft.csv"),
    ],
)  # fmt: skip
def test_rows_never_replace_an_input(run, tmp_path, monkeypatch, arguments, out):
    monkeypatch.chdir(tmp_path)
    damaged = write_inputs(tmp_path)
    before = (tmp_path / out).read_bytes()
    code, _, err = run("predict", *arguments, "-o", out, "--format", "csv")
    assert (code, (tmp_path / out).read_bytes()) == (2, before)
    assert f"{out} is one of the input files" in err
    assert (tmp_path / "in/a.tga").read_bytes() == (tmp_path / "in/c.tga").read_bytes() == damaged
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("name", ["a.ppm", "rows.csv", "a.avif", "new.heic"])
def test_rows_never_replace_an_image(run, tmp_path, monkeypatch, name):
    """A file with the content of an image is never overwritten, and no file with an image's suffix is created."""
    monkeypatch.chdir(tmp_path)
    if name != "new.heic":
        (tmp_path / name).write_bytes(b"P6\n1 1\n255\nabc")
    (tmp_path / "l.txt").write_text(f"{name}\n")
    for arguments in (["@l.txt"], ["other.png"]):
        code, _, err = run("predict", *arguments, "-o", name, "--format", "csv")
        assert code == 2
        assert f"{name} is an image or has the suffix of one" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "l.txt"} - {"new.heic"})


def test_parquet_without_pyarrow_exits_with_2(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = zoo("predict", "x.png", "-o", tmp_path / "x.parquet", env={"PYTHONPATH": path})
    assert done.returncode == 2
    assert "pip install 'pocketzoo[data]'" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()] == []


def test_csv_on_stdout_keeps_control_characters(capsys):
    rows = [Row("a\033[31m\rb.png", "m", error="no")]
    Stdout("csv", 9).write(Block(encode(Columns.from_rows(rows), "csv"), 1))
    assert capsys.readouterr().out.splitlines(keepends=True)[1:] == ['"a\033[31m\r', 'b.png",m,,,,,[],[],,no\n']


HOSTILE = "a\033[31m\x9b31m\u202e\udce9é\r\nb.png"


@pytest.mark.parametrize("form", ["jsonl", "csv", "table"])
def test_rows_cannot_control_the_terminal(form, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = [
        Row(HOSTILE, HOSTILE, error=f"{HOSTILE} is a link to {HOSTILE}."),
        Row("b", HOSTILE, HOSTILE, 0.5, False, True, (Guess(HOSTILE, 0.5), Guess("other", 0.5)), (), (HOSTILE,)),
    ]
    Stdout(form, 20).write(Block(encode(Columns.from_rows(rows), form), 1))
    output = capsys.readouterr().out
    plain = click.unstyle(output) if form == "table" else output
    assert all(character.isprintable() or character == "\n" for character in plain)
    assert "é" in plain


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_names_that_are_not_utf8_are_escaped(form):
    rows = [Row("caf\udce9→.png", "m", error="caf\udce9→.png is a link to x\udcff.")]
    expected = ("caf\\udce9→.png", "caf\\udce9→.png is a link to x\\udcff.")
    data = encode(Columns.from_rows(rows), form)
    if form == "jsonl":
        for read in (json.loads, orjson.loads):
            row = read(data)
            assert (row["input"], row["error"]) == expected
        (row,) = pa.json.read_json(pa.BufferReader(data)).to_pylist()
    elif form == "csv":
        (row,) = csv.DictReader(io.StringIO((header("csv") + data).decode()))
    else:
        (row,) = pa.ipc.open_stream(data).read_all().to_pylist()
    assert (row["input"], row["error"]) == expected
