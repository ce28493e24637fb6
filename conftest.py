"""`pytest` runs tests/, `pytest --benchmark-only` runs bench/; folders named on the command line are run as named.

Tests run in several worker processes (pytest-xdist), each file in one of them. Benchmarks, tests on a GPU and a single
file run in one process.
"""

import pytest

from serve.devices import cores

MOST_WORKERS = 4  # each may hold 1.5 GB, most of it PyTorch


def pytest_configure(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.args[:] = ["bench" if config.getoption("benchmark_only") else "tests"]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The number of worker processes for `-n auto`, which pyproject.toml sets; 0 runs the tests in this process."""
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    measures = config.getoption("benchmark_only") or config.option.markexpr == "gpu"
    if one_file or measures or config.getoption("capture") == "no":
        return 0
    return min(cores(), MOST_WORKERS)
