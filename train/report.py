"""Plots of a run: training curves; for a finished run confusion matrix, worst mistakes and reliability.

The plot of mistakes shows images of the dataset, so these plots are not in the repository.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from train import evaluate, networks
from train.data import Split, held_out_data
from train.export import calibrate
from train.recipe import Recipe
from train.runs import Run
from zoo.datasets import catalog as datasets
from zoo.evaluation import reliability_of

MAX_MISTAKES = 40  # images in the plot of mistakes
BINS = 15  # of the reliability diagram, as for the expected calibration error


def report(recipe: Recipe, runs: Path | None, folder: str | None) -> list[Path]:
    """Draw the plots of seed 0's run into its folder; return their paths.

    Args:
        runs: folder with the run folders, default `$ZOO_HOME/runs`.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
    Raises:
        RunError: the run is not finished.
    """
    run = Run.of(recipe.name, "full", 0, runs)
    run.read("result")
    test = held_out_data(recipe.dataset, "full", folder)
    scores = evaluate.logits(networks.load(recipe, run.weights), test.images, recipe)
    temperature = calibrate(recipe, runs, folder, scores, test).temperature
    labels = datasets.DATASETS[recipe.dataset].labels
    figures = {
        "confusion": confusion(scores, test, labels, recipe.name),
        "mistakes": mistakes(scores / temperature, test, labels, recipe.name),
        "reliability": reliability(scores, test.labels, temperature, recipe.name),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(run.folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def confusion(scores: torch.Tensor, test: Split, labels: tuple[str, ...], title: str) -> Figure:
    """Draw the confusion matrix. Only mistakes are coloured, because the diagonal is much larger."""
    counts = evaluate.confusion_counts(scores, test.labels)
    wrong = counts - torch.diag(counts.diag())
    figure = Figure(figsize=(0.62 * len(labels) + 1.6, 0.55 * len(labels) + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(wrong.numpy(), cmap="Reds")
    middle = max(1, int(wrong.max())) / 2
    for row, column in torch.cartesian_prod(torch.arange(len(labels)), torch.arange(len(labels))).tolist():
        colour = "white" if row != column and wrong[row, column] > middle else "#888888" if row == column else "black"
        if count := int(counts[row, column]):
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=0 if len(labels[0]) < 3 else 45)
    axes.set_yticks(range(len(labels)), labels)
    total = int(wrong.sum())
    axes.set(xlabel="prediction", ylabel="label", title=f"{title}: {total} of {len(test):,} wrong")
    return figure


def mistakes(scores: torch.Tensor, test: Split, labels: tuple[str, ...], title: str) -> Figure:
    """Draw the mistakes with the highest calibrated probability, highest first."""
    confidence, answers = scores.softmax(1).max(1)
    wrong = (answers != test.labels).nonzero()[:, 0]
    worst = wrong[confidence[wrong].argsort(descending=True)][:MAX_MISTAKES]
    columns = 8
    rows = max(1, -(-len(worst) // columns))
    figure = Figure(figsize=(1.25 * columns, 1.5 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{title}: {len(worst)} most confident of {len(wrong)} mistakes (label → prediction)")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index < len(worst):
            image = int(worst[index])
            axes.imshow(test.images[image].squeeze().numpy(), cmap="gray", vmin=0, vmax=255)
            text = f"{labels[test.labels[image]]} → {labels[answers[image]]}, {confidence[image]:.0%}"
            axes.set_title(text, fontsize=8)
    return figure


def reliability(scores: torch.Tensor, labels: torch.Tensor, temperature: float, title: str) -> Figure:
    """Draw accuracy against predicted probability, with T = 1 and with the card's T."""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    for axes, t in zip(figure.subplots(1, 2), (1.0, temperature), strict=True):
        confidence, answers = (scores.double() / t).softmax(1).max(1)
        error, bins = reliability_of(confidence.cpu().numpy(), (answers == labels).cpu().numpy(), BINS)
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        areas = [12 + 300 * each.images / len(labels) for each in bins]
        x, y = [each.probability for each in bins], [each.accuracy for each in bins]
        axes.scatter(x, y, s=areas, color="#1f6feb", alpha=0.7)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="probability", ylabel="accuracy", aspect="equal")
        axes.set_title(f"T = {t:g}: expected calibration error {error:.2%}", fontsize=10)
    figure.suptitle(f"{title}: reliability (area: number of images)")
    return figure


def draw(run: Run) -> None:
    """Draw loss, accuracy and learning rate by epoch into `curves.png` in the run's folder."""
    lines = run.metrics()
    epochs = [line["epoch"] for line in lines]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, quantity in ((left, "loss"), (middle, "accuracy")):
        for part, colour in (("train", "#888888"), ("validation", "#1f6feb")):
            if lines and f"{part}_{quantity}" in lines[0]:
                axes.plot(epochs, [line[f"{part}_{quantity}"] for line in lines], color=colour, label=part)
        axes.set(title=quantity, xlabel="epoch")
    if lines:  # a run that was stopped in its first epoch has no lines
        left.set_yscale("log")
    if (run.folder / "result.json").exists():
        result = run.read("result")
        label = f"{result['measured_on']}: {result['accuracy']:.2%}"
        middle.plot([result["epochs"]], [result["accuracy"]], "o", color="#d1242f", label=label)
    if middle.get_legend_handles_labels()[1]:
        middle.legend(loc="lower right")
    right.plot(epochs, [line["learning_rate"] for line in lines], color="#888888")
    right.set(title="learning rate at the epoch's end", xlabel="epoch")
    config = run.read("config")
    figure.suptitle(f"{config['name']}, {config['kind']} run, seed {config['seed']}")
    figure.savefig(run.folder / "curves.png", dpi=110)
