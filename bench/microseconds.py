"""Two tables of the time that one image takes in a network alone: in several runtimes, and with options of onnxruntime.

    python -m bench.microseconds                       # the runtimes, batch 1 and 16
    python -m bench.microseconds --options             # options of onnxruntime, and files that it has optimised
    python -m bench.microseconds --models cifar93k --runtimes onnxruntime,ncnn --blocks 40

All columns of a line are timed in turn in this process, on one thread, from the same random pixels. A runtime whose
logits differ from onnxruntime's by more than its tolerance (bench/runtimes.py) ends the command with an error. For
LiteRT set `ZOO_LITERT_PYTHON`. docs/decisions/0003-runtime.md has the results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from bench.measure import Timing, time_in_blocks
from bench.runtimes import RUNTIMES, Unavailable
from zoo import registry
from zoo.registry import Entry
from zoo.runtime import import_runtime

MODELS = "mnist4k,mnist10k,mnist14k,cifar90k,cifar93k,resnet8"
COMPARED = "onnxruntime,openvino,ncnn,litert,torch-channels-last"
BATCHES = (1, 16)
CALLS = 50  # per block
OPENED = 15  # times that each session is opened


def random_images(entry: Entry, batch: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (batch, *entry.card.input.shape), np.uint8)


def time_runtimes(entry: Entry, batch: int, names: list[str], blocks: int) -> dict[str, float]:
    """Microseconds per image in each runtime that can be opened."""
    images = random_images(entry, batch)
    calls: dict[str, Callable[[], object]] = {}
    expected = None
    for name in names:
        try:
            network = RUNTIMES[name].open(entry, batch)
        except Unavailable as error:
            click.echo(f"{name}: {error}", err=True)
            continue
        argument = network.native(images)
        logits = network.logits(network.session(argument))
        expected = logits if expected is None else expected
        if not (difference := float(np.abs(logits - expected).max())) <= RUNTIMES[name].tolerance:
            raise click.ClickException(f"the logits of {name} differ by {difference:g} for {entry.card.name}")
        calls[name] = partial(network.session, argument)
    return {name: timing.p50 / batch * 1e6 for name, timing in time_in_blocks(calls, blocks, CALLS).items()}


def sessions(entry: Entry, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name, and a function that opens a session: the command's options first, then each with one change."""
    runtime = import_runtime()
    levels = runtime.GraphOptimizationLevel
    content = (entry.folder / "model.onnx").read_bytes()

    def options(**attributes: Any) -> Any:
        made = runtime.SessionOptions()
        made.intra_op_num_threads = made.inter_op_num_threads = 1
        for name, value in attributes.items():
            setattr(made, name, value)
        return made

    def opener(model: bytes, made: Any) -> Callable[[], Any]:
        return lambda: runtime.InferenceSession(model, made, providers=["CPUExecutionProvider"])

    def optimised(suffix: str, level: Any) -> bytes:
        made = options(graph_optimization_level=level, optimized_model_filepath=str(folder / f"model{suffix}"))
        made.log_severity_level = 3  # the file fits only processors like this one, which is the point here
        opener(content, made)()
        return (folder / f"model{suffix}").read_bytes()

    yield "as pocketzoo", opener(content, options())
    spinning = options()
    spinning.add_session_config_entry("session.intra_op.allow_spinning", "0")
    yield "allow_spinning=0", opener(content, spinning)
    yield "no memory arena", opener(content, options(enable_cpu_mem_arena=False))
    yield "no memory pattern", opener(content, options(enable_mem_pattern=False))
    yield "optimisation basic", opener(content, options(graph_optimization_level=levels.ORT_ENABLE_BASIC))
    yield "optimisation extended", opener(content, options(graph_optimization_level=levels.ORT_ENABLE_EXTENDED))
    yield "no optimisation", opener(content, options(graph_optimization_level=levels.ORT_DISABLE_ALL))
    unchanged = options(graph_optimization_level=levels.ORT_DISABLE_ALL)
    yield "saved optimised, .onnx", opener(optimised(".onnx", levels.ORT_ENABLE_ALL), unchanged)
    yield "saved optimised, .ort", opener(optimised(".ort", levels.ORT_ENABLE_ALL), unchanged)


def time_options(entry: Entry, blocks: int) -> dict[str, list[float]]:
    """For each option: CPU milliseconds to open a session, then microseconds per image in batches of 1 and 16."""
    with TemporaryDirectory() as folder:
        openers = dict(sessions(entry, Path(folder)))
    opened: dict[str, list[float]] = {name: [] for name in openers}
    for _ in range(OPENED):
        for name, opener in openers.items():
            start = time.process_time()
            opener()
            opened[name].append(time.process_time() - start)
    results = {name: [Timing(np.array(seconds)).p50 * 1e3] for name, seconds in opened.items()}
    made = {name: opener() for name, opener in openers.items()}
    for batch in BATCHES:
        feed = {"image": random_images(entry, batch)}
        calls = {name: partial(session.run, None, feed) for name, session in made.items()}
        for name, timing in time_in_blocks(calls, blocks, CALLS).items():
            results[name].append(timing.p50 / batch * 1e6)
    return results


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def print_runtimes(entries: list[Entry], names: list[str], blocks: int) -> None:
    click.echo(line(["model", "parameters", "batch", *names]) + "\n" + "|---" * (3 + len(names)) + "|")
    for entry in entries:
        for batch in BATCHES:
            times = time_runtimes(entry, batch, names, blocks)
            base = times[names[0]]
            cells = [f"{times[name]:.1f} ({times[name] / base:.2f})" if name in times else "-" for name in names]
            click.echo(line([entry.card.name, f"{entry.card.parameters.keras:,}", str(batch), *cells]))


def print_options(entries: list[Entry], blocks: int) -> None:
    click.echo(
        line(["model", "option", "open, CPU ms", "batch 1, µs", "batch 16, µs an image"]) + "\n" + "|---" * 5 + "|"
    )
    for entry in entries:
        results = time_options(entry, blocks)
        base = next(iter(results.values()))
        for name, values in results.items():
            cells = [f"{value:.1f} ({value / first:.2f})" for value, first in zip(values, base, strict=True)]
            click.echo(line([entry.card.name, name, *cells]))


@click.command()
@click.option("--models", default=MODELS, show_default=True, help="Names, separated by commas.")
@click.option("--runtimes", default=COMPARED, show_default=True, help="Names; ratios are to the first.")
@click.option("--blocks", default=20, show_default=True, help=f"Blocks of {CALLS} calls of each.")
@click.option("--options", is_flag=True, help="Compare options of onnxruntime instead of runtimes.")
def main(models: str, runtimes: str, blocks: int, options: bool) -> None:
    """Print a Markdown table; ratios to the first column or line are in brackets."""
    entries = [registry.find(name) for name in models.split(",")]
    if options:
        print_options(entries, blocks)
    else:
        print_runtimes(entries, runtimes.split(","), blocks)


if __name__ == "__main__":
    sys.exit(main())
