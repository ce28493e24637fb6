"""The documentation written from cards and experiments: `python -m docs.build` renews it, a test compares."""

from pathlib import Path

from docs.build import accuracy, experiments, model_cards, training_speed
from train import robustness
from train.experiments import run, study
from zoo import registry
from zoo.card import Card

REPOSITORY = Path(__file__).parents[2]
MODEL_PAGES = REPOSITORY / "docs" / "models"
EXPERIMENTS = REPOSITORY / "docs" / "experiments.md"
ACCURACY = REPOSITORY / "docs" / "accuracy.md"
ROBUSTNESS = REPOSITORY / "docs" / "robustness.md"
TRAINING_SPEED = REPOSITORY / "docs" / "training-speed.md"
BEGIN, END = "<!-- models: written by `python -m docs.build` -->", "<!-- end of models -->"


def model_table(cards: list[Card]) -> str:
    """Markdown: one row a model."""
    lines = [
        "| model | data set | parameters | MACs | test accuracy, shipped seed | over seeds | file |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        seeds = card.accuracy.seeds
        spread = f"{seeds.mean:.2%} ± {seeds.sd:.2%}" if seeds.sd is not None else f"{seeds.mean:.2%}"
        lines.append(
            f"| [`{card.name}`](docs/models/{card.name}.md) | {card.dataset.title} "
            f"| {card.parameters.keras:,} | {card.macs:,} "
            f"| {card.accuracy} | {spread} (n = {seeds.n}) "
            f"| {card.file('model.onnx').size_bytes / 1000:.0f} KB |"
        )
    return "\n".join(lines)


def renewed(page: str, block: str) -> str:
    """The page with `block` between its markers. Raises ValueError where the markers are not there."""
    before, _, rest = page.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"The page has no block between {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def experiments_page() -> str:
    """Every study, one after the other."""
    head = "# Experiments\n\nWritten by `python -m docs.build` from the results in [`experiments/`](experiments).\n"
    studies = [found for found in map(study.find, study.NAMES) if found.claims]
    return "\n".join([head, *(experiments.text(found, run.read(found)) for found in studies)])


def accuracy_page(cards: list[Card]) -> str:
    """The models' accuracies, and every ablation."""
    ablations = [found for found in map(study.find, study.NAMES) if found.steps]
    corrupted = {name: result["mean"] for name, result in robustness.read().items()}
    return accuracy.page(cards, [(ablation, run.read(ablation)) for ablation in ablations], corrupted)


def draw_studies() -> list[Path]:
    """Draw the pictures of the experiments' page; returns their paths."""
    run.RESULTS.mkdir(exist_ok=True)
    studies = [found for found in map(study.find, study.NAMES) if found.claims]
    return [path for found in studies for path in experiments.draw(found, run.read(found), run.RESULTS)]


def pages() -> dict[Path, str]:
    """Every page that is written from cards and experiments, as it should be."""
    shipped = [entry.card for entry in registry.scan() if entry.folder.parent == registry.SHIPPED]
    readme = REPOSITORY / "README.md"
    return {
        EXPERIMENTS: experiments_page(),
        ACCURACY: accuracy_page(shipped),
        ROBUSTNESS: robustness.page(shipped, robustness.read()),
        TRAINING_SPEED: training_speed.page(*training_speed.read()),
        readme: renewed(readme.read_text(encoding="utf-8"), model_table(shipped)),
        **{MODEL_PAGES / f"{card.name}.md": model_cards.text(card) for card in shipped},
    }
