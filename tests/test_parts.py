"""Parts of a file of rows: interrupted between any two steps, locked, left behind."""

import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest

from serve import parts
from serve.blocks import Block
from serve.parts import Parts
from zoo.errors import WrongUsage

ASKED = {"model": "m", "top_k": 3}


def block(name):
    return Block(f"{name}\n".encode(), 1, Counter(), None, name.encode())


def begin(out, resume=False):
    return Parts(out, "jsonl", ASKED, resume)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rows.jsonl"


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_block_that_ctrl_c_cuts_short_is_not_in_the_part(out):
    first = begin(out)
    first.write(block("a"))
    first._open.file.write(b"half of it")  # what Ctrl-C leaves that comes behind the write
    first.close_part()
    first.write(block("b"))
    first.finish()
    assert out.read_bytes() == b"a\nb\n"


def test_ctrl_c_within_a_write_adds_nothing(out, monkeypatch):
    first = begin(out)
    first.write(block("a"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(parts, "replace", interrupt)
        first.write(block("b"))
    first.close_part()
    assert first.kept == 1
    first.finish()
    assert out.read_bytes() == b"a\n"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_ctrl_c_while_a_part_is_closed_costs_that_part_only(out, monkeypatch, step):
    first = begin(out)
    first.write(block("a"))
    first.close_part()
    first.write(block("b"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, step, interrupt)
        first.close_part()
    first.close_part()  # as who is interrupted does
    second = begin(out, resume=True)
    assert second.kept == 1
    second.write(block("b"))
    second.finish()
    assert out.read_bytes() == b"a\nb\n"


def test_a_finished_file_is_not_resumed(out):
    first = begin(out)
    first.write(block("a"))
    first.finish()
    with pytest.raises(WrongUsage, match="is finished, so nothing is left to resume"):
        begin(out, resume=True)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_without_rows_there_is_no_file(out):
    begin(out).finish()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("left", [[], ["000001.json", "000001.rows", "part.partial"]])
def test_a_folder_without_a_job_is_none(out, left):
    """Of a run that was killed when it had made the folder, or while it removed it."""
    folder = out.with_name("rows.jsonl.parts")
    folder.mkdir()
    for name in left:
        (folder / name).write_text("{}")
    second = begin(out, resume=True)
    second.write(block("a"))
    second.close_part()
    assert begin(out, resume=True).kept == 1
    second.finish()
    assert out.read_bytes() == b"a\n"


def test_the_job_is_the_first_to_go(out, monkeypatch):
    first = begin(out)
    first.write(block("a"))
    monkeypatch.setattr(Parts, "_remove_parts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.finish()
    with pytest.raises(WrongUsage, match="is finished"):
        begin(out, resume=True)


@pytest.mark.parametrize("content", ["null", "7", "{"])
def test_a_damaged_job_is_a_sentence(out, content):
    begin(out)
    (out.with_name("rows.jsonl.parts") / "job.json").write_text(content)
    with pytest.raises(WrongUsage, match=r"is damaged .*remove it to begin again"):
        begin(out, resume=True)


def test_a_second_run_leaves_the_first_alone(out):
    first = begin(out)
    first.write(block("a"))
    script = (
        f"from pathlib import Path\nfrom serve.parts import Parts\nParts(Path({str(out)!r}), 'jsonl', {ASKED}, True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Another run writes in" in done.stderr
    first.finish()
    assert out.read_bytes() == b"a\n"
