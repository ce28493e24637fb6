"""Comparison of a run's ratios with a baseline, and the marker `full`."""

import json
import os
import subprocess
import sys

import pytest

from bench.compare import changes, report
from tests.support.examples import REPOSITORY

STATISTICS = ("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "ld15iqr", "hd15iqr", "ops", "total",
              "rounds", "iterations", "iqr_outliers", "stddev_outliers", "outliers")  # fmt: skip


def baseline(**ratios):
    return {
        "benchmarks": [{"fullname": name, "extra_info": {"ratios": {"r": value}}} for name, value in ratios.items()]
    }


def test_ratios_are_compared_with_the_baseline():
    infos = {"a": {"ratios": {"r": 1.3}}, "b": {"ratios": {"r": 0.5}}, "new": {"ratios": {"r": 9}}, "seconds": {}}
    changed = changes(baseline(a=1.0, b=1.0, gone=1.0), infos)
    assert [(change.benchmark, change.factor) for change in changed] == [("a", 1.3), ("b", 0.5)]


def test_ratio_over_the_limit_fails_the_comparison():
    changed = changes(baseline(a=1.0, b=1.0), {"a": {"ratios": {"r": 1.3}}, "b": {"ratios": {"r": 0.5}}})
    lines, passed = report(changed, 1.25)
    assert not passed
    assert lines == [
        "2 ratios compared, 1 of them more than 1.25 times the baseline's.",
        "a: r is 1.30 times the baseline's (1.3, was 1)",
    ]
    assert report(changed, 1.35) == (["2 ratios compared, 0 of them more than 1.35 times the baseline's."], True)


def test_comparison_without_common_ratios_fails():
    assert not report([], 1.25)[1]


def run_pytest(*arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.slow
def test_pytest_fails_if_a_ratio_has_grown(tmp_path):
    """The quickest benchmark with a ratio, against a baseline that no machine reaches."""
    name = "bench/test_decode.py::test_decode_beside_pillow[photographs]"
    benchmark = {"extra_info": {"ratios": {"time over Pillow's": 0.001}}, "stats": dict.fromkeys(STATISTICS, 1.0)}
    saved = {"machine_info": {}, "benchmarks": [{"fullname": name, "name": name, "group": None} | benchmark]}
    (tmp_path / "baseline.json").write_text(json.dumps(saved))
    done = run_pytest(
        name, "--benchmark-only", "--benchmark-quiet", f"--benchmark-compare={tmp_path / 'baseline.json'}"
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 ratios compared, 1 of them more than 1.25 times the baseline's." in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("markers", "outcome"), [((), "skipped"), (("-m", "full"), "passed")])
def test_full_benchmarks_are_skipped_by_default(markers, outcome):
    name = "bench/test_digit_pictures.py::test_style[canvas]"
    done = run_pytest(name, "--benchmark-disable", *markers)
    assert f"1 {outcome}" in done.stdout, done.stdout + done.stderr
