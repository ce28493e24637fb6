"""The picture of a run: loss, accuracy and learning rate by epoch, as `curves.png` in its folder."""

from train.runs import Run


def draw(run: Run) -> None:
    """Draw what metrics.jsonl and, where the run is finished, result.json say."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = run.metrics()
    epochs = [line["epoch"] for line in lines]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for axes, quantity in ((left, "loss"), (middle, "accuracy")):
        for part, colour in (("train", "#888888"), ("validation", "#1f6feb")):
            if lines and f"{part}_{quantity}" in lines[0]:
                axes.plot(epochs, [line[f"{part}_{quantity}"] for line in lines], color=colour, label=part)
        axes.set(title=quantity, xlabel="epoch")
    if lines:  # a run that was stopped in its first epoch has none
        left.set_yscale("log")
    if (run.folder / "result.json").exists():
        result = run.read("result")
        said = f"{result['measured_on']}: {result['accuracy']:.2%}"
        middle.plot([result["epochs"]], [result["accuracy"]], "o", color="#d1242f", label=said)
    if middle.get_legend_handles_labels()[1]:
        middle.legend(loc="lower right")
    right.plot(epochs, [line["learning_rate"] for line in lines], color="#888888")
    right.set(title="learning rate at the epoch's end", xlabel="epoch")
    config = run.read("config")
    figure.suptitle(f"{config['name']}, {config['kind']} run, seed {config['seed']}")
    figure.savefig(run.folder / "curves.png", dpi=110)
    plt.close(figure)
