"""bench/on_gpu.py continues after failures and interruptions."""

import argparse
import json
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from bench import load, on_gpu


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        out=tmp_path, device="cpu", only="", again="", commit="abc", models="*", quick=True, step=None, minutes=7.0
    )


def saved(options):
    return json.loads((options.out / "on_gpu.json").read_text())["steps"]


@pytest.fixture
def steps(monkeypatch):
    """Fake steps without processes: their results by name (an error if the name starts with `bad`), and what ran."""
    results, ran = {}, []

    def run_step(name, options, limit_s):
        ran.append(name)
        outcome = {"error": results[name]} if name.startswith("bad") else {"result": results[name]}
        return outcome | {"seconds": 0.1 if limit_s > 100 or name == "training" else limit_s}

    monkeypatch.setattr(on_gpu, "run_step", run_step)
    for name in ("one", "bad", "two"):
        monkeypatch.setitem(on_gpu.STEPS, name, (None, 200))
    return results, ran


def test_failed_step_does_not_stop_the_others(options, steps):
    results, ran = steps
    results |= {"one": 1, "bad": "exit code 1: boom", "two": 2}
    options.only = "one,bad,two"
    on_gpu.run_steps(options)
    assert saved(options)["bad"]["error"] == "exit code 1: boom"
    assert saved(options)["two"]["result"] == 2
    on_gpu.run_steps(options)  # runs the steps without a result again
    assert ran == ["one", "bad", "two", "bad"]
    options.again = "two"
    on_gpu.run_steps(options)
    assert ran[4:] == ["bad", "two"]


def test_steps_stay_within_the_budget_and_the_next_call_does_the_rest(options, steps, monkeypatch):
    results, ran = steps
    for name in ("a", "b", "c"):
        monkeypatch.setitem(on_gpu.STEPS, name, (None, 25))
    results |= dict.fromkeys(("a", "b", "c", "training"), 1)
    options.only, options.minutes = "a,b,training,c", 51 / 60
    on_gpu.run_steps(options)
    assert ran == ["a", "b", "training"]  # the training has a limit of its own
    assert "c" not in saved(options)
    on_gpu.run_steps(options)
    assert ran[3:] == ["c"]


def test_all_steps_have_limits_and_the_default_budget_is_seven_minutes():
    assert all(0 < limit_s <= 160 for name, (_, limit_s) in on_gpu.STEPS.items() if name != "training")
    assert on_gpu.MINUTES == 7
    assert on_gpu.STEPS["training"][1] <= 8 * 60


@pytest.mark.slow
def test_step_failure_and_timeout_are_saved(options, monkeypatch):
    step = on_gpu.run_step("machine", options, 60)
    assert step["result"]["commit"] == "abc"
    assert on_gpu.run_step("machine", options, 0.01)["error"].startswith("timed out after 0.01 s")
    monkeypatch.setitem(on_gpu.STEPS, "no such step", (on_gpu.machine, 20))
    assert "KeyError: 'no such step'" in on_gpu.run_step("no such step", options, 60)["error"]
    assert list(options.out.glob("*.step.json")) == []


def test_step_that_ends_early_keeps_its_rows(options, monkeypatch):
    """The process of a step is killed with everything that it has started; the rows until then are saved."""
    options.step = "latency-x"

    class Process:
        returncode, pid = 0, 1

        def __init__(self, *args, **settings):
            assert settings["start_new_session"]
            on_gpu.Rows(options).append({"model": "m", "p50_ms": 1.0})

        def communicate(self, timeout):
            raise subprocess.TimeoutExpired("x", timeout)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    killed = []
    monkeypatch.setattr(on_gpu.subprocess, "Popen", Process)
    monkeypatch.setattr(on_gpu.os, "killpg", lambda *args: killed.append(args))
    step = on_gpu.run_step("latency-x", options, 3)
    assert step["error"] == "timed out after 3 s"
    assert step["rows"] == [{"model": "m", "p50_ms": 1.0}]
    assert killed == [(1, signal.SIGKILL)]
    assert list(options.out.iterdir()) == []


def test_published_texts_have_no_folders():
    step = {
        "error": 'File "/home/ann/zoo/bench/x.py", line 3: 5/7 of http://127.0.0.1/a/b',
        "rows": [{"way": "/opt/v"}],
    }
    expected = {"error": 'File "x.py", line 3: 5/7 of http://127.0.0.1/a/b', "rows": [{"way": "v"}]}
    numbers = {"seconds": 1.5, "result": None}
    assert on_gpu.without_folders(step | numbers) == expected | numbers


@pytest.mark.parametrize(("label", "is_right"), [("7", True), ("8", False)])
def test_clients_check_every_response(label, is_right):
    served = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            served.append(self.rfile.read(int(self.headers["Content-Length"])))
            body = b'{"label":"7"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/models/m/predict"
        arguments = url, [b"a", b"bb"], label, time.monotonic(), 0.3, 4
        if is_right:
            latencies = load.closed_loop_of_one(*arguments)
            assert 4 <= len(latencies) <= len(served)
            assert (latencies > 0).all()
            assert np.any(latencies % 1e-3 > 1e-6)  # finer than uvloop's clock of whole milliseconds
            assert set(served) == {b"a", b"bb"}
        else:
            with pytest.raises(RuntimeError, match="wrong response"):
                load.closed_loop_of_one(*arguments)
        server.shutdown()


def test_failed_latency_row_has_the_error(options, monkeypatch):
    options.step = "latency-x"

    def broken():
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(on_gpu, "BATCHES", (1,))
    monkeypatch.setattr(on_gpu, "_ways", lambda *_: {"broken": broken, "fine": lambda: lambda: None})
    broken_row, fine = on_gpu.latency(options, "mnist14k.plus")
    assert broken_row["error"] == "RuntimeError: no kernel image"
    assert fine["p50_ms"] >= 0
