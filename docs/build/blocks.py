"""The generated tables that cog inserts into README.md and docs/**/*.md.

A page has a block `<!-- [[[cog from docs.build import blocks; cog.out(blocks.NAME()) ]]] -->`, which ends with
`<!-- [[[end]]] -->`; `python -m docs.build` writes the table between the two lines.
"""

import json
import statistics
from pathlib import Path

from docs.build import accuracy, benchmarks, experiments
from docs.build import training_speed as speed
from docs.build.benchmarks import table
from train import robustness as robustness_results
from train.corruptions import KINDS
from train.experiments import run, study
from train.experiments.study import Study
from zoo import registry
from zoo.card import Card


def shipped_cards() -> list[Card]:
    """The cards of the models in the wheel."""
    return [entry.card for entry in registry.scan() if entry.folder.parent == registry.SHIPPED_FOLDER]


def models() -> str:
    """A row per shipped model."""
    rows = []
    for card in shipped_cards():
        accuracy, seeds = card.trained.accuracy, card.trained.accuracy.seeds
        low, high = accuracy.interval95
        spread = f"{seeds.mean:.2%} ± {seeds.sd:.2%}" if seeds.sd is not None else f"{seeds.mean:.2%}"
        rows.append([
            f"[`{card.name}`](docs/models/{card.name}.md)",
            card.trained.dataset.title,
            f"{card.parameters.keras:,}",
            f"{card.macs:,}",
            f"{accuracy.value:.2%} ({low:.2%}–{high:.2%})",
            f"{spread} (n={seeds.n})",
            f"{card.file('model.onnx').size_bytes / 1000:.0f} KB",
        ])  # fmt: skip
    return table("model | dataset | parameters | MACs | test accuracy (shipped model) | mean over seeds | file", rows)


def default_models() -> str:
    """A row per bare name: the model that it means. Digits first, the highest accuracy first."""
    cards = sorted(
        (card for card in shipped_cards() if card.default),
        key=lambda card: (card.trained.dataset.name != "mnist", -card.trained.accuracy.value),
    )
    rows = []
    for card in cards:
        low, high = card.trained.accuracy.interval95
        rows.append([
            f"`{card.architecture}`",
            f"[`{card.name}`](models/{card.name}.md)",
            card.trained.dataset.title,
            f"{card.trained.accuracy.value:.2%} ({low:.2%}–{high:.2%})",
            f"{card.parameters.keras:,}",
            f"{card.file('model.onnx').size_bytes / 1000:.0f} KB",
        ])  # fmt: skip
    return table("name | means | dataset | test accuracy | parameters | file", rows)


def benchmark(name: str) -> str:
    """A table of `benchmarks.TABLES` from the saved run. Raises ValueError for an unknown name."""
    if name not in benchmarks.TABLES:
        raise ValueError(f"Unknown benchmark table {name!r}. Available: {', '.join(benchmarks.TABLES)}.")
    return benchmarks.TABLES[name](benchmarks.read())


def gpu() -> str:
    """The results of GPU machines."""
    return benchmarks.gpu()


def robustness(dataset: str) -> str:
    """Accuracy on corrupted test images: a column per model of the dataset, a row per kind of corruption."""
    results = robustness_results.read()
    names = [card.name for card in shipped_cards() if card.trained.dataset.name == dataset and card.name in results]
    rows = [
        ["not corrupted", *(f"{results[name]['clean']:.2%}" for name in names)],
        ["**mean over all kinds**", *(f"**{results[name]['mean']:.2%}**" for name in names)],
    ]
    for kind in KINDS[dataset]:
        accuracies = [results[name]["kinds"][kind] for name in names]
        rows.append([kind, *(f"{statistics.fmean(values):.1%} ({values[-1]:.1%})" for values in accuracies)])
    return table(" | ".join(["", *(f"`{name}`" for name in names)]), rows)


def studies() -> list[Study]:
    """Every study. Those with claims are experiments, the others ablations."""
    return [study.find(name) for name in study.NAMES]


def experiment_sections() -> str:
    """A section per experiment: claims, verdicts and variants."""
    return "\n\n".join(experiments.text(each, run.read(each)) for each in studies() if each.claims)


def ablations() -> str:
    """A section per ablation, with a row per step."""
    return "\n\n".join(accuracy.ablation(each, run.read(each)) for each in studies() if not each.claims)


def accuracies() -> str:
    """Accuracy over seeds, gain over the reference recipes and accuracy on corrupted images, a row per model."""
    return accuracy.models(
        shipped_cards(), {name: result["mean"] for name, result in robustness_results.read().items()}
    )


def own_images() -> str:
    """A row per set of `train.experiments.own_images`: means over its seeds."""
    path = Path(__file__).parents[1] / "experiments" / "own-images.json"
    rows = []
    for case in json.loads(path.read_text())["cases"].values():
        runs = list(case["runs"].values())
        mean = {key: statistics.fmean(run[key] for run in runs) for key in ("cpu_s", "wall_s", "load")}
        accuracies = [run["accuracy"] for run in runs]
        spread = f" ± {statistics.stdev(accuracies):.2%}" if len(runs) > 1 else ""
        epochs = sorted({run["epochs"] for run in runs})
        rows.append([
            case["title"],
            f"{runs[0]['test_images']:,}",
            f"{case['minutes']} min",
            f"{statistics.fmean(accuracies):.2%}{spread} (n={len(runs)})",
            f"{case['baseline']:.2%}",
            f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]}–{epochs[-1]}",
            ", ".join(str(threads) for threads in sorted({run["threads"] for run in runs})),
            f"{mean['cpu_s']:.0f} s",
            f"{mean['wall_s']:.0f} s",
            f"{mean['load']:.1f}",
        ])  # fmt: skip
    header = "images | test images | limit | `zoo fit`, mean ± sd | baseline | epochs | threads | CPU | wall | load"
    return table(header, rows)


def training_speed(name: str) -> str:
    """A table or sentence of `docs.build.training_speed.tables`."""
    return speed.tables(*speed.read())[name]


def known() -> str:
    """How well each model's output `known` tells the images of other sets: AUROC, and the share at the bound."""
    rows = []
    for card in shipped_cards():
        if card.known is None or card.known.test_known is None:
            continue
        sets = "; ".join(f"{one.name} {one.auroc:.3f} ({one.known:.1%})" for one in card.known.sets)
        rows.append([f"`{card.name}`", f"{card.known.test_known:.1%}", sets])
    return table("model | test images known | AUROC on other sets (share that is called known)", rows)
