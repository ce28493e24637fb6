"""What the output `known` costs: `Model.run` with and without it, in interleaved rounds.

`python -m bench.known_cost mnist14k.plus mnist4k.plus cifar90k.plus` prints a table. A model is a name, a folder or an
.onnx file, so the graphs of two versions can be compared.
"""

import argparse
import random
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from train.export import replace_card
from train.known import without_head
from zoo.loading import load
from zoo.model import Model, onnx_bytes

BATCHES = (1, 16)
ROUND_S = 0.01  # seconds of a round, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print("| model | images | without, µs (least) | with, µs (least) | ratio of least | median ratio |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        for batch in BATCHES:
            plain, whole = measure(load(name, "cpu"), batch, options.rounds)
            print(
                f"| {name} | {batch} | {np.median(plain):.2f} ({plain.min():.2f}) | {np.median(whole):.2f} "
                f"({whole.min():.2f}) | {whole.min() / plain.min():.3f} | {np.median(whole / plain):.3f} |",
                flush=True,
            )


def without_known(model: Model) -> Model:
    """The same model without the output."""
    graph = without_head(onnx.load_model_from_string(onnx_bytes(model)))
    card = replace(model.card, known=None, calibration=replace(model.card.calibration, known_from=None))
    replace_card(graph, card)
    return Model(graph.SerializeToString(), "cpu")


def measure(model: Model, batch: int, rounds: int) -> npt.NDArray[np.float64]:
    """Microseconds per call, float64 `(2, rounds)`: without and with the output."""
    images = np.random.default_rng(0).integers(0, 256, (batch, *model.card.input.shape), np.uint8)
    models = [without_known(model), model]
    for each in models:
        seconds(each, images, 20)
    calls = max(5, round(ROUND_S / seconds(model, images, 20)))
    result = np.empty((2, rounds))
    for column in range(rounds):
        for row in random.sample(range(2), 2):  # the first of two may profit from the caches, or suffer from them
            result[row, column] = seconds(models[row], images, calls) * 1e6
    return result


def seconds(model: Model, images: npt.NDArray[np.uint8], calls: int) -> float:
    """Per call."""
    started = time.perf_counter()
    for _ in range(calls):
        model.run(images)
    return (time.perf_counter() - started) / calls


if __name__ == "__main__":
    main()
