"""MLPerf's four scenarios through its LoadGen: `python -m bench.loadgen --model resnet8 --scenario Server`.

LoadGen (github.com/mlcommons/inference, loadgen/) issues the queries, times them and judges the run; nothing here
measures. Its scenarios:

- SingleStream: the next query follows the answer to the last one.
- MultiStream: the same with 8 images per query.
- Server: queries arrive at random (Poisson) at a given rate and must be answered within a time limit.
- Offline: all images at once.

Each measurement is two runs: accuracy mode asks for every test image once and must reach the card's accuracy;
performance mode lasts at least 10 s and 1,000 queries, and LoadGen's log calls it VALID or INVALID. Logs go to
`.benchmarks/loadgen/`, results to `docs/benchmarks/loadgen/`.
"""

import json
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

import zoo
from bench.environment import environment
from bench.subjects import MLPERF, MODELS
from serve.devices import cores
from zoo.classification import CHUNK
from zoo.datasets import catalog as datasets

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks" / "loadgen"
LOGS = ROOT / ".benchmarks" / "loadgen"
MIN_QUERIES = 1000
MODES = {"accuracy": "AccuracyOnly", "performance": "PerformanceOnly"}
SAMPLES_PER_QUERY = 8  # of MultiStream
# Shares of the measured rate, tried in turn until a run is valid: LoadGen needs its share of the cores, and above that
# queues grow.
SERVER_LOADS = (0.4, 0.3, 0.2)
SERVER_LIMIT_MS = 10.0


@dataclass(frozen=True)
class Scenario:
    """How queries are divided among threads."""

    name: str
    chunk: int  # images that one thread takes at a time
    inline: bool = False  # LoadGen's own thread answers: there is one chunk, and handing it over would only cost time


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("SingleStream", chunk=1, inline=True),
        Scenario("MultiStream", chunk=SAMPLES_PER_QUERY // 2),
        Scenario("Server", chunk=1),
        Scenario("Offline", chunk=CHUNK),
    )
}


@dataclass(frozen=True)
class Sample:
    """As LoadGen's query sample."""

    id: int
    index: int  # of an image


class Workers:
    """LoadGen's system under test: threads that share one model and complete LoadGen's samples.

    Args:
        complete: receives the ids of samples and their labels, uint8 `(n,)`.
    """

    def __init__(
        self,
        model: zoo.Model,
        images: npt.NDArray[np.uint8],
        scenario: Scenario,
        threads: int,
        complete: Callable[[list[int], npt.NDArray[np.uint8]], None],
    ) -> None:
        self._model, self._images, self._scenario, self._complete = model, images, scenario, complete
        self._queue: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self.threads = 1 if scenario.inline else threads
        self._running = [threading.Thread(target=self._work) for _ in range(0 if scenario.inline else threads)]
        for thread in self._running:
            thread.start()

    def issue(self, samples: list[Any]) -> None:
        """Queue LoadGen's samples, in chunks; each sample has an id and the index of an image."""
        chunk = self._scenario.chunk
        for start in range(0, len(samples), chunk):
            (self._answer if self._scenario.inline else self._queue.put)(samples[start : start + chunk])

    def close(self) -> None:
        for _ in self._running:
            self._queue.put(None)
        for thread in self._running:
            thread.join()

    def _work(self) -> None:
        while (samples := self._queue.get()) is not None:
            self._answer(samples)

    def _answer(self, samples: list[Any]) -> None:
        images = self._images[[sample.index for sample in samples]]
        labels = self._model.run(images).logits.argmax(1).astype(np.uint8)
        self._complete([sample.id for sample in samples], labels)


def measure_rate(model: zoo.Model, images: npt.NDArray[np.uint8], scenario: Scenario, threads: int) -> float:
    """Images/s of the whole system on 2,000 images, by which LoadGen plans its queries."""
    n = 2000
    remaining, done, lock = [n], threading.Event(), threading.Lock()

    def complete(ids: list[int], labels: npt.NDArray[np.uint8]) -> None:
        with lock:
            remaining[0] -= len(ids)
        if not remaining[0]:
            done.set()

    workers = Workers(model, images, scenario, threads, complete)
    start = time.perf_counter()
    workers.issue([Sample(number, number % len(images)) for number in range(n)])
    done.wait()
    seconds = time.perf_counter() - start
    workers.close()
    return n / seconds


def make_settings(
    scenario: Scenario, mode: str, seconds: float, queries: int, rate: float, load: float = SERVER_LOADS[0]
) -> Any:
    """LoadGen's settings.

    Args:
        rate: images/s of the whole system. LoadGen gets twice that as its expectation, because it ends a run too early
            if answers come faster than expected.
        load: the rate of queries in the Server scenario, as a share of `rate`.
    """
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario.name)
    settings.mode = getattr(lg.TestMode, MODES[mode])
    settings.min_duration_ms, settings.min_query_count = round(seconds * 1000), queries
    settings.single_stream_expected_latency_ns = round(1e9 / rate / 2)
    settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    settings.multi_stream_expected_latency_ns = round(1e9 * SAMPLES_PER_QUERY / rate / 2)
    settings.offline_expected_qps = 2 * rate
    settings.server_target_qps = load * rate
    settings.server_target_latency_ns = round(SERVER_LIMIT_MS * 1e6)
    return settings


def run(model: zoo.Model, test: datasets.Dataset, scenario: Scenario, settings: Any, logs: Path) -> int:
    """Run LoadGen once, with its logs in a folder; returns the number of threads that answered."""
    import mlperf_loadgen as lg

    def complete(ids: list[int], labels: npt.NDArray[np.uint8]) -> None:
        addresses = labels.ctypes.data + np.arange(len(ids))  # LoadGen copies one byte per answer from its address
        responses = [lg.QuerySampleResponse(one, int(address), 1) for one, address in zip(ids, addresses, strict=True)]
        lg.QuerySamplesComplete(responses)

    logs.mkdir(parents=True, exist_ok=True)
    log_settings = lg.LogSettings()
    log_settings.log_output.outdir = str(logs)
    log_settings.log_output.copy_summary_to_stdout = False
    log_settings.enable_trace = False
    workers = Workers(model, test.images, scenario, cores(), complete)
    sut = lg.ConstructSUT(workers.issue, lambda: None)
    n = len(test.images)  # all of them stay in memory, so there is nothing to load or unload
    qsl = lg.ConstructQSL(n, n, lambda samples: None, lambda samples: None)
    try:
        lg.StartTestWithLogSettings(sut, qsl, settings, log_settings, "")
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        workers.close()
    return workers.threads


def read_accuracy(logs: Path, labels: npt.NDArray[np.integer[Any]]) -> tuple[int, int]:
    """Correct answers and all answers in LoadGen's accuracy log, whose data are hexadecimal bytes."""
    answers = json.loads((logs / "mlperf_log_accuracy.json").read_text())
    correct = sum(int(answer["data"], 16) == labels[answer["qsl_idx"]] for answer in answers)
    return correct, len(answers)


def parse_summary(log: list[str]) -> dict[str, str]:
    """The lines `name : value` of LoadGen's summary."""
    matches = (re.fullmatch(r"\s*([^:]+?)\s*:\s*(.+)", line) for line in log)
    return {match[1]: match[2] for match in matches if match}


def measure(name: str, scenario: Scenario, seconds: float, queries: int, logs: Path) -> dict[str, Any]:
    """Run one scenario of one model in both modes; returns the result that is saved as JSON.

    Raises:
        zoo.ZooError: the model or its dataset is missing.
        RuntimeError: the answers are not as accurate as the card's.
    """
    model = zoo.load(name, "cpu")
    card = model.card
    test = datasets.load(card.trained.dataset.name, "test")
    rate = measure_rate(model, test.images, scenario, cores())
    folder = logs / f"{card.name}-{scenario.name}"
    run(model, test, scenario, make_settings(scenario, "accuracy", seconds, queries, rate), folder)
    correct, total = read_accuracy(folder, test.labels)
    accuracy = card.trained.accuracy
    if (correct, total) != (accuracy.correct, accuracy.images):
        raise RuntimeError(
            f"{card.name}: {correct} of {total} answers are correct, but its card has {accuracy.correct} of "
            f"{accuracy.images}."
        )
    for load in SERVER_LOADS if scenario.name == "Server" else SERVER_LOADS[:1]:
        settings = make_settings(scenario, "performance", seconds, queries, rate, load)
        threads = run(model, test, scenario, settings, folder)
        summary = (folder / "mlperf_log_summary.txt").read_text().splitlines()
        if parse_summary(summary).get("Result is") == "VALID":
            break
    return {
        "model": card.name,
        "scenario": scenario.name,
        "threads": threads,
        "chunk": scenario.chunk,
        "provider": "CPUExecutionProvider",
        "accuracy": correct / total,
        "asked": total,
        "min_duration_s": seconds,
        "min_queries": queries,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "environment": environment(),
        "log": summary,
    }


@click.command()
@click.option("--model", "models", multiple=True, default=(*MODELS, MLPERF), show_default=True, help="Repeatable.")
@click.option(
    "--scenario", "scenarios", multiple=True, type=click.Choice(list(SCENARIOS)), default=list(SCENARIOS),
    help="Repeatable; all four by default.",
)  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Minimum duration.")
@click.option("--queries", type=click.IntRange(min=1), default=MIN_QUERIES, show_default=True, help="Minimum number.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the results.")
def main(models: tuple[str, ...], scenarios: tuple[str, ...], seconds: float, queries: int, out: Path) -> None:
    """Run MLPerf scenarios through LoadGen. Exits with 1 if a run is INVALID, and with 3 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    code = 0
    for name, scenario in product(models, scenarios):
        try:
            result = measure(name, SCENARIOS[scenario], seconds, queries, LOGS)
        except (zoo.ZooError, RuntimeError, ImportError) as error:
            click.echo(f"{name} {scenario}: {error}", err=True)
            code = 3
            continue
        path = out / f"{result['model']}-{scenario}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        status = parse_summary(result["log"])["Result is"]
        click.echo(f"{result['model']} {scenario}: {status}, accuracy {result['accuracy']:.2%}")
        code = code or int(status != "VALID")
    sys.exit(code)


if __name__ == "__main__":
    main()
