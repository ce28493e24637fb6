"""The resumable output file: interruptions between any two steps, damaged parts, locks, foreign files."""

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest

from serve.batch import resume
from serve.batch.pipeline import Block, identities
from serve.batch.resume import OutputError, Parts
from zoo.errors import WrongUsage

OPTIONS = {"model": "m", "top_k": 3}


def make_block(name):
    return Block(f"{name}\n".encode(), 1, Counter(), None, name.encode())


def open_parts(out, resume=False):
    return Parts(out, "jsonl", OPTIONS, resume)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rows.jsonl"


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_incomplete_block_is_not_saved(out):
    first = open_parts(out)
    first.write(make_block("a"))
    first._open.file.write(b"half of it")  # what a Ctrl-C right after the write leaves
    first.close_part()
    first.write(make_block("b"))
    first.finish()
    assert out.read_bytes() == b"a\nb\n"


def test_ctrl_c_during_write_adds_nothing(out, monkeypatch):
    first = open_parts(out)
    first.write(make_block("a"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(resume, "replace", interrupt)
        first.write(make_block("b"))
    first.close_part()
    assert first.saved_rows == 1
    first.finish()
    assert out.read_bytes() == b"a\n"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_ctrl_c_during_close_loses_only_that_part(out, monkeypatch, step):
    first = open_parts(out)
    first.write(make_block("a"))
    first.close_part()
    first.write(make_block("b"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, step, interrupt)
        first.close_part()
    first.close_part()  # as the interrupted command does
    second = open_parts(out, resume=True)
    assert second.saved_rows == 1
    second.write(make_block("b"))
    second.finish()
    assert out.read_bytes() == b"a\nb\n"


def test_complete_file_cannot_be_resumed(out):
    first = open_parts(out)
    first.write(make_block("a"))
    first.finish()
    with pytest.raises(WrongUsage, match="Nothing to resume"):
        open_parts(out, resume=True)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_without_rows_no_file_is_written(out):
    open_parts(out).finish()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("files", [[], ["000001.json", "000001.rows", "part.partial"]])
def test_parts_without_job_file_are_ignored(out, files):
    """As a run leaves it that was killed right after creating the folder, or while deleting it."""
    folder = out.with_name("rows.jsonl.parts")
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    second = open_parts(out, resume=True)
    second.write(make_block("a"))
    second.close_part()
    assert open_parts(out, resume=True).saved_rows == 1
    second.finish()
    assert out.read_bytes() == b"a\n"


def test_job_file_is_deleted_first(out, monkeypatch):
    first = open_parts(out)
    first.write(make_block("a"))
    monkeypatch.setattr(Parts, "_remove_parts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.finish()
    with pytest.raises(WrongUsage, match="Nothing to resume"):
        open_parts(out, resume=True)


@pytest.mark.parametrize("content", ["null", "7", "{"])
def test_damaged_job_file_raises(out, content):
    open_parts(out)
    (out.with_name("rows.jsonl.parts") / "job.json").write_text(content)
    with pytest.raises(WrongUsage, match=r"job.json is damaged .*delete"):
        open_parts(out, resume=True)


def test_second_run_is_locked_out(out):
    first = open_parts(out)
    first.write(make_block("a"))
    script = (
        "from pathlib import Path\nfrom serve.batch.resume import Parts\n"
        f"Parts(Path({str(out)!r}), 'jsonl', {OPTIONS}, True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Another run is writing" in done.stderr
    first.finish()
    assert out.read_bytes() == b"a\n"


def write_parts(out, count=5):
    """Write parts of three rows each; returns the names of the images and the folder."""
    names = [f"{number}.png" for number in range(3 * count)]
    first = open_parts(out)
    for start in range(0, len(names), 3):
        for name in names[start : start + 3]:
            first.write(Block(f"{name}\n".encode(), 1, Counter({"is odd.": 1}), None, identities([name])))
        first.close_part()
    os.close(first._lock)
    return names, out.with_name(f"{out.name}.parts")


def truncate(folder):
    os.truncate(folder / "000002.rows", 7)


def flip(folder):
    content = bytearray((folder / "000002.rows").read_bytes())
    content[3] ^= 1
    (folder / "000002.rows").write_bytes(content)


def swap(folder):
    os.rename(folder / "000002.rows", folder / "x")
    os.rename(folder / "000003.rows", folder / "000002.rows")
    os.rename(folder / "x", folder / "000003.rows")


def change(key, value):
    def changed(folder):
        path = folder / "000002.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return changed


DAMAGE = {
    "truncated": truncate,
    "flipped bit": flip,
    "swapped": swap,
    "longer": lambda folder: (folder / "000002.rows").write_bytes((folder / "000002.rows").read_bytes() + b"x"),
    "without rows": lambda folder: (folder / "000002.rows").unlink(),
    "without metadata": lambda folder: (folder / "000002.json").unlink(),
    "invalid JSON": lambda folder: (folder / "000002.json").write_text("{"),
    "missing fields": lambda folder: (folder / "000002.json").write_text('{"count": 3, "images": "", "failed": {}}'),
    "another count": change("count", 2),
    "other failures": change("failed", {}),
    "another digest": change("digest", "0" * 32),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_part_and_later_parts_are_computed_again(out, damage, capsys):
    names, folder = write_parts(out)
    DAMAGE[damage](folder)
    second = open_parts(out, resume=True)
    assert capsys.readouterr().err.startswith(f"zoo: Part 2 in {folder} is damaged (")
    assert (second.saved_rows, second.failed().total()) == (6, 6)
    assert sorted(path.name for path in folder.glob("0*")) == [
        f"00000{n}.{kind}" for n in (0, 1) for kind in ("json", "rows")
    ]
    remaining = list(second.remaining(iter(names)))
    assert remaining == names[6:]
    for name in remaining:
        second.write(Block(f"{name}\n".encode(), 1, Counter(), None, identities([name])))
    second.finish()
    assert out.read_text().split() == names


def test_swapped_parts_are_detected(out):
    names, folder = write_parts(out)
    for kind in ("json", "rows"):
        os.rename(folder / f"000002.{kind}", folder / "x")
        os.rename(folder / f"000003.{kind}", folder / f"000002.{kind}")
        os.rename(folder / "x", folder / f"000003.{kind}")
    with pytest.raises(WrongUsage, match=r"images have changed .* images 7 to 9"):
        list(open_parts(out, resume=True).remaining(iter(names)))


def test_intact_parts_are_kept(out, capsys):
    names, _ = write_parts(out)
    second = open_parts(out, resume=True)
    assert (second.saved_rows, list(second.remaining(iter(names)))) == (15, [])
    assert capsys.readouterr().err == ""
    second.finish()
    assert out.read_text().split() == names


def test_part_truncated_during_the_run_raises(out):
    _, folder = write_parts(out)
    second = open_parts(out, resume=True)
    truncate(folder)
    with pytest.raises(OutputError, match=r"000002.rows has changed.*--resume"):
        second.finish()
    assert not out.exists()


def test_damaged_arrow_part_raises(tmp_path):
    first = Parts(tmp_path / "rows.parquet", "parquet", OPTIONS, resume=False)
    first.write(Block(b"no arrow", 1, Counter(), None, b""))
    with pytest.raises(OutputError, match=r"000000.rows has changed"):
        first.finish()


@pytest.mark.parametrize("name", ["0001.png", "notes.txt", "000000.png", "000000.rows.bak"])
def test_folder_with_other_files_is_not_touched(out, name):
    """Parts never overwrite files that no run has written."""
    folder = out.with_name("rows.jsonl.parts")
    folder.mkdir()
    (folder / name).write_bytes(b"user file")
    for is_resumed in (False, True):
        with pytest.raises(WrongUsage, match=f"contains {name}.*choose another output file"):
            open_parts(out, is_resumed)
    assert (folder / name).read_bytes() == b"user file"


def test_similar_file_names_are_not_touched(out):
    similar = out.with_name("rows.jsonl.partial")
    similar.write_bytes(b"user file")
    first = open_parts(out)
    first.write(make_block("a"))
    first.finish()
    assert similar.read_bytes() == b"user file"


def test_files_added_during_the_run_are_kept(out):
    first = open_parts(out)
    first.write(make_block("a"))
    other = out.with_name("rows.jsonl.parts") / "mine.png"
    other.write_bytes(b"user file")
    first.finish()
    assert out.read_bytes() == b"a\n"
    assert [path.name for path in other.parent.iterdir()] == ["mine.png"]
