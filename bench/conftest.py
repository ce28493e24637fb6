"""Fixtures of the benchmarks, the marker `full`, and the comparison with a saved run.

`pytest --benchmark-only` measures the default set; `-k` selects from it, `-m full` adds what takes long.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import zoo
from bench import compare, subjects
from bench.environment import environment

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for servers and child processes too: zoo/runtime.py
BASELINE, REPORT = pytest.StashKey[tuple[Any, dict[str, Any]]](), pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("benchmarks").addoption(
        "--bench-worse",
        type=float,
        default=1.25,
        metavar="FACTOR",
        help="with --benchmark-compare: fail if a ratio is more than FACTOR times the baseline's (%(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "full: a benchmark that takes long; `-m full` or `-m 'full or not full'` runs it"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "full" not in config.option.markexpr:
        skip = pytest.mark.skip(reason="takes long: run it with -m full")
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(skip)


@pytest.fixture(scope="module", params=subjects.MODELS)
def subject(request: pytest.FixtureRequest) -> subjects.Subject:
    """A model under test; skipped with the reason if its files or its dataset are missing."""
    try:
        return load_subject(request.param)
    except zoo.ZooError as error:
        pytest.skip(str(error))


load_subject = cache(subjects.load_subject)


@pytest.fixture(scope="session")
def model() -> zoo.Model:
    return zoo.load("mnist14k", device="cpu")


@pytest.fixture(scope="session")
def seven() -> Path:
    """The README's first image."""
    return Path(__file__).parents[1] / "examples" / "seven.png"


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """The environment of a saved run. pytest-benchmark's own contains the host name."""
    return environment()


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Drop the single times: they would make the file a hundred times as large, and the rows have percentiles."""
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)


def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, compared_benchmark: dict[str, Any]
) -> None:
    """Keep the saved run that `--benchmark-compare` has loaded."""
    config.stash[BASELINE] = (benchmarksession, compared_benchmark)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (compared := session.config.stash.get(BASELINE, None)) is None:
        return
    current, saved = compared
    infos = {benchmark.fullname: benchmark.extra_info for benchmark in current.benchmarks}
    limit = session.config.getoption("bench_worse")
    session.config.stash[REPORT], passed = compare.report(compare.changes(saved, infos), limit)
    if not passed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(REPORT, ()):
        terminalreporter.write_line(line)
