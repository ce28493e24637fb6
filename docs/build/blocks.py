"""The generated tables that cog inserts into README.md and docs/**/*.md.

A page has a block `<!-- [[[cog from docs.build import blocks; cog.out(blocks.NAME()) ]]] -->`, which ends with
`<!-- [[[end]]] -->`; `python -m docs.build` writes the table between the two lines.
"""

import statistics

from docs.build import benchmarks
from docs.build.benchmarks import table
from train import robustness as robustness_results
from train.corruptions import KINDS
from zoo import registry
from zoo.card import Card


def shipped_cards() -> list[Card]:
    """The cards of the models in the wheel."""
    return [entry.card for entry in registry.scan() if entry.folder.parent == registry.SHIPPED]


def models() -> str:
    """A row per shipped model."""
    rows = []
    for card in shipped_cards():
        accuracy, seeds = card.accuracy, card.accuracy.seeds
        spread = f"{seeds.mean:.2%} ± {seeds.sd:.2%}" if seeds.sd is not None else f"{seeds.mean:.2%}"
        rows.append([
            f"[`{card.name}`](docs/models/{card.name}.md)",
            card.dataset.title,
            f"{card.parameters.keras:,}",
            f"{card.macs:,}",
            accuracy,
            f"{spread} (n = {seeds.n})",
            f"{card.file('model.onnx').size_bytes / 1000:.0f} KB",
        ])  # fmt: skip
    return table("model | data set | parameters | MACs | test accuracy, shipped seed | over seeds | file", rows)


def benchmark(name: str) -> str:
    """A table of `benchmarks.TABLES` from the saved run. Raises ValueError for an unknown name."""
    if name not in benchmarks.TABLES:
        raise ValueError(f"There is no benchmark table {name!r}. Choose from {', '.join(benchmarks.TABLES)}.")
    return benchmarks.TABLES[name](benchmarks.read())


def gpu() -> str:
    """The results of GPU machines."""
    return benchmarks.gpu()


def robustness(dataset: str) -> str:
    """Accuracy on corrupted test images: a column per model of the data set, a row per kind of corruption."""
    results = robustness_results.read()
    names = [card.name for card in shipped_cards() if card.dataset.name == dataset and card.name in results]
    rows = [
        ["not corrupted", *(f"{results[name]['clean']:.2%}" for name in names)],
        ["**mean over all kinds**", *(f"**{results[name]['mean']:.2%}**" for name in names)],
    ]
    for kind in KINDS[dataset]:
        accuracies = [results[name]["kinds"][kind] for name in names]
        rows.append([kind, *(f"{statistics.fmean(values):.1%} ({values[-1]:.1%})" for values in accuracies)])
    return table(" | ".join(["", *(f"`{name}`" for name in names)]), rows)
