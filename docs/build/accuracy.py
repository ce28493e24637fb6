"""The tables of docs/accuracy.md and docs/ablations.md: accuracy of the models, and what each step adds."""

from collections.abc import Mapping

from docs.build.benchmarks import table
from train.experiments import analysis
from train.experiments.analysis import Estimate, Results
from train.experiments.study import Step, Study
from zoo.card import Card

DIGITS = {"validation_accuracy": 2, "validation_loss": 1, "corrupted_accuracy": 1}  # the columns of an ablation
REFERENCES = ("notes", "mlperf")  # recipes of the same network that ours are compared with


def models(cards: list[Card], corrupted: Mapping[str, float]) -> str:
    """Return a table of the trained models; `corrupted` is the accuracy on corrupted images by model."""
    trained = [card for card in cards if not card.quantization]
    means = {card.name: 100 * card.trained.accuracy.seeds.mean for card in trained}
    rows = []
    for card in trained:
        seeds, mean = card.trained.accuracy.seeds, means[card.name]
        spread = "" if seeds.sd is None else f" ± {100 * seeds.sd:.2f}"
        references = [f"{card.architecture}.{tag}" for tag in REFERENCES] if card.name.endswith(".plus") else []
        rows.append([
            f"[`{card.name}`](models/{card.name}.md)",
            f"{card.parameters.keras:,}",
            f"{card.macs:,}",
            card.trained.training.epochs,
            f"{mean:.2f}{spread}% ({seeds.n})",
            next((f"{mean - means[name]:+.2f} points" for name in references if name in means), ""),
            f"{100 * corrupted[card.name]:.2f}%" if card.name in corrupted else "",
        ])  # fmt: skip
    head = "model | parameters, counted as in Keras | MACs | epochs | test accuracy, mean ± sd (n) | gain | corrupted"
    return table(head, rows)


def ablation(study: Study, results: Results) -> str:
    """Return the study's section: its text and a table with a row per step."""
    done = sum(len(seeds) for seeds in results.values())
    steps = [Step(study.steps[0].base, "", study.start), *study.steps]
    head = (
        "step | base | validation accuracy: mean ± sd (n), gain in points | validation loss in mnat, change | "
        "corrupted: accuracy, gain in points | kept"
    )
    parts = [
        f"## {study.title}",
        study.text,
        f"`python -m train experiments {study.name} --seeds {study.seeds}`: {done} of "
        f"{study.seeds * len(study.variants)} runs are done.",
        table(head, (_row(step, results) for step in steps)),
        *([study.note] if study.note else []),
    ]
    return "\n\n".join(parts)


def _row(step: Step, results: Results) -> list[str]:
    return [
        f"`{step.variant}`: {step.text}",
        f"`{step.base}`" if step.base else "",
        *(_value_and_gain(quantity, step, results) for quantity in DIGITS),
        {True: "yes", False: "no", None: "open" if step.base else ""}[step.kept],
    ]


def _value_and_gain(quantity: str, step: Step, results: Results) -> str:
    """Format the quantity of the step's variant and, on a second line, its difference from the base."""
    digits = DIGITS[quantity]
    own, base = (analysis.values(quantity, variant, results) for variant in (step.variant, step.base))
    if not own:
        return "not yet measured"
    estimate = Estimate.of(list(own.values()))
    spread = "" if estimate.sd is None else f" ± {estimate.sd:.{digits}f}"
    value = f"{estimate.mean:.{digits}f}{spread} ({estimate.n})"
    paired = [own[seed] - base[seed] for seed in own if seed in base]
    if not paired:
        return value
    gain = Estimate.of(paired)
    interval = "" if gain.sd is None else f" ± {gain.half_width:.{digits}f}"
    return f"{value}<br>{gain.mean:+.{digits}f}{interval} ({gain.n})"
