"""`pytest` runs tests/, `pytest --benchmark-only` runs bench/; folders named on the command line are run as named."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.args[:] = ["bench" if config.getoption("benchmark_only") else "tests"]
