"""`--engine ray`: the rows of the local engine, one file per block, nothing lost and nothing twice."""

import json
import os
import shutil
import tarfile
import threading
import time

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from serve.batch import ray_engine
from serve.batch.inputs import Options, expand
from serve.batch.pipeline import BatchJob
from serve.batch.ray_engine import BlockWriter, EngineJob, blocks_of, file_of
from serve.batch.resume import _lock_file
from tests.support.paths import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.png"))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        shutil.copy(EXAMPLES[number % len(EXAMPLES)], folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def table_of(folder):
    """All rows of an output folder, sorted by input."""
    files = sorted(name for name in os.listdir(folder) if name.endswith(".parquet"))
    return pa.concat_tables([pa.parquet.read_table(f"{folder}/{name}") for name in files]).sort_by("input")


def local_rows(run, *arguments, out):
    assert run("predict", *arguments, "-o", out)[0] in (0, 1)
    return pa.parquet.read_table(out).sort_by("input")


def test_rows_equal_those_of_the_local_engine(in_process, run, pictures, tmp_path):
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        for path in EXAMPLES:
            archive.add(path, path.name)
    arguments = [str(pictures), str(tmp_path / "more.tar"), f"{tmp_path}/m*.tar", str(EXAMPLES[0])]
    code, _, err = run("predict", *arguments, "--engine", "ray", "-o", tmp_path / "out", "--top-k", "2")
    assert code == 1, err
    expected = local_rows(run, *arguments, "--top-k", "2", out=tmp_path / "rows.parquet")
    assert table_of(tmp_path / "out") == expected
    assert json.loads((tmp_path / "out/_SUCCESS").read_text())["rows"] == len(expected)
    assert not os.listdir(tmp_path / "out/_attempts")


def test_names_in_a_pattern_are_not_read_as_arguments(in_process, run, pictures, tmp_path, monkeypatch):
    """`@NAME` is a list and `-` is stdin as an argument, but a file where a pattern matches it."""
    monkeypatch.chdir(tmp_path)
    for name in ("@list", "s[1].tar", "-"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(EXAMPLES[0], "0.png")
    (tmp_path / "list").write_text(str(EXAMPLES[1]))
    expected = local_rows(run, "[@s-]*", out=tmp_path / "rows.parquet")
    assert run("predict", "[@s-]*", "--engine", "ray", "-o", tmp_path / "out")[0] == 0
    assert table_of(tmp_path / "out") == expected
    assert len(expected) == 3


@pytest.mark.parametrize(
    ("text", "cause"),
    [("Traceback:\n  File x\nOSError: disk full\n\nThe above exception was the direct cause of the following "
      "exception:\n\nUDF failed.\nTo change retry attempts, configure it.", "OSError: disk full"),
     ("The actor died.\n", "The actor died."), ("", "RuntimeError")],
)  # fmt: skip
def test_error_of_a_block_names_its_cause(text, cause):
    assert ray_engine._cause(RuntimeError(text)).rstrip(".") == cause.rstrip(".")


@pytest.mark.attack
def test_resume_counts_files_of_its_blocks_only(in_process, run, pictures, tmp_path):
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--engine", "ray", "-o", str(out)]
    assert run(*command)[0] == 1
    (out / "_SUCCESS").unlink()
    for name in ("x.parquet", file_of(3)):  # there are three blocks
        shutil.copy(out / file_of(0), out / name)
    assert run(*command, "--resume")[0] == 1
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == 11


def test_blocks_depend_on_the_arguments_alone(pictures, monkeypatch):
    monkeypatch.setattr(ray_engine, "BLOCK_IMAGES", 4)
    blocks = list(blocks_of([expand(str(pictures))]))
    assert [len(block) for block in blocks] == [4, 4, 3]
    assert blocks == list(blocks_of([expand(str(pictures))]))


def test_resume_computes_missing_blocks_only(in_process, run, pictures, tmp_path):
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--engine", "ray", "-o", str(out)]
    assert run(*command)[0] == 1
    rows = table_of(out)
    code, _, err = run(*command, "--resume")
    assert (code, "is complete" in err) == (2, True), err
    (out / "_SUCCESS").unlink()
    (out / file_of(1)).unlink()
    before = (out / file_of(0)).stat().st_mtime_ns
    code, _, err = run(*command)
    assert (code, "add --resume" in err) == (2, True), err
    code, _, err = run(*command, "--resume", "--top-k", "1")
    assert (code, "top_k 3, now 1" in err) == (2, True), err
    code, _, err = run(*command, "--resume")
    assert (code, "4 images" in err) == (1, True), err  # the broken image is in a block of the first run
    assert table_of(out) == rows
    assert (out / file_of(0)).stat().st_mtime_ns == before
    (out / "_SUCCESS").unlink()
    (pictures / "0.png").write_bytes(b"changed")
    code, _, err = run(*command, "--resume")
    assert (code, "other options or images" in err) == (2, True), err


def test_failures_stop_a_run_that_allows_none(in_process, run, pictures, tmp_path):
    command = ["predict", str(pictures), "--engine", "ray", "-o", str(tmp_path / "out")]
    code, _, err = run(*command, "--on-error", "fail")
    assert (code, "Continue with --resume" in err) == (1, True), err
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_block_that_crashed_its_process_is_isolated(model, pictures, tmp_path):
    """The third attempt classifies in a further process, with the same rows."""
    job = EngineJob(BatchJob(model, encoding="parquet"), Options(), str(tmp_path), os.getcwd(), None)
    writer = BlockWriter(job)
    (block,) = blocks_of([expand(str(pictures))])
    tables = []
    for attempts in (0, 2):
        (tmp_path / "_attempts").mkdir(exist_ok=True)
        (tmp_path / "_attempts/000000").write_bytes(b"." * attempts)
        result = writer({"block": [0], "images": [json.dumps(block)]})
        assert (result["rows"], len(json.loads(result["failed"][0]))) == ([11], 1)
        tables.append(pa.parquet.read_table(tmp_path / file_of(0)))
    assert tables[0] == tables[1]


def test_two_runs_with_one_output(in_process, run, pictures, tmp_path):
    import subprocess
    import sys

    out = tmp_path / "out"
    out.mkdir()
    script = "import sys, time; from serve.batch.resume import _lock_file; from pathlib import Path; "
    script += "_lock_file(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(out / "_lock")], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        code, _, err = run("predict", str(pictures), "--engine", "ray", "-o", out)
        other.kill()
    assert (code, "Another run is writing" in err) == (2, True), err
    assert _lock_file  # the name that the script imports


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "add -o DIR"), (["-o", "rows.csv"], "use -o DIR"), (["-o", "rows", "--format", "csv"], "use -o DIR"),
     (["-o", "rows", "--device", "cuda"], "leave out --device")],
)  # fmt: skip
def test_wrong_options(run, arguments, message):
    code, _, err = run("predict", str(EXAMPLES[0]), "--engine", "ray", *arguments)
    assert (code, message in err) == (2, True), err


def test_foreign_folder_is_not_written(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    code, _, err = run("predict", str(EXAMPLES[0]), "--engine", "ray", "-o", tmp_path)
    assert (code, "contains thesis.txt" in err) == (2, True), err


def test_unreachable_cluster(run, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("predict", str(EXAMPLES[0]), "--engine", "ray", "-o", tmp_path / "out")
    assert (code, "pip install 'pocketzoo[cluster]'" in err) == (3, True), err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_node_that_is_killed_loses_and_doubles_nothing(run, tmp_path, monkeypatch):
    """Two machines; one is killed in the middle of the run."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    folder = tmp_path / "pictures"
    folder.mkdir()
    large = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (2400, 2400, 3), np.uint8))[1].tobytes()
    for number in range(12):  # blocks of nine small images and a large one, which takes a while and gives an error
        for copy in range(9):
            shutil.copy(EXAMPLES[copy % len(EXAMPLES)], folder / f"{number:02}-{copy}.png")
        (folder / f"{number:02}-large.jpg").write_bytes(large)
    monkeypatch.setattr(ray_engine, "BLOCK_IMAGES", 10)
    options = {"num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args=options | {"include_dashboard": False})
    second = cluster.add_node(**options)
    out, killed_with = tmp_path / "out", []
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2

        def kill_second():
            while len(done := [name for name in os.listdir(out) if name.endswith(".parquet")]) < 3:
                time.sleep(0.02)
            cluster.remove_node(second, allow_graceful=False)
            killed_with.append(len(done))

        out.mkdir()
        killer = threading.Thread(target=kill_second, daemon=True)
        killer.start()
        code, _, err = run("predict", folder, "--engine", "ray", "-o", out)
        killer.join(30)
        assert code == 1, err  # the large images
        assert len([node for node in ray.nodes() if not node["Alive"]]) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert 3 <= killed_with[0] < 12
    names = sorted(name for name in os.listdir(out) if not name.startswith(("_", ".")))
    assert names == [file_of(number) for number in range(12)]
    rows = table_of(out)
    assert len(rows) == len(set(rows["input"].to_pylist())) == 120
    assert rows == local_rows(run, folder, out=tmp_path / "rows.parquet")
