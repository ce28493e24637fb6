"""MLPerf's scenarios through its own LoadGen: `python -m bench.loadgen --model resnet8 --scenario Server`.

Each run is two: all test images once in accuracy mode, which must give the card's accuracy, and a performance run of at
least 10 s and 1,000 queries, which LoadGen's own log calls VALID or INVALID. Logs go to `.benchmarks/loadgen/`, what is
kept to `docs/benchmarks/loadgen/`.
"""

import json
import re
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

import zoo
from bench.choice import MODELS
from bench.environment import environment
from bench.scenarios import SAMPLES_A_QUERY, SCENARIOS, SERVER_BOUND_MS, SERVER_LOAD, Answering, Scenario, rate_of
from serve.devices import cores
from zoo.datasets import catalog as datasets

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks" / "loadgen"
LOGS = ROOT / ".benchmarks" / "loadgen"
QUERIES = 1000
MODES = {"accuracy": "AccuracyOnly", "performance": "PerformanceOnly"}


def settings_of(scenario: Scenario, mode: str, seconds: float, queries: int, rate: float) -> Any:
    """LoadGen's settings. rate: pictures a second of the whole system; LoadGen is told to expect twice that, since it
    ends a run too early where answers come faster than it expects.
    """
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario.name)
    settings.mode = getattr(lg.TestMode, MODES[mode])
    settings.min_duration_ms, settings.min_query_count = round(seconds * 1000), queries
    settings.single_stream_expected_latency_ns = round(1e9 / rate / 2)
    settings.multi_stream_samples_per_query = SAMPLES_A_QUERY
    settings.multi_stream_expected_latency_ns = round(1e9 * SAMPLES_A_QUERY / rate / 2)
    settings.offline_expected_qps = 2 * rate
    settings.server_target_qps = SERVER_LOAD * rate
    settings.server_target_latency_ns = round(SERVER_BOUND_MS * 1e6)
    return settings


def run(model: zoo.Model, test: datasets.Dataset, scenario: Scenario, mode: str, settings: Any, logs: Path) -> int:
    """One run of LoadGen, its logs into a folder; returns how many threads answered."""
    import mlperf_loadgen as lg

    def complete(ids: list[int], labels: np.ndarray) -> None:
        places = labels.ctypes.data + np.arange(len(ids))  # LoadGen copies one byte an answer, from its address
        responses = [lg.QuerySampleResponse(one, int(place), 1) for one, place in zip(ids, places, strict=True)]
        lg.QuerySamplesComplete(responses)

    logs.mkdir(parents=True, exist_ok=True)
    where = lg.LogSettings()
    where.log_output.outdir = str(logs)
    where.log_output.copy_summary_to_stdout = False
    where.enable_trace = False
    answering = Answering(model, test.images, scenario, cores(), complete)
    sut = lg.ConstructSUT(answering.issue, lambda: None)
    n = len(test.images)  # all of them are in memory all the time: nothing to load, nothing to unload
    qsl = lg.ConstructQSL(n, n, lambda samples: None, lambda samples: None)
    try:
        lg.StartTestWithLogSettings(sut, qsl, settings, where, "")
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        answering.close()
    return answering.threads


def accuracy_of(logs: Path, labels: np.ndarray) -> tuple[int, int]:
    """Right and all answers of LoadGen's accuracy log, whose data are hexadecimal bytes."""
    answers = json.loads((logs / "mlperf_log_accuracy.json").read_text())
    right = sum(int(answer["data"], 16) == labels[answer["qsl_idx"]] for answer in answers)
    return right, len(answers)


def summary_of(log: list[str]) -> dict[str, str]:
    """The lines `name : value` of LoadGen's summary."""
    found = (re.fullmatch(r"\s*([^:]+?)\s*:\s*(.+)", line) for line in log)
    return {line[1]: line[2] for line in found if line}


def measure(name: str, scenario: Scenario, seconds: float, queries: int, logs: Path) -> dict[str, Any]:
    """Both runs of one model in one scenario, as the JSON that is kept.

    Raises:
        zoo.ZooError: model or data set are not here. RuntimeError: the answers are not as accurate as the card says.
    """
    model = zoo.load(name, "cpu")
    card = model.card
    test = datasets.load(card.dataset.name, "test")
    rate = rate_of(model, test.images, scenario, cores())
    folder = logs / f"{card.name}-{scenario.name}"
    run(model, test, scenario, "accuracy", settings_of(scenario, "accuracy", seconds, queries, rate), folder)
    right, asked = accuracy_of(folder, test.labels)
    if (right, asked) != (card.accuracy.correct, card.accuracy.images):
        raise RuntimeError(f"{card.name} got {right} of {asked} right, and its card says {card.accuracy.correct}.")
    settings = settings_of(scenario, "performance", seconds, queries, rate)
    threads = run(model, test, scenario, "performance", settings, folder)
    return {
        "model": card.name, "scenario": scenario.name, "threads": threads, "chunk": scenario.chunk,
        "provider": "CPUExecutionProvider", "accuracy": right / asked, "asked": asked,
        "min_duration_s": seconds, "min_queries": queries, "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "environment": environment(), "log": (folder / "mlperf_log_summary.txt").read_text().splitlines(),
    }  # fmt: skip


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True, help="May be given several times.")
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice(list(SCENARIOS)), default=list(SCENARIOS))
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="At least so long.")
@click.option("--queries", type=click.IntRange(min=1), default=QUERIES, show_default=True, help="At least so many.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results.")
def main(models: tuple[str, ...], scenarios: tuple[str, ...], seconds: float, queries: int, out: Path) -> None:
    """Run MLPerf scenarios through LoadGen. Ends with 1 where one is INVALID, with 3 where one could not be made."""
    out.mkdir(parents=True, exist_ok=True)
    code = 0
    for name, scenario in product(models, scenarios):
        try:
            found = measure(name, SCENARIOS[scenario], seconds, queries, LOGS)
        except (zoo.ZooError, RuntimeError, ImportError) as error:
            click.echo(f"{name} {scenario}: {error}", err=True)
            code = 3
            continue
        path = out / f"{found['model']}-{scenario}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        result = summary_of(found["log"])["Result is"]
        click.echo(f"{found['model']} {scenario}: {result}, accuracy {found['accuracy']:.2%}")
        code = code or int(result != "VALID")
    sys.exit(code)


if __name__ == "__main__":
    main()
