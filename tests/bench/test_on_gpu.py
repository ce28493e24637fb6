"""bench/on_gpu.py goes on after failures and interruptions; the GPU section says what its files say."""

import argparse
import json

import pytest

from bench import on_gpu
from docs.build import gpu_tables


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        out=tmp_path, device="cpu", only="", again="", commit="abc", models="*", quick=True, step=None
    )


def saved(options):
    return json.loads((options.out / "on_gpu.json").read_text())["steps"]


@pytest.fixture
def steps(monkeypatch):
    """Steps that are not processes: name → what it gives, an exception to fail with."""
    given, ran = {}, []

    def run_step(name, options):
        ran.append(name)
        return {"error": given[name]} if name.startswith("bad") else {"result": given[name]}

    monkeypatch.setattr(on_gpu, "run_step", lambda name, options: run_step(name, options) | {"seconds": 0.1})
    return given, ran


def test_failed_step_is_kept_and_stops_nothing(options, steps):
    given, ran = steps
    given |= {"one": 1, "bad": "exit code 1: boom", "two": 2}
    options.only = "one,bad,two"
    on_gpu.run_steps(options)
    assert saved(options)["bad"]["error"] == "exit code 1: boom"
    assert saved(options)["two"]["result"] == 2
    on_gpu.run_steps(options)  # only what has no result is run again
    assert ran == ["one", "bad", "two", "bad"]
    options.again = "two"
    on_gpu.run_steps(options)
    assert ran[4:] == ["bad", "two"]


def test_step_is_a_process_whose_failure_and_time_are_kept(options, monkeypatch):
    step = on_gpu.run_step("machine", options)
    assert step["result"]["commit"] == "abc"
    monkeypatch.setitem(on_gpu.STEPS, "machine", (on_gpu.machine, 0.01))
    assert on_gpu.run_step("machine", options)["error"].startswith("not done in 0.01 s")
    monkeypatch.setitem(on_gpu.STEPS, "no such step", (on_gpu.machine, 20))
    assert "KeyError: 'no such step'" in on_gpu.run_step("no such step", options)["error"]
    assert list(options.out.glob("*.step.json")) == []


def test_way_that_fails_is_a_row_with_its_error(options, monkeypatch):
    def broken():
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(on_gpu, "BATCHES", (1,))
    monkeypatch.setattr(on_gpu, "_ways", lambda *_: {"broken": broken, "fine": lambda: lambda: None})
    broken_row, fine = on_gpu.latency(options, "mnist14k.plus")
    assert broken_row["error"] == "RuntimeError: no kernel image"
    assert fine["p50_ms"] >= 0


def test_every_saved_gpu_run_names_machine_and_commit():
    files = sorted(gpu_tables.FOLDER.glob("*.json"))
    assert files
    for path in files:
        machine = json.loads(path.read_text())["steps"]["machine"]["result"]
        assert machine["commit"] in path.name
        assert "NVIDIA" in machine["gpu"]
        assert machine["onnxruntime-gpu"]


def test_gpu_section_has_each_file_s_figures_under_its_commit():
    text = gpu_tables.report()
    assert text.count("On NVIDIA H100") == 1
    for path in gpu_tables.FOLDER.glob("*.json"):
        found = {name: step.get("result") for name, step in json.loads(path.read_text())["steps"].items()}
        commit = f"commit {found['machine']['commit']}"
        part = "".join(paragraph for paragraph in text.split("\n\n") if commit in paragraph)
        assert part
        if training := found.get("training"):
            assert f"mean {training['mean']:.2%}" in part
            assert f"n = {training['n']}" in part
        if speed := found.get("training_speed"):
            assert f"{speed['seeds_5']['images_per_s']:,} images/s together" in part


def test_missing_figure_is_a_dash():
    rows = [{"model": "m", "batch": 1, "way": "a", "p50_ms": 0.12345}, {"model": "m", "batch": 64, "way": "a"}]
    assert gpu_tables.latency(rows).splitlines()[2] == "| a | 0.123 | – | – | – |"
