"""bench/on_gpu.py continues after failures and interruptions."""

import argparse
import json

import pytest

from bench import on_gpu


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        out=tmp_path, device="cpu", only="", again="", commit="abc", models="*", quick=True, step=None
    )


def saved(options):
    return json.loads((options.out / "on_gpu.json").read_text())["steps"]


@pytest.fixture
def steps(monkeypatch):
    """Fake steps without processes: their results by name (an error if the name starts with `bad`), and what ran."""
    results, ran = {}, []

    def run_step(name, options):
        ran.append(name)
        return {"error": results[name]} if name.startswith("bad") else {"result": results[name]}

    monkeypatch.setattr(on_gpu, "run_step", lambda name, options: run_step(name, options) | {"seconds": 0.1})
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


@pytest.mark.slow
def test_step_failure_and_timeout_are_saved(options, monkeypatch):
    step = on_gpu.run_step("machine", options)
    assert step["result"]["commit"] == "abc"
    monkeypatch.setitem(on_gpu.STEPS, "machine", (on_gpu.machine, 0.01))
    assert on_gpu.run_step("machine", options)["error"].startswith("timed out after 0.01 s")
    monkeypatch.setitem(on_gpu.STEPS, "no such step", (on_gpu.machine, 20))
    assert "KeyError: 'no such step'" in on_gpu.run_step("no such step", options)["error"]
    assert list(options.out.glob("*.step.json")) == []


def test_failed_latency_row_has_the_error(options, monkeypatch):
    def broken():
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(on_gpu, "BATCHES", (1,))
    monkeypatch.setattr(on_gpu, "_ways", lambda *_: {"broken": broken, "fine": lambda: lambda: None})
    broken_row, fine = on_gpu.latency(options, "mnist14k.plus")
    assert broken_row["error"] == "RuntimeError: no kernel image"
    assert fine["p50_ms"] >= 0
