"""Tables and plots of benchmarks, and guards of the committed results in docs/benchmarks.

Tests named `test_committed_...` check committed data, not code: they fail until somebody measures again.
"""

import json

import pytest

from bench.measure import P99_MIN_CALLS
from bench.subjects import SHIPPED
from docs.build import benchmarks, plots
from docs.build.benchmarks import GPU_RESULTS, RUN, SavedRun, parse_summary

SAVED = benchmarks.read()
DEFAULTS = [entry.card.name for entry in SHIPPED if entry.card.default]


def saved_run(*rows):
    return SavedRun(list(rows), {}, "", "", [])


@pytest.mark.parametrize("name", DEFAULTS)
def test_committed_run_has_every_default_model(name):
    measured = {row["model"] for row in SAVED.select(scope="array to label, every model")}
    assert name in measured, "run `pytest --benchmark-only --benchmark-json=docs/benchmarks/run.json`"


def test_committed_rows_name_their_conditions():
    rows = [row for row in SAVED.rows if "share_of_peak" in row]
    assert rows
    keys = {"scope", "n", "threads", "provider", "batch", "p50_ms", "p90_ms", "parameters", "macs"}
    for row in rows:
        assert keys <= row.keys()
        assert ("p99_ms" in row) == (row["n"] >= P99_MIN_CALLS)
        assert row["gflops"] == pytest.approx(2 * row["macs"] * row["batch"] / row["p50_ms"] / 1e6, rel=0.01)


def test_committed_run_has_no_host_name_and_no_single_times():
    content = json.loads(RUN.read_text())
    assert "node" not in content["machine_info"]
    assert all("data" not in benchmark["stats"] for benchmark in content["benchmarks"])


def test_committed_loadgen_results_are_valid():
    assert SAVED.loadgen
    for result in SAVED.loadgen:
        assert parse_summary(result["log"])["Result is"] == "VALID", result["model"]
        assert result["min_duration_s"] >= 10
        assert result["min_queries"] >= 1000
        assert result["asked"] == 10_000


def test_committed_gpu_results_name_machine_and_commit():
    files = sorted(GPU_RESULTS.glob("*.json"))
    assert files
    for path in files:
        machine = json.loads(path.read_text())["steps"]["machine"]["result"]
        assert machine["commit"] in path.name
        assert "NVIDIA" in machine["gpu"]
        assert machine["onnxruntime-gpu"]


def test_gpu_figures_stand_under_their_commit():
    text = benchmarks.gpu()
    assert text.count("On NVIDIA H100") == 1
    for path in GPU_RESULTS.glob("*.json"):
        results = {name: step.get("result") for name, step in json.loads(path.read_text())["steps"].items()}
        commit = f"commit {results['machine']['commit']}"
        part = "".join(paragraph for paragraph in text.split("\n\n") if commit in paragraph)
        assert part
        if training := results.get("training"):
            assert f"mean {training['mean']:.2%}" in part
            assert f"n = {training['n']}" in part
        if speed := results.get("training_speed"):
            assert f"{speed['seeds_5']['images_per_s']:,} images/s together" in part


def test_every_step_of_a_gpu_run_is_shown(tmp_path):
    """A made run with every kind of step: results, a step that failed with rows, and one without."""
    steps = {
        "machine": {"gpu": "NVIDIA X1, 600.1, 1 MiB", "cores": 16, "onnxruntime-gpu": "1.40", "torch": "3.0",
                    "python": "3.14", "commit": "abc1234", "date": "2030-01-02"},
        "latency-m.plus": [{"model": "m.plus", "batch": 1, "way": "ours", "p50_ms": 0.12345}],
        "options-m.plus": [{"model": "m.plus", "batch": 1, "way": "our options, NHWC", "p50_ms": 0.5}],
        "serve": [
            {"model": "m", "device": "cuda", "workers": "1", "connections": 256, "per_second": 54321, "p50_ms": 4.444,
             "p99_ms": 8.888, "n": 9000},
            {"model": "m", "device": "cpu", "workers": "auto", "connections": 1, "per_second": 0, "n": 0},
        ],
        "first_run": [{"model": "m.plus", "batch": 512, "open_s": 0.31, "first_run_s": 2.5}],
        "repeatable": {"same_bits": False},
        "parity": [{"model": "m.plus", "accuracy": 0.9, "labels_differ": 3, "logits_off": 0.001},
                   {"model": "m.plus-int8", "refused": "int8"}],
    }  # fmt: skip
    saved = {name: {"result": result, "seconds": 1.0} for name, result in steps.items()}
    compiled = [{"model": "m.plus", "batch": 64, "way": "TensorRT", "p50_ms": 0.777}]
    saved["compiled-m.plus"] = {"error": "timed out after 80 s", "rows": compiled, "seconds": 80.0}
    saved["training"] = {"error": "exit code 1: Traceback\nValueError: no data", "seconds": 3.0}
    (tmp_path / "x1-abc1234.json").write_text(json.dumps({"steps": saved}))
    text = benchmarks.gpu(tmp_path)
    assert text.startswith("On NVIDIA X1 (driver 600.1) with 16 CPU cores, onnxruntime-gpu 1.40, torch 3.0")
    for line in (
        "| ours | 0.123 | – | – | – |",
        "| our options, NHWC | 0.5 | – | – | – |",
        "| TensorRT | – | 0.777 | – | – |",
        "| `m` | cuda, one process | 256 | 54,321 | 4.44 | 8.89 |",
        "| `m` | cpu, one process per core | 1 | 0 | – | – |",
        "| `m.plus` | 512 | 0.31 | 2.5 |",
        "| `m.plus` | 90.00% | 3 | 1e-03 | – | – |",
        "Refused on CUDA: `m.plus-int8`.",
        "trained twice with the same seed, gave different bits",
        "`compiled-m.plus` (timed out after 80 s), `training` (ValueError: no data) (commit abc1234, 2030-01-02)",
    ):
        assert line in text
    assert text.count("`m.plus`, p50 in ms") == 1


def test_missing_gpu_figure_is_a_dash():
    rows = [{"model": "m", "batch": 1, "way": "a", "p50_ms": 0.12345}, {"model": "m", "batch": 64, "way": "a"}]
    assert benchmarks.gpu_latency(rows).splitlines()[2] == "| a | 0.123 | – | – | – |"


def test_faster_runtime_is_listed():
    times = {"onnxruntime": {"p50_ms": 1.3}, "other": {"p50_ms": 1.0}}
    row = {"scope": "session only, in turn", "model": "m", "batch": 1, "times": times, "threads": {"other": 1}}
    assert "`other` is 1.30 times as fast for `m` at batch 1, on 1 thread." in benchmarks.peers(saved_run(row))
    times["other"]["p50_ms"] = 1.2
    assert "No other runtime is more than 20 % faster" in benchmarks.peers(saved_run(row))


def test_share_below_half_of_the_gemm_peak_is_listed():
    row = SAVED.select(scope="array to label, every model")[0]
    assert f"Below half of the GEMM peak: `{row['model']}`." in benchmarks.shares(
        saved_run(row | {"share_of_peak": 0.4})
    )


def test_model_without_pytorch_times_has_dashes():
    times = {"zoo.Model.run": {"n": 9, "p50_ms": 0.1, "p90_ms": 0.2}, "session.run": {"p50_ms": 0.1}}
    row = {"scope": "array to label, in turn", "model": "m.plus-int8", "times": times, "ratios": {"session.run": 1.02}}
    assert benchmarks.promises(saved_run(row)).splitlines()[2] == (
        "| `m.plus-int8` | 9 | 0.1 | 0.2 | – | 1.020 | – | – | – | – |"
    )


def points(panel):
    """All points of a panel's lines."""
    return {(float(x), float(y)) for line in panel.lines for x, y in zip(*line.get_data(), strict=True)}


def test_pareto_plot_has_every_model():
    measured = SAVED.select(scope="array to label, every model")
    figure = plots.pareto(SAVED)
    drawn = [points(panel) for panel in figure.axes]
    for row in measured:
        for key in ("p50_ms", "parameters"):
            assert any((row[key], 100 * row["accuracy"]) in panel for panel in drawn), row["model"]
    names = " ".join(text.get_text() for panel in figure.axes for text in panel.texts)
    assert all(row["model"] in names for row in measured)


def test_pareto_front_has_models_that_no_other_beats():
    rows = [{"x": x, "accuracy": y, "model": str(x)} for x, y in ((1, 0.8), (2, 0.7), (3, 0.9), (3, 0.85), (4, 0.9))]
    assert [(row["x"], row["accuracy"]) for row in plots.pareto_front(rows, "x")] == [(1, 0.8), (3, 0.9)]


def test_percentile_plot_has_every_runtime():
    figure = plots.percentiles(SAVED)
    panels = {panel.get_title(): panel for panel in figure.axes}
    rows = SAVED.select(scope="session only", batch=1)
    assert rows
    for row in rows:
        values = {x for x, _ in points(panels[row["model"]])}
        assert {row["p50_ms"], row["p90_ms"], row["p99_ms"]} <= values


def test_throughput_plot_has_every_rate():
    left, right = (points(panel) for panel in plots.throughput(SAVED).axes)
    for row in SAVED.select(scope="session only, by batch"):
        assert {(float(size), rate) for size, rate in row["images_per_s"].items()} <= left
    for row in SAVED.select(scope="array to label, by cores"):
        for rates in row["images_per_s"].values():
            assert {(float(n), rate) for n, rate in rates.items()} <= right
