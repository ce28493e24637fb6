"""Reading numbers: `measure` how many are right, and `fit` the weights of the scoring networks.

    python -m bench.numbers measure            # MNIST test digits; reads the test set
    python -m bench.numbers measure --train    # digits of the validation split, for choices
    python -m bench.numbers fit                # writes zoo/images/numbers.json; needs torch

Images are made by `tests/pictures/number_pictures.py`: one to six digits, apart (from wide to narrow) or touching,
tilted by up to 5 degrees, on paper of ten kinds. `fit` uses the other 55,000 training digits and hand-made shapes of
digits. The models of the zoo were trained on the validation split too: choices need the network of a calibration run.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

import zoo
from tests.pictures import digit_pictures, digit_shapes, number_pictures
from zoo.classification import CHUNK
from zoo.datasets import catalog
from zoo.evaluation import wilson
from zoo.images.digits import to_mnist
from zoo.images.numbers import Line, find_number
from zoo.model import Model
from zoo.reading import DIGITS, best_path, inputs
from zoo.scores import Scores

Array = npt.NDArray[Any]

WEIGHTS = Path(zoo.__file__).parent / "images" / "numbers.json"
KINDS = ("apart", "touching")
PLAIN_STYLE = 0.7  # share of images on white paper, with noise and blur, which are made fastest
SHAPES = 0.2  # share of images with drawn digits instead of MNIST's
VARIED = 0.5  # share of MNIST's digits that are varied, since the network was trained on them and is too certain
HIDDEN = {"known": 32, "plain": 32, "prior": 12}  # units
KEPT = 0.997  # of the right candidates that the prior keeps
UNREADABLE = 12.0  # an image whose right text is less probable than exp(-12) teaches nothing
LEAST = 1e-6  # probabilities of a label below it count as this
RATE = 4e-3  # of learning, at first
LARGEST = 25.0  # scores beyond it count as this


@click.group()
def main() -> None:
    """Measure the reading of numbers, or fit its weights."""


@main.command()
@click.option("--model", default="mnist14k", show_default=True)
@click.option("--count", default=1000, show_default=True, help="Images of each kind.")
@click.option("--seed", default=2026, show_default=True)
@click.option("--train", is_flag=True, help="Digits of the validation split instead of the test set.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), default=KINDS, help="[default: both]")
def measure(model: str, count: int, seed: int, train: bool, kinds: tuple[str, ...]) -> None:
    """Print how many numbers of 2 to 6 digits are read right."""
    network = zoo.load(model, "cpu")
    if train:
        digits, labels = _training_digits(validation=True)
    else:
        data = catalog.load("mnist", "test")
        digits, labels = data.images.reshape(-1, 28, 28), data.labels
    styles = number_pictures.STYLES
    for kind in kinds:
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
@click.option("--count", default=6000, show_default=True, help="Images to learn from.")
@click.option("--seed", default=200, show_default=True)
def fit(model: str, count: int, seed: int) -> None:
    """Compute the weights. A model without the output `known` leaves the weights for it as they are."""
    import torch

    torch.set_num_threads(1)
    network = zoo.load(model, "cpu")
    digits, labels = _training_digits(validation=False)
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
            samples.append(answered(network, lines[0], text))
    print(f"{len(samples)} of {count} images have one line")
    weights = json.loads(WEIGHTS.read_text(encoding="utf-8")) if WEIGHTS.exists() else {}
    WEIGHTS.write_text(json.dumps(weights | fit_all(samples)) + "\n", encoding="utf-8")


def fit_all(samples: list[Sample]) -> dict[str, Any]:
    """The weights by name; those for the output `known` only if the samples have it."""
    names = [name for name in ("plain", "known") if name in samples[0].inputs]
    weights = {name: fit_scores(samples, name) for name in names}
    return weights | {"prior": fit_prior(samples, names[-1], weights[names[-1]])}


def _training_digits(validation: bool) -> tuple[Array, Array]:
    """Images `(N, 28, 28)` and labels of the validation split, or of the rest of the training digits."""
    from train.data import held_out_data, training_data  # needs torch

    split = (held_out_data if validation else training_data)("mnist", "calibration")
    return split.images.numpy().reshape(-1, 28, 28), split.labels.numpy()


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
        image = _varied(random, digits[index]) if random.random() < VARIED else digits[index]
        return image, str(labels[index])
    value = int(random.integers(10))
    cover = digit_shapes.draw(value, random, 240, float(random.uniform(0.06, 0.13)))
    return to_mnist(np.asarray(255 * cover, np.uint8)[:, :, None])[0][:, :, 0], str(value)


def _varied(random: np.random.Generator, digit: Array) -> Array:
    """The digit rotated, slanted and narrowed or widened."""
    turn = cv2.getRotationMatrix2D((14, 14), random.uniform(-12, 12), 1)[:, :2]
    change = turn @ np.array([[random.uniform(0.8, 1.2), random.uniform(-0.25, 0.25)], [0, 1]])
    centre = np.array([14, 14])
    return cv2.warpAffine(digit, np.column_stack([change, centre - change @ centre]), (28, 28), flags=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Sample:
    """A line of a made image: its candidates, C of them, with the network's answers.

    Attributes:
        cuts, first, last, outlines: as in `Line`.
        inputs: of the scoring networks by name, float32 `(C, INPUTS)`.
        probabilities: float32 `(C, 10)`.
    """

    text: str
    cuts: int
    first: Array
    last: Array
    outlines: Array
    inputs: dict[str, Array]
    probabilities: Array


def answered(network: Model, line: Line, text: str) -> Sample:
    parts = [network.run(line.pixels[start : start + CHUNK]) for start in range(0, len(line.pixels), CHUNK)]
    scores = Scores.joined(parts)
    values = {"plain": inputs(line, scores.probabilities, None)}
    if scores.known is not None:
        values["known"] = inputs(line, scores.probabilities, scores.known)
    values = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Sample(text, line.cuts, line.first, line.last, line.outlines, values, scores.probabilities)


class Batch:
    """Samples side by side. Their lines end at the same cut, the last one of the longest."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        import torch

        self.count, self.cuts = len(samples), max(sample.cuts for sample in samples)
        self.steps = max(len(sample.text) for sample in samples)
        self.lengths = [len(sample.text) for sample in samples]
        self.starts = torch.tensor([self.cuts - sample.cuts for sample in samples])
        candidates = [len(sample.first) for sample in samples]
        position = np.repeat(np.arange(self.count), candidates)
        shift = np.repeat(self.starts.numpy(), candidates)
        ends = (np.concatenate([getattr(sample, name) for sample in samples]) + shift for name in ("first", "last"))
        self.index = tuple(torch.from_numpy(np.asarray(values, np.int64)) for values in (position, *ends))
        labels = [[DIGITS.index(label) for label in sample.text.ljust(self.steps, "0")] for sample in samples]
        emitted = [sample.probabilities[:, row] for sample, row in zip(samples, labels, strict=True)]
        self.emitted = torch.from_numpy(np.maximum(np.concatenate(emitted), LEAST).astype(np.float64))

    def logs(self, scores: Any) -> tuple[Any, Any]:
        """Logarithms of the sums of exp(scores), `(B,)`: over all ways, and over those that read the right texts.

        Args:
            scores: tensor `(C,)` of the candidates of all samples; the results can be differentiated.
        """
        import torch

        weights = scores.double().clamp(-LARGEST, LARGEST).exp()
        size = (self.count, self.cuts, self.cuts)
        every = torch.zeros(size, dtype=torch.float64).index_put(self.index, weights)
        right = torch.zeros((*size, self.steps), dtype=torch.float64)
        right = right.index_put(self.index, weights[:, None] * self.emitted)
        begin = torch.zeros((self.count, self.cuts, self.steps + 1), dtype=torch.float64)
        begin[torch.arange(self.count), self.starts, 0] = 1
        all_ways, texts = [begin[:, 0, 0]], [begin[:, 0]]
        for cut in range(1, self.cuts):
            all_ways.append(begin[:, cut, 0] + (torch.stack(all_ways, 1) * every[:, :cut, cut]).sum(1))
            steps = (torch.stack(texts, 1)[:, :, :-1] * right[:, :cut, cut]).sum(1)
            texts.append(torch.cat([begin[:, cut, :1], steps], 1))
        ends = texts[-1][torch.arange(self.count), self.lengths]
        return all_ways[-1].clamp_min(1e-300).log(), ends.clamp_min(1e-300).log()


def fit_scores(samples: list[Sample], name: str, epochs: int = 10, size: int = 16) -> dict[str, Any]:
    """Weights with which the right texts are most probable."""
    import torch

    order = np.random.default_rng(0)
    network, mean, deviation, optimizer = _network([s.inputs[name] for s in samples], HIDDEN[name], RATE)
    with torch.no_grad():
        network[2].bias -= 2  # most candidates are no digit
    by_cuts = sorted(samples, key=lambda sample: sample.cuts)  # a batch is as large as its longest line
    steps, step = epochs * (len(samples) // size), 0
    for epoch in range(epochs):
        losses: list[float] = []
        starts = np.arange(int(order.integers(size)), len(samples), size)
        for start in order.permutation(starts).tolist():
            part = by_cuts[start : start + size]
            values = (np.concatenate([sample.inputs[name] for sample in part]) - mean) / deviation
            optimizer.param_groups[0]["lr"] = RATE * max(0.02, 1 - step / steps)
            step += 1
            every, right = Batch(part).logs(network(torch.from_numpy(values))[:, 0])
            loss = every - right
            loss = loss[loss < UNREADABLE]
            if len(loss):
                losses += loss.tolist()
                optimizer.zero_grad()
                (loss.sum() / size).backward()
                optimizer.step()
        print(f"{name} epoch {epoch + 1}: {np.mean(losses):.4f}", flush=True)
    weights = _folded(network, mean, deviation)
    correct = [_read(sample, sample.inputs[name], weights) == sample.text for sample in samples]
    print(f"{name}: {np.mean(correct):.2%} of these images right")
    return weights


def shares(sample: Sample, scores: Array) -> Array | None:
    """Each candidate's share in the ways that read the right text, 0 to 1; None where there is hardly such a way."""
    import torch

    values = torch.tensor(scores, requires_grad=True)
    every, right = Batch([sample]).logs(values)
    if (every - right).item() >= UNREADABLE:
        return None
    right.sum().backward()
    assert values.grad is not None
    return values.grad.numpy().clip(0, 1)


def fit_prior(samples: list[Sample], name: str, scores: dict[str, Any], epochs: int = 8) -> dict[str, Any]:
    """Weights of the score by outline alone, above 0 for `KEPT` of the candidates on the right ways."""
    import torch

    found = [(sample.outlines, shares(sample, _scores(sample.inputs[name], scores))) for sample in samples]
    outlines = [outline for outline, target in found if target is not None]
    targets = np.concatenate([target for _, target in found if target is not None])
    network, mean, deviation, optimizer = _network(outlines, HIDDEN["prior"], 5e-3)
    x = torch.from_numpy(np.asarray((np.concatenate(outlines) - mean) / deviation, np.float32))
    y = torch.from_numpy(targets.astype(np.float32))
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - epoch / epochs)
        for index in torch.randperm(len(x)).split(256):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x[index])[:, 0], y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folded = _folded(network, mean, deviation)
    values = network(x).detach().numpy()[:, 0]
    bound = float(np.quantile(values[targets > 0.5], 1 - KEPT))
    folded["output_bias"] = round(folded["output_bias"] - bound, 4)
    print(f"prior: keeps {np.mean(values >= bound):.1%} of all candidates")
    return folded


def _network(values: list[Array], hidden: int, rate: float) -> tuple[Any, Array, Array, Any]:
    import torch

    torch.manual_seed(0)
    every = np.concatenate(values)
    network = torch.nn.Sequential(torch.nn.Linear(every.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-4)
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


def _read(sample: Sample, values: Array, weights: dict[str, Any]) -> str:
    path = best_path(sample.cuts, sample.first, sample.last, _scores(values, weights))
    return "".join(DIGITS[label] for label in sample.probabilities[path].argmax(axis=1)) if path else ""


if __name__ == "__main__":
    main()
