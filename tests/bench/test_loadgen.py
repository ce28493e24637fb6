"""LoadGen scenarios in short runs: accuracy mode on all test images, and the parsed log."""

import json
import re

import pytest
from click.testing import CliRunner

from bench import loadgen
from bench.loadgen import SCENARIOS
from tests.support.examples import DEFAULT
from zoo import registry

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install -e '.[dev]'")

ACCURACY = registry.find("mnist14k").card.accuracy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MultiStream", "Server"])
def test_scenario_reaches_the_cards_accuracy(name, mnist_test, tmp_path):
    result = loadgen.measure("mnist14k", SCENARIOS[name], 0.2, 10, tmp_path)
    assert (result["accuracy"], result["asked"]) == (ACCURACY.value, 10_000)
    summary = loadgen.parse_summary(result["log"])
    assert (summary["Scenario"], summary["Mode"]) == (name, "PerformanceOnly")
    assert summary["min_duration (ms)"] == "200"
    assert summary["Result is"] in ("VALID", "INVALID")
    assert summary["Min queries satisfied"] == "Yes"


@pytest.mark.slow
def test_command_writes_results_and_reports_missing_models(mnist_test, tmp_path, monkeypatch):
    monkeypatch.setattr(loadgen, "LOGS", tmp_path / "logs")
    short = ["--scenario", "SingleStream", "--seconds", "0.2", "--queries", "10", "--out", str(tmp_path)]
    done = CliRunner().invoke(loadgen.main, ["--model", "mnist14k", "--model", "mnist41k", *short])
    assert done.exit_code == 3
    assert re.search(r"mnist41k SingleStream: .*mnist14k", done.stderr)
    result = json.loads((tmp_path / f"{DEFAULT}-SingleStream.json").read_text())
    assert result["scenario"] == "SingleStream"
    assert result["log"]


@pytest.mark.slow
def test_accuracy_below_the_cards_is_an_error(mnist_test, tmp_path, monkeypatch):
    monkeypatch.setattr(loadgen, "read_accuracy", lambda logs, labels: (9000, 10_000))
    with pytest.raises(RuntimeError, match=f"9000 of 10000 .*{ACCURACY.correct}"):
        loadgen.measure("mnist14k", SCENARIOS["Offline"], 0.1, 10, tmp_path)
