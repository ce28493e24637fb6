"""What all benchmarks share: options, the models under test, what a saved run says of its machine, and comparing."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import zoo
from bench import choice, compare, subjects
from bench.environment import environment
from bench.runtimes import RUNTIMES

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # in servers and processes beside ours too: zoo/runtime.py
CHOICE, BASELINE, VERDICT = pytest.StashKey[choice.Choice](), pytest.StashKey[tuple](), pytest.StashKey[list]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of the zoo")
    names = f"names or patterns with commas; without it {', '.join(choice.MODELS)}"
    group.addoption("--bench-models", metavar="NAMES", help=names)
    group.addoption("--bench-runtimes", metavar="NAMES", help=f"names or patterns with commas: {', '.join(RUNTIMES)}")
    group.addoption("--bench-batches", metavar="SIZES", help="of 1, 8, 64, 256, with commas; without it 1,64")
    group.addoption("--bench-full", action="store_true", help="every model, runtime and batch size, and what is slow")
    group.addoption(
        "--bench-worse", type=float, default=1.25, metavar="FACTOR",
        help="with --benchmark-compare: fail where a ratio is more than so many times the baseline's (%(default)s)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: takes long; runs with --bench-full only")
    config.stash[CHOICE] = _chosen(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("bench_full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="it takes long: --bench-full runs it"))


def _chosen(config: pytest.Config) -> choice.Choice:
    """The models, runtimes and batch sizes of this run. Raises pytest.UsageError."""
    options = (config.getoption(f"bench_{name}") for name in ("models", "runtimes", "batches", "full"))
    known = [card.name for card in zoo.list_models()]
    try:
        return choice.choose(*options, known, {name: runtime.default for name, runtime in RUNTIMES.items()})
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`subject` stands for every chosen model; together with `runtime` and `batch` for every combination."""
    names = [name for name in ("subject", "runtime", "batch") if name in metafunc.fixturenames]
    if names == ["subject", "runtime", "batch"]:
        cases = metafunc.config.stash[CHOICE].cases()
        ids = ["-".join(map(str, case)) for case in cases]
        metafunc.parametrize(names, cases, indirect=["subject"], ids=ids, scope="module")
    elif names:
        models = metafunc.config.stash[CHOICE].models
        metafunc.parametrize(names, [[name] for name in models], indirect=True, scope="module")


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> subjects.Subject:
    """A model under test and its pictures; what is not here is skipped, and says why."""
    try:
        return _subject(request.param)
    except zoo.ZooError as error:
        pytest.skip(str(error))


_subject = cache(subjects.subject)


@pytest.fixture(scope="session")
def model() -> zoo.Model:
    return zoo.load("mnist14k", device="cpu")


@pytest.fixture(scope="session")
def seven() -> Path:
    """The README's picture."""
    return Path(__file__).parents[1] / "examples" / "seven.png"


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """What a saved run says of its machine, in place of pytest-benchmark's own, which names it."""
    return environment()


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Every single time would make the file a hundred times as large; the rows have their percentiles."""
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)


def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, compared_benchmark: dict[str, Any]
) -> None:
    """The saved run that `--benchmark-compare` has found."""
    config.stash[BASELINE] = (benchmarksession, compared_benchmark)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (found := session.config.stash.get(BASELINE, None)) is None:
        return
    now, saved = found
    infos = {benchmark.fullname: benchmark.extra_info for benchmark in now.benchmarks}
    allowed = session.config.getoption("bench_worse")
    session.config.stash[VERDICT], well = compare.verdict(compare.changes(saved, infos), allowed)
    if not well:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(VERDICT, ()):
        terminalreporter.write_line(line)
