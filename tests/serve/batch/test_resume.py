"""Parts of a file of rows: interrupted between any two steps, locked, left behind."""

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


def block(name):
    return Block(f"{name}\n".encode(), 1, Counter(), None, name.encode())


def begin(out, resume=False):
    return Parts(out, "jsonl", OPTIONS, resume)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rows.jsonl"


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_incomplete_block_is_not_saved(out):
    first = begin(out)
    first.write(block("a"))
    first._open.file.write(b"half of it")  # what Ctrl-C leaves that comes behind the write
    first.close_part()
    first.write(block("b"))
    first.finish()
    assert out.read_bytes() == b"a\nb\n"


def test_ctrl_c_during_write_adds_nothing(out, monkeypatch):
    first = begin(out)
    first.write(block("a"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(resume, "replace", interrupt)
        first.write(block("b"))
    first.close_part()
    assert first.saved_rows == 1
    first.finish()
    assert out.read_bytes() == b"a\n"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_ctrl_c_during_close_loses_only_that_part(out, monkeypatch, step):
    first = begin(out)
    first.write(block("a"))
    first.close_part()
    first.write(block("b"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, step, interrupt)
        first.close_part()
    first.close_part()  # as who is interrupted does
    second = begin(out, resume=True)
    assert second.saved_rows == 1
    second.write(block("b"))
    second.finish()
    assert out.read_bytes() == b"a\nb\n"


def test_complete_file_cannot_be_resumed(out):
    first = begin(out)
    first.write(block("a"))
    first.finish()
    with pytest.raises(WrongUsage, match="Nothing to resume"):
        begin(out, resume=True)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_without_rows_no_file_is_written(out):
    begin(out).finish()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("left", [[], ["000001.json", "000001.rows", "part.partial"]])
def test_parts_without_job_file_are_ignored(out, left):
    """Of a run that was killed when it had made the folder, or while it removed it."""
    folder = out.with_name("rows.jsonl.parts")
    folder.mkdir()
    for name in left:
        (folder / name).write_text("{}")
    second = begin(out, resume=True)
    second.write(block("a"))
    second.close_part()
    assert begin(out, resume=True).saved_rows == 1
    second.finish()
    assert out.read_bytes() == b"a\n"


def test_job_file_is_deleted_first(out, monkeypatch):
    first = begin(out)
    first.write(block("a"))
    monkeypatch.setattr(Parts, "_remove_parts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.finish()
    with pytest.raises(WrongUsage, match="Nothing to resume"):
        begin(out, resume=True)


@pytest.mark.parametrize("content", ["null", "7", "{"])
def test_damaged_job_file_raises(out, content):
    begin(out)
    (out.with_name("rows.jsonl.parts") / "job.json").write_text(content)
    with pytest.raises(WrongUsage, match=r"job.json is damaged .*delete"):
        begin(out, resume=True)


def test_second_run_is_locked_out(out):
    first = begin(out)
    first.write(block("a"))
    script = (
        "from pathlib import Path\nfrom serve.batch.resume import Parts\n"
        f"Parts(Path({str(out)!r}), 'jsonl', {OPTIONS}, True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Another run is writing" in done.stderr
    first.finish()
    assert out.read_bytes() == b"a\n"


def many_parts(out, count=5):
    """Of three rows each; the names are what they answer."""
    names = [f"{number}.png" for number in range(3 * count)]
    first = begin(out)
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
    "a bit": flip,
    "swapped": swap,
    "longer": lambda folder: (folder / "000002.rows").write_bytes((folder / "000002.rows").read_bytes() + b"x"),
    "without rows": lambda folder: (folder / "000002.rows").unlink(),
    "without its second file": lambda folder: (folder / "000002.json").unlink(),
    "no JSON": lambda folder: (folder / "000002.json").write_text("{"),
    "as once": lambda folder: (folder / "000002.json").write_text('{"count": 3, "images": "", "failed": {}}'),
    "another count": change("count", 2),
    "other failures": change("failed", {}),
    "another digest": change("digest", "0" * 32),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_part_and_later_parts_are_computed_again(out, damage, capsys):
    names, folder = many_parts(out)
    DAMAGE[damage](folder)
    second = begin(out, resume=True)
    assert capsys.readouterr().err.startswith(f"zoo: Part 2 in {folder} is damaged (")
    assert (second.saved_rows, second.failed().total()) == (6, 6)
    assert sorted(path.name for path in folder.glob("0*")) == [
        f"00000{n}.{kind}" for n in (0, 1) for kind in ("json", "rows")
    ]
    left = list(second.remaining(iter(names)))
    assert left == names[6:]
    for name in left:
        second.write(Block(f"{name}\n".encode(), 1, Counter(), None, identities([name])))
    second.finish()
    assert out.read_text().split() == names


def test_swapped_parts_are_detected(out):
    names, folder = many_parts(out)
    for kind in ("json", "rows"):
        os.rename(folder / f"000002.{kind}", folder / "x")
        os.rename(folder / f"000003.{kind}", folder / f"000002.{kind}")
        os.rename(folder / "x", folder / f"000003.{kind}")
    with pytest.raises(WrongUsage, match=r"images have changed .* images 7 to 9"):
        list(begin(out, resume=True).remaining(iter(names)))


def test_intact_parts_are_kept(out, capsys):
    names, _ = many_parts(out)
    second = begin(out, resume=True)
    assert (second.saved_rows, list(second.remaining(iter(names)))) == (15, [])
    assert capsys.readouterr().err == ""
    second.finish()
    assert out.read_text().split() == names


def test_part_truncated_during_the_run_raises(out):
    _, folder = many_parts(out)
    second = begin(out, resume=True)
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
    """Parts may not take the place of what no run wrote there."""
    folder = out.with_name("rows.jsonl.parts")
    folder.mkdir()
    (folder / name).write_bytes(b"a user's")
    for is_resumed in (False, True):
        with pytest.raises(WrongUsage, match=f"contains {name}.*choose another FILE"):
            begin(out, is_resumed)
    assert (folder / name).read_bytes() == b"a user's"


def test_similar_file_names_are_not_touched(out):
    beside = out.with_name("rows.jsonl.partial")
    beside.write_bytes(b"a user's")
    first = begin(out)
    first.write(block("a"))
    first.finish()
    assert beside.read_bytes() == b"a user's"


def test_files_added_during_the_run_are_kept(out):
    first = begin(out)
    first.write(block("a"))
    other = out.with_name("rows.jsonl.parts") / "mine.png"
    other.write_bytes(b"a user's")
    first.finish()
    assert out.read_bytes() == b"a\n"
    assert [path.name for path in other.parent.iterdir()] == ["mine.png"]
