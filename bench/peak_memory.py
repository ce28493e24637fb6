"""Peak memory of one batch, measured in its own process: `python -m bench.peak_memory MODEL RUNTIME BATCH`."""

import sys

import numpy as np

from bench.measure import run_process
from bench.runtimes import RUNTIMES
from zoo import registry


def peak_mb(model: str, runtime: str, batch: int) -> float:
    """Peak resident memory in MB of a process that opens the model and labels one batch of black pictures."""
    return run_process([sys.executable, "-m", "bench.peak_memory", model, runtime, str(batch)]).peak_mb


def main(model: str, runtime: str, batch: int) -> None:
    entry = registry.find(model)
    network = RUNTIMES[runtime].open(entry, batch)
    network.labels(np.zeros((batch, *entry.card.input.shape), np.uint8))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
