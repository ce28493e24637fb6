"""Reading numbers: `measure` how many are right, and `fit` the weights of the scoring networks.

    python -m bench.numbers measure            # MNIST test digits; reads the test set
    python -m bench.numbers measure --train    # the last 5,000 training digits, for choices
    python -m bench.numbers fit                # writes zoo/images/numbers.json; needs torch

Images are made by `tests/pictures/number_pictures.py`: one to six digits, apart (from wide to narrow) or touching,
tilted by up to 5 degrees, on paper of ten kinds. `fit` uses the first 55,000 training digits and hand-made shapes of
digits.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

import zoo
from tests.pictures import digit_pictures, digit_shapes, number_pictures
from zoo.datasets import catalog
from zoo.evaluation import wilson
from zoo.images.digits import to_mnist
from zoo.images.numbers import Line, find_number
from zoo.model import CHUNK, Model
from zoo.reading import DIGITS, best_path, inputs

Array = npt.NDArray[Any]

WEIGHTS = Path(zoo.__file__).parent / "images" / "numbers.json"
PLAIN_STYLE = 0.7  # share of images on white paper, with noise and blur, which are made fastest
SHAPES = 0.2  # share of images with drawn digits instead of MNIST's
HIDDEN = {"known": 16, "plain": 16, "prior": 12}
KEPT = 0.99  # of the right candidates that the prior keeps
UNREADABLE = 12.0  # an image whose right text is less probable than exp(-12) teaches nothing


@click.group()
def main() -> None:
    """Measure the reading of numbers, or fit its weights."""


@main.command()
@click.option("--model", default="mnist14k", show_default=True)
@click.option("--count", default=1000, show_default=True, help="Images of each kind.")
@click.option("--seed", default=2026, show_default=True)
@click.option("--train", is_flag=True, help="Digits of the validation split instead of the test set.")
def measure(model: str, count: int, seed: int, train: bool) -> None:
    """Print how many numbers of 2 to 6 digits are read right."""
    network = zoo.load(model, "cpu")
    data = catalog.load("mnist", "train" if train else "test")
    first = 55_000 if train else 0
    digits, labels = data.images.reshape(-1, 28, 28)[first:], data.labels[first:]
    styles = number_pictures.STYLES
    for kind in ("apart", "touching"):
        right: dict[str, list[bool]] = defaultdict(list)
        lengths: dict[int, list[bool]] = defaultdict(list)
        milliseconds = []
        sure = []
        for index in range(count):
            random = np.random.default_rng([seed, len(kind), index])
            chosen = random.integers(len(digits), size=int(random.integers(2, 7)))
            gaps = [getattr(number_pictures, kind)(random) for _ in chosen[1:]]
            style = styles[index % len(styles)]
            image = number_pictures.number(random, [digits[i] for i in chosen], gaps, style)
            text = "".join(str(labels[i]) for i in chosen)
            started = time.process_time()
            (row,) = network.predict([image])
            milliseconds.append(1e3 * (time.process_time() - started))
            is_right = row.label is not None and row.label.replace(" ", "") == text
            right[style].append(is_right)
            lengths[len(chosen)].append(is_right)
            if row.unsure is False:
                sure.append(is_right)
        total = [value for values in right.values() for value in values]
        low, high = wilson(float(np.mean(total)), len(total))
        print(f"{kind}: {np.mean(total):.2%} right of {len(total)} (95 % interval {low:.2%} to {high:.2%})")
        print(f"  sure: {len(sure)}, of which wrong: {len(sure) - sum(sure)}")
        print("  " + ", ".join(f"{style} {np.mean(values):.1%}" for style, values in right.items()))
        print("  " + ", ".join(f"{n} digits {np.mean(lengths[n]):.1%}" for n in sorted(lengths)))
        print(f"  {np.median(milliseconds):.1f} ms of CPU per image (median)")


@main.command()
@click.option("--model", default="mnist14k", show_default=True)
@click.option("--count", default=1200, show_default=True, help="Images to learn from.")
@click.option("--seed", default=200, show_default=True)
def fit(model: str, count: int, seed: int) -> None:
    """Compute the weights. A model without the output `known` leaves the weights for it as they are."""
    import torch

    torch.set_num_threads(1)
    network = zoo.load(model, "cpu")
    data = catalog.load("mnist", "train")
    digits, labels = data.images.reshape(-1, 28, 28)[:55_000], data.labels[:55_000]
    samples = []
    cv2.setNumThreads(1)
    for index in range(count):
        image, text = _sample(np.random.default_rng([seed, index]), digits, labels)
        try:
            number = find_number(image, prune=False)
        except zoo.ZooError:
            continue
        lines = number.lines() if number else []
        if len(lines) == 1:
            samples.append(_answered(network, lines[0], text))
    print(f"{len(samples)} of {count} images have one line")
    weights = json.loads(WEIGHTS.read_text(encoding="utf-8")) if WEIGHTS.exists() else {}
    has_known = samples[0]["known"] is not None
    for name in ("plain", "known") if has_known else ("plain",):
        weights[name] = _fit_scores(samples, name)
    name = "known" if has_known else "plain"
    weights["prior"] = _fit_prior(samples, name, weights[name])
    WEIGHTS.write_text(json.dumps(weights) + "\n", encoding="utf-8")


def _sample(random: np.random.Generator, digits: Array, labels: Array) -> tuple[Array, str]:
    """An image of one to six digits, and its text."""
    count, drawn = int(random.integers(1, 7)), random.random() < SHAPES
    chosen = [_digit(random, digits, labels, drawn) for _ in range(count)]
    kind = number_pictures.touching if random.random() < 0.6 else number_pictures.apart
    gaps = [kind(random) for _ in range(count - 1)]
    images = [image for image, _ in chosen]
    if random.random() < PLAIN_STYLE:
        cover, _ = number_pictures.written(random, images, gaps)
        picture = digit_pictures.painted(cover, (255, 255, 255), (0, 0, 0))
        if random.random() < 2 / 3:
            soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), random.uniform(0.5, 1.5))
            noisy = soft + random.normal(0, random.uniform(0, 8), picture.shape)
            picture = np.asarray(np.clip(noisy, 0, 255), np.uint8)
    else:
        style = number_pictures.STYLES[int(random.integers(len(number_pictures.STYLES)))]
        picture = number_pictures.number(random, images, gaps, style)
    return picture, "".join(label for _, label in chosen)


def _digit(random: np.random.Generator, digits: Array, labels: Array, drawn: bool) -> tuple[Array, str]:
    if not drawn:
        index = int(random.integers(len(digits)))
        return digits[index], str(labels[index])
    value = int(random.integers(10))
    cover = digit_shapes.draw(value, random, 240, float(random.uniform(0.06, 0.13)))
    return to_mnist(np.asarray(255 * cover, np.uint8)[:, :, None])[0][:, :, 0], str(value)


def _answered(network: Model, line: Line, text: str) -> dict[str, Any]:
    """A line's candidates with the network's answers, as the scoring networks take them."""
    parts = [network.run(line.pixels[start : start + CHUNK]) for start in range(0, len(line.pixels), CHUNK)]
    probabilities = np.concatenate([part.probabilities for part in parts])
    known = np.concatenate([part[2] for part in parts]) if len(parts[0]) > 2 else None
    return {
        "cuts": line.cuts,
        "first": line.first,
        "last": line.last,
        "plain": inputs(line.features, probabilities, None),
        "known": None if known is None else inputs(line.features, probabilities, known),
        "prior": line.outlines,
        "logs": np.log(np.maximum(probabilities, 1e-6)),
        "text": text,
    }


def marginals(sample: dict[str, Any], scores: Array, text: str | None = None) -> tuple[float, Array]:
    """The logarithm of the sum over all ways of exp(score), and each candidate's share in it, 0 to 1.

    Args:
        text: only ways that read it, weighted with the probabilities of its labels.
    """
    cuts, first, last = sample["cuts"], sample["first"], sample["last"]
    steps = 0 if text is None else len(text)
    if text is None:
        emitted = scores[:, None]
    else:
        emitted = scores[:, None] + sample["logs"][:, [DIGITS.index(label) for label in text]]
    shift = 0 if text is None else 1  # a candidate takes one step further in the text
    before, after = np.full((cuts, steps + 1), -np.inf), np.full((cuts, steps + 1), -np.inf)
    before[0, 0] = after[-1, steps] = 0
    for cut in range(1, cuts):
        if (here := last == cut).any():
            sums = before[first[here]][:, : steps + 1 - shift] + emitted[here]
            before[cut, shift:] = np.logaddexp.reduce(sums, axis=0)
    for cut in range(cuts - 2, -1, -1):
        if (here := first == cut).any():
            sums = after[last[here]][:, shift:] + emitted[here]
            after[cut, : steps + 1 - shift] = np.logaddexp.reduce(sums, axis=0)
    total = float(before[-1, steps])
    if not np.isfinite(total):
        return total, np.zeros(len(first))
    ways = before[first][:, : steps + 1 - shift] + emitted + after[last][:, shift:]
    return total, np.exp(ways - total).sum(axis=1)


def _fit_scores(samples: list[dict[str, Any]], name: str, epochs: int = 8, batch: int = 8) -> dict[str, Any]:
    """Weights with which the right texts are most probable, by Adam."""
    import torch

    order = np.random.default_rng(0)
    network, mean, deviation, optimizer = _network([sample[name] for sample in samples], HIDDEN[name], 4e-3)
    with torch.no_grad():
        network[2].bias -= 2  # most candidates are no digit
    steps, step = epochs * (len(samples) // batch), 0
    for epoch in range(epochs):
        losses = []
        shuffled = order.permutation(len(samples))
        for start in range(0, len(samples) - batch + 1, batch):
            optimizer.param_groups[0]["lr"] = 4e-3 * max(0.02, 1 - step / steps)
            step += 1
            total = torch.zeros(())
            for index in shuffled[start : start + batch]:
                sample = samples[index]
                scores = network(torch.tensor((sample[name] - mean) / deviation, dtype=torch.float32))[:, 0]
                values = scores.detach().numpy().astype(float)
                right, target = marginals(sample, values, sample["text"])
                every, actual = marginals(sample, values)
                if every - right < UNREADABLE:
                    losses.append(every - right)
                    total = total + (scores * torch.tensor(actual - target, dtype=torch.float32)).sum()
            if total.requires_grad:
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
        print(f"{name} epoch {epoch + 1}: {np.mean(losses):.4f}", flush=True)
    weights = _folded(network, mean, deviation)
    correct = [_read(sample, sample[name], weights) == sample["text"] for sample in samples]
    print(f"{name}: {np.mean(correct):.2%} of these images right")
    return weights


def _fit_prior(samples: list[dict[str, Any]], name: str, scores: dict[str, Any], epochs: int = 8) -> dict[str, Any]:
    """Weights of the score by outline alone, above 0 for `KEPT` of the candidates on the right ways."""
    import torch

    targets = np.concatenate(
        [marginals(sample, _scores(sample[name], scores), sample["text"])[1] for sample in samples]
    ).clip(0, 1)
    network, mean, deviation, optimizer = _network([sample["prior"] for sample in samples], HIDDEN["prior"], 5e-3)
    values = (np.concatenate([sample["prior"] for sample in samples]) - mean) / deviation
    x, y = torch.tensor(values, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(512):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x[index])[:, 0], y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folded = _folded(network, mean, deviation)
    found = network(x).detach().numpy()[:, 0]
    bound = float(np.quantile(found[targets > 0.5], 1 - KEPT))
    folded["output_bias"] = round(folded["output_bias"] - bound, 4)
    print(f"prior: keeps {np.mean(found >= bound):.1%} of all candidates")
    return folded


def _network(values: list[Array], hidden: int, rate: float) -> tuple[Any, Array, Array, Any]:
    import torch

    torch.manual_seed(0)
    every = np.concatenate(values)
    network = torch.nn.Sequential(torch.nn.Linear(every.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
    optimizer = torch.optim.Adam(network.parameters(), rate, weight_decay=1e-5)
    return network, every.mean(axis=0), every.std(axis=0) + 1e-3, optimizer


def _folded(network: Any, mean: Array, deviation: Array) -> dict[str, Any]:
    """The weights for inputs that are not normalised."""
    weight, bias = network[0].weight.detach().numpy().T.astype(float), network[0].bias.detach().numpy()
    return {
        "hidden": np.round(weight / deviation[:, None], 4).tolist(),
        "hidden_bias": np.round(bias - (mean / deviation) @ weight, 4).tolist(),
        "output": np.round(network[2].weight.detach().numpy()[0].astype(float), 4).tolist(),
        "output_bias": round(float(network[2].bias.detach()), 4),
    }


def _scores(values: Array, weights: dict[str, Any]) -> Array:
    hidden = np.maximum(values @ np.array(weights["hidden"]) + np.array(weights["hidden_bias"]), 0)
    return np.asarray(hidden @ np.array(weights["output"]) + weights["output_bias"])


def _read(sample: dict[str, Any], values: Array, weights: dict[str, Any]) -> str:
    path = best_path(sample["cuts"], sample["first"], sample["last"], _scores(values, weights))
    return "".join(DIGITS[label] for label in sample["logs"][path].argmax(axis=1)) if path else ""


if __name__ == "__main__":
    main()
