"""What pytest's options choose, and how two runs are compared."""

import json
import subprocess
import sys

import pytest

from bench.choice import ALL_BATCHES, BATCHES, MODELS, choose
from bench.compare import changes, verdict
from tests.support.examples import REPOSITORY

KNOWN = ["mnist14k.notes", "mnist16k.notes", "resnet8.mlperf"]
STATISTICS = ("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "ld15iqr", "hd15iqr", "ops", "total",
              "rounds", "iterations", "iqr_outliers", "stddev_outliers", "outliers")  # fmt: skip
RUNS = {"onnxruntime": True, "torch": True, "torch-folded": False}


def test_without_options():
    chosen = choose(None, None, None, False, KNOWN, RUNS)
    assert (chosen.models, chosen.runtimes, chosen.batches) == (MODELS, ("onnxruntime", "torch"), BATCHES)
    assert len(chosen.cases()) == 3 * 2 * 2


def test_everything():
    chosen = choose(None, None, None, True, KNOWN, RUNS)
    assert (chosen.models, chosen.runtimes, chosen.batches) == (tuple(KNOWN), tuple(RUNS), ALL_BATCHES)


def test_patterns_and_names_that_are_not_in_the_zoo():
    chosen = choose("mnist*, cifar93k", "torch*", "8", False, KNOWN, RUNS)
    assert chosen.models == ("mnist14k.notes", "mnist16k.notes", "cifar93k")
    assert chosen.runtimes == ("torch", "torch-folded")
    assert chosen.batches == (8,)


@pytest.mark.parametrize(
    ("options", "said"), [((None, "jax", None), "no runtime 'jax'"), ((None, None, "1,7"), "'7' is no batch size")]
)
def test_what_cannot_be_measured_is_a_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        choose(*options, False, KNOWN, RUNS)


def saved(**ratios):
    return {
        "benchmarks": [{"fullname": name, "extra_info": {"ratios": {"r": value}}} for name, value in ratios.items()]
    }


def test_ratios_are_compared_with_a_baseline():
    now = {"a": {"ratios": {"r": 1.3}}, "b": {"ratios": {"r": 0.5}}, "new": {"ratios": {"r": 9}}, "seconds": {}}
    found = changes(saved(a=1.0, b=1.0, gone=1.0), now)
    assert [(change.benchmark, change.factor) for change in found] == [("a", 1.3), ("b", 0.5)]
    lines, well = verdict(found, 1.25)
    assert not well
    assert lines == [
        "2 ratios compared, 1 of them more than 1.25 times the baseline's.",
        "a: r is 1.30 times the baseline's (1.3, was 1)",
    ]
    assert verdict(found, 1.35) == (["2 ratios compared, 0 of them more than 1.35 times the baseline's."], True)
    assert not verdict([], 1.25)[1]


def test_a_run_fails_where_a_ratio_has_grown(tmp_path):
    """The quickest benchmark with a ratio, against a baseline that no machine reaches."""
    name = "bench/test_decode.py::test_decoding_beside_pillow[photographs]"
    then = {"extra_info": {"ratios": {"time over Pillow's": 0.001}}, "stats": dict.fromkeys(STATISTICS, 1.0)}
    baseline = {"machine_info": {}, "benchmarks": [{"fullname": name, "name": name, "group": None} | then]}
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    compare = ["--benchmark-only", "--benchmark-quiet", f"--benchmark-compare={tmp_path / 'baseline.json'}"]
    command = [sys.executable, "-m", "pytest", name, *compare, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 ratios compared, 1 of them more than 1.25 times the baseline's." in done.stdout
    assert "times the baseline's (0." in done.stdout


def test_an_unknown_runtime_ends_with_a_sentence():
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", "--bench-runtimes", "jax"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "There is no runtime 'jax' to measure: choose from onnxruntime," in done.stderr
