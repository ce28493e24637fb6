"""The report: pages are what the committed run says, from its JSON file alone; stale blocks are found."""

import json
import re

import pytest

from bench.measure import P99_NEEDS
from docs.build import benchmark_plots as plots
from docs.build import benchmark_tables as tables
from docs.build import benchmarks as report
from docs.build.benchmark_run import RESULTS, RUN, Saved, read

SAVED = read()


@pytest.mark.parametrize("page", list(report.pages()), ids=lambda page: page.name)
def test_figures_are_those_of_the_saved_run(page):
    text = page.read_text()
    assert text == report.renewed(text, SAVED), "run `python -m docs.build`"


def test_readme_and_report_have_figures_and_pictures():
    assert {page.name for page in report.pages()} >= {"README.md", "benchmarks.md"}
    text = "".join(page.read_text() for page in report.pages())
    for name in plots.PICTURES:
        assert (RESULTS / name).exists()
        assert f"benchmarks/{name}" in text
    assert set(re.findall(r"<!-- figures: (\S+) -->", text)) == set(report.BLOCKS)


def test_a_changed_figure_is_found():
    text = (report.REPOSITORY / "README.md").read_text()
    row = SAVED.of(scope="array to label, in turn")[0]
    figure = f"| {tables.short(row['times']['zoo.Model.run'])} |"
    assert figure in text
    stale = text.replace(figure, "| 0.001 |")
    assert stale != report.renewed(stale, SAVED) == text


def test_figures_that_nothing_writes_are_an_error():
    with pytest.raises(ValueError, match="no figures 'nonsense'"):
        report.renewed("<!-- figures: nonsense -->\n<!-- end of figures -->", SAVED)


def test_every_row_says_what_a_sceptic_asks():
    rows = [row for row in SAVED.rows if row["test"] in ("test_runtime", "test_model")]
    assert rows
    for row in rows:
        asked = {
            "scope",
            "n",
            "threads",
            "provider",
            "batch",
            "p50_ms",
            "p90_ms",
            "parameters",
            "macs",
            "share_of_peak",
        }
        assert asked <= row.keys()
        assert ("p99_ms" in row) == (row["n"] >= P99_NEEDS)
        assert row["gflops"] == pytest.approx(2 * row["macs"] * row["batch"] / row["p50_ms"] / 1e6, rel=0.01)


def test_the_saved_run_names_no_machine_and_holds_no_single_times():
    told = json.loads(RUN.read_text())
    assert "node" not in told["machine_info"]
    assert all("data" not in benchmark["stats"] for benchmark in told["benchmarks"])


def test_loadgens_own_logs_say_valid():
    assert SAVED.loadgen
    for found in SAVED.loadgen:
        told = tables.summary_of(found["log"])
        assert told["Result is"] == "VALID", found["model"]
        assert found["min_duration_s"] >= 10
        assert found["min_queries"] >= 1000
        assert found["asked"] == 10_000


def test_a_faster_runtime_is_told_of():
    ours = {"onnxruntime": {"p50_ms": 1.3}, "other": {"p50_ms": 1.0}}
    row = {"scope": "session only, in turn", "model": "m", "batch": 1, "times": ours, "threads": {"other": 1}}
    saved = Saved([row], {}, "", "", [])
    assert "`other` is 1.30 times as fast for `m` at batch 1, on 1 thread(s)." in tables.peers(saved)
    ours["other"]["p50_ms"] = 1.2
    assert "No other runtime is more than 20 % faster" in tables.peers(saved)


def test_below_half_of_the_peak_is_told_of():
    row = SAVED.of(scope="array to label, every model")[0]
    saved = Saved([row | {"share_of_peak": 0.4}], {}, "", "", [])
    assert f"Below half: `{row['model']}`." in tables.shares(saved)


def test_pictures_are_drawn_from_the_run_alone(tmp_path):
    for name, draw in plots.PICTURES.items():
        draw(SAVED, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


def test_the_front_holds_what_no_other_beats():
    rows = [{"x": x, "accuracy": y, "model": str(x)} for x, y in ((1, 0.8), (2, 0.7), (3, 0.9), (3, 0.85), (4, 0.9))]
    assert [(row["x"], row["accuracy"]) for row in plots._front(rows, "x")] == [(1, 0.8), (3, 0.9)]
