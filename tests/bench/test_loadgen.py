"""LoadGen, in runs that are too short to count: all test images are answered right, and its log is read."""

import json

import pytest
from click.testing import CliRunner

from bench import loadgen
from bench.scenarios import SCENARIOS
from tests.support.examples import DEFAULT
from zoo import registry

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install -e '.[dev]'")

ACCURACY = registry.find("mnist14k").card.accuracy


@pytest.mark.parametrize("name", ["MultiStream", "Server"])
def test_a_scenario(name, mnist_test, tmp_path):
    found = loadgen.measure("mnist14k", SCENARIOS[name], 0.2, 10, tmp_path)
    assert (found["accuracy"], found["asked"]) == (ACCURACY.value, 10_000)
    told = loadgen.summary_of(found["log"])
    assert (told["Scenario"], told["Mode"]) == (name, "PerformanceOnly")
    assert told["min_duration (ms)"] == "200"
    assert told["Result is"] in ("VALID", "INVALID")
    assert told["Min queries satisfied"] == "Yes"


def test_the_command_writes_a_result_and_says_what_is_missing(mnist_test, tmp_path, monkeypatch):
    monkeypatch.setattr(loadgen, "LOGS", tmp_path / "logs")
    short = ["--scenario", "SingleStream", "--seconds", "0.2", "--queries", "10", "--out", str(tmp_path)]
    done = CliRunner().invoke(loadgen.main, ["--model", "mnist14k", "--model", "mnist41k", *short])
    assert done.exit_code == 3
    assert "mnist41k SingleStream: There is no model 'mnist41k': did you mean" in done.stderr
    told = json.loads((tmp_path / f"{DEFAULT}-SingleStream.json").read_text())
    assert told["scenario"] == "SingleStream"
    assert told["log"]


def test_answers_that_are_not_the_cards_are_an_error(mnist_test, tmp_path, monkeypatch):
    monkeypatch.setattr(loadgen, "accuracy_of", lambda logs, labels: (9000, 10_000))
    with pytest.raises(RuntimeError, match=f"got 9000 of 10000 right, and its card says {ACCURACY.correct}"):
        loadgen.measure("mnist14k", SCENARIOS["Offline"], 0.1, 10, tmp_path)
